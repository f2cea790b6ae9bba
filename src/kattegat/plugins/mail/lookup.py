"""DNS questions about a domain's mail: asked once each, kept as evidence, and read back as `questions.Answer`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import msgspec

from kattegat.plugin import Net, Part
from kattegat.plugins.dns import message
from kattegat.plugins.mail.questions import Answer, Question, join_texts

LONGEST_CHAIN = 16
MOST_UNANSWERED = 5
"""Questions of an SPF policy that may stay unanswered before no more are asked; each can take ten seconds."""

Key = tuple[str, str]
"""(name in lower case without the final dot, record type)."""


class Reading(msgspec.Struct, frozen=True):
    """What a recorded reply says. `problem` is "" or why it says nothing.

    `exists`: the answer is not NXDOMAIN. `alias`: where the first CNAME leads, or "". `texts`: of TXT records;
    `names`: addresses; `exchanges`: (preference, host) of MX records, host "" for the root, most preferred first.
    """

    problem: str = ""
    rcode: str = ""
    exists: bool = True
    alias: str = ""
    texts: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    exchanges: tuple[tuple[int, str], ...] = ()

    def answer(self) -> Answer:
        """The same as the evaluation of SPF wants it."""
        if self.problem:
            return Answer("servfail" if self.rcode else "timeout")
        if not self.exists:
            return Answer("nxdomain")
        names = self.names or tuple(host for _, host in self.exchanges)
        return Answer("ok" if names or self.texts else "nodata", names, self.texts)


def read(part: Part) -> Reading:
    """What a recorded reply says; never raises. A reply with one record that can't be read says nothing: what is
    missing from it could not be told from what is not there.
    """
    problem = part.notes.get("problem", "")
    if problem:
        return Reading(str(problem))
    try:
        reply = dns.message.from_wire(part.content, ignore_trailing=True)
        wanted = dns.rdatatype.from_text(str(part.notes.get("rdtype", "")))
        return _read(reply, wanted)
    except (dns.exception.DNSException, ValueError, IndexError) as error:
        return Reading(f"the answer can't be read ({type(error).__name__})", "unreadable")


def _read(reply: dns.message.Message, wanted: dns.rdatatype.RdataType) -> Reading:
    rcode = dns.rcode.to_text(reply.rcode())
    if rcode not in ("NOERROR", "NXDOMAIN"):
        return Reading(f"the DNS server answered {rcode}", rcode)
    if not reply.question:
        return Reading("the answer repeats no question", "unreadable")
    current, alias = reply.question[0].name, ""
    for _ in range(LONGEST_CHAIN):
        link = reply.get_rrset(reply.answer, current, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if not link:
            break
        current = link[0].target
        alias = alias or message.text(current)
    found = reply.get_rrset(reply.answer, current, dns.rdataclass.IN, wanted) or ()
    texts: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    exchanges: tuple[tuple[int, str], ...] = ()
    if wanted == dns.rdatatype.TXT:
        texts = tuple(sorted(join_texts(rdata.strings for rdata in found)))
    elif wanted == dns.rdatatype.MX:
        exchanges = tuple(sorted((int(rdata.preference), _host(rdata.exchange)) for rdata in found))
    elif wanted in (dns.rdatatype.A, dns.rdatatype.AAAA):
        names = tuple(sorted(str(rdata.address) for rdata in found))
    return Reading("", rcode, rcode != "NXDOMAIN", alias, texts, names, exchanges)


def _host(name: dns.name.Name) -> str:
    """A name as the questions have it: labels joined by ".", no escapes, "" for the root."""
    try:
        return ".".join(label.decode("ascii") for label in name.labels if label).lower()
    except UnicodeDecodeError:
        return message.text(name)


def recorded(parts: Iterable[Part]) -> dict[Key, Reading]:
    """The readings of recorded replies by what was asked."""
    return {(str(part.notes.get("of", "")), str(part.notes.get("rdtype", ""))): read(part) for part in parts}


class Asker:
    """Asks each question once through the net and keeps the replies as parts, in the order of asking."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._parts: dict[Key, Part] = {}
        self._unanswered = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """The evidence so far."""
        return tuple(self._parts.values())

    @property
    def readings(self) -> dict[Key, Reading]:
        """What the replies so far say."""
        return recorded(self.parts)

    async def ask(self, name: str, rdtype: str) -> Reading:
        """The answer to one question; a reply that did not come is a `Reading` with a problem."""
        return (await self.ask_all([(name, rdtype)]))[name, rdtype]

    async def ask_all(self, keys: Iterable[Key]) -> Mapping[Key, Reading]:
        """The answers to several questions, asked side by side."""
        wanted = list(dict.fromkeys(keys))
        new = [key for key in wanted if key not in self._parts]
        self._parts.update(zip(new, await asyncio.gather(*(self._ask(key) for key in new)), strict=True))
        return {key: read(self._parts[key]) for key in wanted}

    async def answer(self, question: Question) -> Answer:
        """The answer to a question of an SPF policy."""
        key = (question.name, question.rdtype)
        if key not in self._parts and self._unanswered >= MOST_UNANSWERED:
            reason = f"it was not asked, since {self._unanswered} look-ups of the policy got no answer"
            self._parts[key] = Part("dns", b"", _notes(key, {"problem": reason}))
        answer = (await self.ask(*key)).answer()
        self._unanswered += answer.failed
        return answer

    async def _ask(self, key: Key) -> Part:
        try:
            # The name may hold characters that the syntax of a zone file escapes.
            labels = [label.encode("ascii") for label in key[0].split(".")]
            written = dns.name.Name([*labels, b""]).to_text()
        except (dns.exception.DNSException, UnicodeEncodeError) as error:
            return Part("dns", b"", _notes(key, {"problem": f"DNS can't hold the name ({type(error).__name__})"}))
        reply = message.part(await self._net.dns(written, key[1]))
        return Part("dns", reply.content, _notes(key, reply.notes))


def _notes(key: Key, notes: Mapping[str, Any]) -> dict[str, Any]:
    return {**notes, "of": key[0], "rdtype": key[1]}

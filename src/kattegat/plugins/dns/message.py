"""DNS messages as recorded: read tolerantly, one bad record never hides the others."""

from __future__ import annotations

from collections.abc import Iterable

import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import msgspec
from publicsuffixlist import PublicSuffixList

from kattegat.errors import KeyFormatError
from kattegat.plugin import DnsReply, Hostname, Part

_SUFFIXES: list[PublicSuffixList] = []
# A chain longer than this is a loop or an attack; resolvers stop at about ten.
MOST_ALIASES = 16
# Their data are names and numbers. Names compare without case, and servers may change it from answer to answer.
CASELESS = frozenset({"NS", "MX", "SOA", "SRV", "CNAME", "PTR"})


class Answer(msgspec.Struct, frozen=True):
    """What a message says of its question. `problem` is "" or why it says nothing.

    `aliases` is the chain of CNAME targets from the name asked, in order; `records` are those at its end, in
    presentation form (RFC 1035 section 5), sorted, names in lower case; `ttl` in seconds.
    """

    problem: str = ""
    rcode: str = ""
    aliases: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    ttl: int | None = None
    authoritative: bool = False


def part(reply: DnsReply) -> Part:
    """A reply as a part of evidence."""
    notes = {"name": reply.name, "rdtype": reply.rdtype, "server": reply.server, "problem": reply.problem}
    return Part("dns", reply.wire, notes)


def read(recorded: Part) -> Answer:
    """What a recorded reply says; never raises."""
    problem = str(recorded.notes.get("problem") or "")
    if problem:
        return Answer(problem)
    try:
        return _read(recorded.content, *asked(recorded))
    except Exception as error:  # whatever hostile bytes made the reader stumble, they are no message
        return Answer(f"the answer can't be read ({type(error).__name__})")


def asked(recorded: Part) -> tuple[str, str]:
    """The name and type that a recorded reply is about."""
    return str(recorded.notes.get("name", "")), str(recorded.notes.get("rdtype", ""))


def _read(wire: bytes, asked_name: str, rdtype: str) -> Answer:
    message = dns.message.from_wire(wire, ignore_trailing=True, continue_on_error=True)
    wanted = dns.rdatatype.from_text(rdtype)
    name = dns.name.from_text(asked_name)
    rcode = dns.rcode.to_text(message.rcode())
    if rcode not in ("NOERROR", "NXDOMAIN"):
        return Answer(f"the DNS server answered {rcode}", rcode)
    aliases: list[str] = []
    current = name
    for _ in range(MOST_ALIASES):
        target = _alias(message.answer, current)
        if target is None:
            break
        aliases.append(text(target))
        current = target
    found = [
        rrset
        for rrset in message.answer
        if rrset.name == current and rrset.rdtype == wanted and rrset.rdclass == dns.rdataclass.IN
    ]
    records = tuple(sorted({_record(rdata, rdtype) for rrset in found for rdata in rrset}))
    errors = getattr(message, "errors", [])
    if errors and not records:
        # The one record that can't be read may be the one that was asked for.
        return Answer(f"a record in the answer can't be read ({type(errors[0].exception).__name__})")
    ttl = min((rrset.ttl for rrset in found), default=None)
    authoritative = bool(message.flags & 0x0400)
    return Answer("", rcode, tuple(aliases), records, ttl, authoritative)


def _alias(answer: Iterable[dns.rrset.RRset], name: dns.name.Name) -> dns.name.Name | None:
    for rrset in answer:
        if rrset.name == name and rrset.rdtype == dns.rdatatype.CNAME and len(rrset):
            target: dns.name.Name = rrset[0].target
            return target
    return None


def _record(rdata: object, rdtype: str) -> str:
    shown = str(rdata.to_text())  # type: ignore[attr-defined]
    return shown.lower() if rdtype in CASELESS else shown


def text(name: dns.name.Name) -> str:
    """A name as text, lower case, without the trailing dot ("." stays)."""
    return name.to_text(omit_final_dot=True).lower()


def hostname(shown: str) -> Hostname | None:
    """The asset of a name in an answer, or None for the root and for names that no host has."""
    bare = shown.strip().rstrip(".")
    if not bare:
        return None
    try:
        return Hostname(bare)
    except KeyFormatError:
        return None


def registrable(name: str) -> str | None:
    """The domain that somebody registered to have this name (public suffix list, private section too), or None."""
    if not _SUFFIXES:
        _SUFFIXES.append(PublicSuffixList())
    bare = name.removeprefix("*.")
    return _SUFFIXES[0].privatesuffix(bare) or None


def is_registrable(host: Hostname) -> bool:
    """Whether the name is itself such a domain: what checks of a whole domain apply to."""
    return registrable(host.name) == host.name

"""The scanner: one conversation for each host key of a server, none of which gets as far as logging in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from kattegat.plugin import (
    Evidence,
    Fact,
    Found,
    Known,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Service,
    days,
    scanner,
)
from kattegat.plugins.ports import Banner
from kattegat.plugins.shared.converse import Line, converse, os_error
from kattegat.plugins.shared.exchange import Conversation, WireError, decode, encode
from kattegat.plugins.ssh.facts import SshAlgorithms, SshHostKey, SshServer
from kattegat.plugins.ssh.probe import SshProfile, analyse, probe
from kattegat.plugins.ssh.wire import ServerReader

__all__ = ["SshScanner"]

USUAL_PORTS = frozenset({22, 222, 2022, 2200, 2222, 8022, 10022, 22022, 22222})
WEB_PORTS = frozenset({80, 443, 8080, 8443})
STEP_SECONDS = 15.0
SCAN_SECONDS = 100.0
"""After these no further connection is made, so that what was learnt is not lost to the scan's own limit."""
PAUSE_SECONDS = 0.1
# RFC 4251 section 6 allows 64 characters; OpenSSH with everything switched on lists fewer than 30 of a kind.
LONGEST_NAME, MOST_NAMES = 64, 200
LONGEST_TEXT = 300
TURNED_AWAY = (b"Exceeded MaxStartups", b"Not allowed at this time")  # sshd of OpenSSH, in place of an identification
# How other protocols begin, also where they go on waiting: HTTP, FTP and SMTP, IMAP, POP3, Redis, TLS, telnet.
OTHERS = (b"HTTP/", b"220", b"* OK", b"+OK", b"-ERR", b"\x15\x03", b"\xff\xfb", b"\xff\xfd")
KINDS = (SshServer, SshAlgorithms, SshHostKey)
LISTS = {
    "kex": "kex",
    "host_key": "host_key_algorithms",
    **{name: name for name in SshProfile.__struct_fields__ if name.endswith(("_c2s", "_s2c"))},
}


def may_speak_ssh(service: Service) -> bool:
    """TCP, and none of the web's ports, where the client speaks first."""
    return service.protocol == "tcp" and service.port not in WEB_PORTS


@scanner(
    "ssh", about=Service, clearance=1, every=days(3), yields=[SshServer, SshAlgorithms, SshHostKey], uses=[Banner],
    applies=may_speak_ssh,
)  # fmt: skip
class SshScanner:
    """Reads an SSH server's version, algorithms and host keys, without logging in.

    It connects to the usual ports of SSH, and to others only when their greeting is known to be SSH's.
    """

    async def fetch(self, service: Service, net: Net) -> Evidence:
        if service.port not in USUAL_PORTS and not _greets_as_ssh(net.known.get("Banner", ())):
            return Evidence()
        problems: list[str] = []
        until = time.monotonic() + SCAN_SECONDS

        async def connect() -> Line:
            if time.monotonic() >= until:
                raise TimeoutError
            try:
                return Line(await net.connect(service.address.address, service.port))
            except NotReached as problem:
                problems.append(str(problem))
                raise os_error(problem) from problem

        conversation = await converse(probe(), connect, seconds=STEP_SECONDS, pause=PAUSE_SECONDS)
        if conversation[0].ended == "unreachable":
            where = f"{service.address.address} port {service.port}"
            raise NotReached(problems[0] if problems else f"{where} was not connected to in {STEP_SECONDS:g} seconds.")
        return Evidence((Part("conversation", encode(conversation)),))

    def parse(self, service: Service, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        if not evidence.parts:
            return
        part = evidence.first("conversation")
        try:
            if part is None:
                raise WireError("conversation", "there is none")
            conversation = decode(part.content)
            profile = analyse(conversation)
        except WireError as error:
            yield from _nothing(error.reason, *KINDS)
            return
        if profile.protocol is None:
            if not _other_protocol(conversation):
                yield from _nothing(_why(profile, "identification"), *KINDS)
            return
        fact = SshServer(
            protocol=profile.protocol,
            software=_shown(profile.software or ""),
            comments=_shown(profile.comments or ""),
            problems=[_shown(problem) for problem in profile.problems],
        )
        yield Found(service, fact)
        yield from _algorithms(service, profile)


def _greets_as_ssh(banners: Sequence[Known[Any]]) -> bool:
    return any(known.fact.text.startswith("SSH-") for known in banners)


def _nothing(reason: str, *kinds: type[Fact]) -> Iterator[NotMeasured]:
    for kind in kinds:
        yield NotMeasured(kind.kind, reason)


def _why(profile: SshProfile, what: str) -> str:
    return next((_shown(gap.reason) for gap in profile.not_measured if gap.what == what), f"the {what} was not read")


def _other_protocol(conversation: Conversation) -> bool:
    """Whether what answered is surely no SSH: it said something else. Silence, and being turned away, say nothing."""
    if not conversation:
        return False
    first = conversation[0]
    said = first.received
    if not said or said.startswith((b"SSH-", *TURNED_AWAY)):
        return False
    if said.startswith(OTHERS):
        return True
    # Lines may come ahead of an identification, so one that is only late must not be taken for another protocol.
    reader = ServerReader()
    reader.feed(said)
    return reader.error is not None or first.ended in ("closed", "reset", "limit")


def _algorithms(service: Service, profile: SshProfile) -> Iterator[Found | NotMeasured]:
    lists = {name: list(getattr(profile, source)) for name, source in LISTS.items()}
    if not any(lists.values()):
        yield from _nothing(_why(profile, "algorithms"), SshAlgorithms, SshHostKey)
        return
    if reason := _too_odd(lists):
        yield from _nothing(reason, SshAlgorithms)
    else:
        yield Found(service, SshAlgorithms(**lists))
    seen: set[str] = set()
    for key in profile.host_keys:
        type_ = _shown(key.type)
        item = f"{type_} {key.fingerprint}" if type_ in seen else type_
        seen.add(type_)
        fact = SshHostKey(type=type_, bits=key.bits, fingerprint=key.fingerprint, proven=key.proven)
        yield Found(service, fact, item)
    for gap in profile.not_measured[:MOST_NAMES]:
        if gap.what.startswith("host key "):
            name = gap.what.removeprefix("host key ")
            yield NotMeasured("SshHostKey", _shown(gap.reason), _shown(key_type(name)))


def key_type(algorithm: str) -> str:
    """The type of the key that signs with this host key algorithm (RFC 8332 section 3)."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _too_odd(lists: dict[str, list[str]]) -> str:
    """Why lists of algorithms are none that an SSH server would send; "" when they are fine."""
    if any(len(names) > MOST_NAMES for names in lists.values()):
        return f"the server lists more than {MOST_NAMES} algorithms of one kind"
    if any(len(name) > LONGEST_NAME or not name.isprintable() for names in lists.values() for name in names):
        return "the server lists names that no algorithm can have (RFC 4251 section 6)"
    return ""


def _shown(text: str) -> str:
    """Text of the server, shortened, without control characters: it goes into reports and terminals."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:LONGEST_TEXT])

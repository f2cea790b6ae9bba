"""The scanner: asks for every link of the chain, and validates what it was told as of that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import dns.exception
import dns.name

from kattegat.plugin import (
    Evidence,
    Found,
    Hostname,
    Net,
    NotMeasured,
    NotReached,
    Part,
    hours,
    scanner,
)
from kattegat.plugins.dns import message
from kattegat.plugins.dnssec import anchor, replies
from kattegat.plugins.dnssec.chain import Chain, questions
from kattegat.plugins.dnssec.facts import DnssecStatus
from kattegat.plugins.dnssec.signatures import UndecidableError

__all__ = ["DnssecScanner"]


@scanner(
    "dnssec", about=Hostname, clearance=1, every=hours(12), yields=[DnssecStatus], applies=message.is_registrable,
)  # fmt: skip
class DnssecScanner:
    """Asks the resolver for the DS and DNSKEY records from the trust anchor down, and validates them and the domain's.

    Where trust begins is the install's setting KAT_TRUST_ANCHOR, by default the root's published keys.
    """

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        trusted = str(net.options.get("trust_anchor") or "") or anchor.ROOT
        name = dns.name.from_text(host.name)
        try:
            owner = anchor.closest(trusted, name)[0].name
        except anchor.AnchorError as problem:
            raise NotReached(str(problem)) from None
        asked_at = datetime.now(UTC).isoformat(timespec="seconds")
        asked = questions(owner, name)
        found = await asyncio.gather(*(net.dns(message.text(one), rdtype, dnssec=True) for one, rdtype in asked))
        if all(reply.problem for reply in found):
            raise NotReached(found[0].problem)
        parts = [Part("anchor", trusted.encode(), {"asked_at": asked_at})]
        return Evidence((*parts, *(message.part(reply) for reply in found)))

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        try:
            status = _validate(host, evidence)
        except UndecidableError as gap:
            yield NotMeasured("DnssecStatus", str(gap), about=host)
            return
        if status is not None:
            yield Found(host, status)


def _validate(host: Hostname, evidence: Evidence) -> DnssecStatus | None:
    recorded = evidence.first("anchor")
    if recorded is None:
        raise UndecidableError("the evidence names no trust anchor")
    name = dns.name.from_text(host.name)
    try:
        now = datetime.fromisoformat(str(recorded.notes.get("asked_at", ""))).timestamp()
        trusted = anchor.closest(recorded.content.decode("utf-8"), name)
    except (anchor.AnchorError, ValueError, OverflowError, OSError) as problem:
        raise UndecidableError(str(problem)) from None
    told: dict[tuple[dns.name.Name, str], replies.Reply] = {}
    for part in evidence.named("dns"):
        try:
            about = dns.name.from_text(str(part.notes.get("name", "")))
        except (dns.exception.DNSException, ValueError):
            continue
        told[about, str(part.notes.get("rdtype", ""))] = replies.read(part)
    return Chain(trusted, name, told, now).validate()

"""Scanner: every TLS version, cipher suite and group that a website offers, found out by many handshakes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kattegat.plugin import Evidence, Found, Net, NotMeasured, NotReached, Option, Website, days, scanner
from kattegat.plugins.shared.exchange import WireError
from kattegat.plugins.tls import reach
from kattegat.plugins.tls.facts import OfferedVersion, TlsProtocols
from kattegat.plugins.tls.handshake import is_https
from kattegat.plugins.tls.probe import probe
from kattegat.plugins.tls.profile import TlsProfile, analyse

__all__ = ["TlsProtocolsScanner"]

PROBE_SECONDS = 240.0
"""For all addresses together: less than a scan may take, so that what was learnt until then is handed in."""


@scanner(
    "tls-protocols",
    about=Website,
    clearance=2,
    every=days(7),
    yields=[TlsProtocols],
    options=[
        Option("all_addresses", False, "Whether up to four addresses are tried in place of the first that answers."),
        Option("pause", 0.02, "Seconds between two connections, to spare the server."),
    ],
    applies=is_https,
)
class TlsProtocolsScanner:
    """Makes some 40 handshakes, more with a server that has many suites, to find all that it offers."""

    async def fetch(self, site: Website, net: Net) -> Evidence:
        found = await reach.addresses(site, net)
        every = bool(net.options.get("all_addresses"))
        pause = min(max(float(net.options.get("pause", 0.0)), 0.0), 10.0)
        parts, problems, answered = [], [], False
        until = time.monotonic() + PROBE_SECONDS
        for at, address in enumerate(found):
            share = (until - time.monotonic()) / (len(found) - at if every else 1)
            plan = reach.bounded(probe(site.host), share)
            talk = await reach.talk(net, address, site.port, plan, pause=pause)
            parts.append(talk.part())
            if problem := _problem(talk, analyse(talk.conversation)):
                problems.append(problem)
                continue
            answered = True
            if not every:
                # One address speaks for the site; those before it that kept silent are not missed.
                return Evidence((parts[-1],))
        if not answered:
            raise NotReached(f"{site.host}: {problems[0]}.")
        return Evidence(tuple(parts))

    def parse(self, site: Website, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        for part in evidence.named(reach.PART):
            address = str(part.notes.get("address", ""))
            try:
                talk = reach.read(part)
                profile = analyse(talk.conversation)
            except WireError as error:
                yield NotMeasured("TlsProtocols", str(error), address, site)
                continue
            if problem := _problem(talk, profile):
                yield NotMeasured("TlsProtocols", problem, address, site)
            else:
                yield Found(site, _fact(talk.address, profile), talk.address)


def _problem(talk: reach.Talk, profile: TlsProfile) -> str:
    """Why the conversation tells nothing, or ""."""
    if profile.versions:
        return ""
    if talk.problem:
        return talk.problem.rstrip(".")
    return next((missing.reason for missing in profile.not_measured), "no version of TLS was agreed on").rstrip(".")


def _fact(address: str, profile: TlsProfile) -> TlsProtocols:
    return TlsProtocols(
        address=address,
        versions=[
            OfferedVersion(entry.version, list(entry.suites), entry.preference, list(entry.groups))
            for entry in profile.versions
        ],
        refused=list(profile.refused),
        unmeasured={missing.what: missing.reason for missing in profile.not_measured},
        fallback_scsv=profile.fallback_scsv,
        compression=profile.compression,
        secure_renegotiation=profile.secure_renegotiation,
        extended_master_secret=profile.extended_master_secret,
        dh_bits=list(profile.dh_bits),
        schemes=list(profile.schemes),
        problems=list(profile.problems[:20]),
    )

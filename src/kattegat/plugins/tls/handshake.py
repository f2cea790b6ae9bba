"""Scanner: one visitor's handshake with each address of a website, and the certificate that it shows."""

from __future__ import annotations

import asyncio
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kattegat.plugin import (
    Certificate,
    Evidence,
    Found,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Website,
    days,
    scanner,
)
from kattegat.plugins.shared.exchange import WireError
from kattegat.plugins.tls import certificate as x509facts
from kattegat.plugins.tls import reach, trust
from kattegat.plugins.tls.facts import CertificateDetails, TlsHandshake
from kattegat.plugins.tls.probe import certificate_probe
from kattegat.plugins.tls.profile import Handshake, analyse_certificate
from kattegat.plugins.tls.suites import by_name

__all__ = ["TlsCertificateScanner", "is_https"]

MOST_NAMES = 200
MOST_ROOTS = 64
ROOTS = "roots"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def is_https(site: Website) -> bool:
    """Whether the site is visited over TLS."""
    return site.scheme == "https"


@scanner(
    "tls-certificate", about=Website, clearance=1, every=days(1), yields=[TlsHandshake, CertificateDetails],
    applies=is_https,
)  # fmt: skip
class TlsCertificateScanner:
    """Makes one handshake as a visitor does with up to four addresses of a website, and reads the certificates."""

    async def fetch(self, site: Website, net: Net) -> Evidence:
        found = await reach.addresses(site, net)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(reach.talk(net, address, site.port, certificate_probe(site.host)))
                for address in found
            ]
        talks = [task.result() for task in tasks]
        shown = [analyse_certificate(talk.conversation) for talk in talks]
        problems = [_problem(talk, handshake) for talk, handshake in zip(talks, shown, strict=True)]
        if all(problems):
            raise NotReached(f"{site.host}: {problems[0]}.")
        chains = [handshake.chain_der for handshake in shown]
        anchors = await asyncio.to_thread(roots_part, chains, str(net.options.get("ca_file") or ""))
        return Evidence((*(talk.part() for talk in talks), anchors))

    def parse(self, site: Website, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        anchors = evidence.first(ROOTS)
        seen: set[str] = set()
        for part in evidence.named(reach.PART):
            address = str(part.notes.get("address", ""))
            try:
                talk = reach.read(part)
                handshake = analyse_certificate(talk.conversation)
            except WireError as error:
                yield NotMeasured("TlsHandshake", str(error), address, site)
                continue
            if problem := _problem(talk, handshake):
                yield NotMeasured("TlsHandshake", problem, address, site)
                continue
            yield from _found(site, talk, handshake, anchors, seen)


def _problem(talk: reach.Talk, handshake: Handshake) -> str:
    """Why the handshake tells nothing of the certificate, or "" (also where the server chose to send none)."""
    for missing in handshake.not_measured:
        if missing.what == "handshake":
            return talk.problem.rstrip(".") or missing.reason
        suite = by_name().get(handshake.suite or "")
        if missing.what == "certificate" and (suite is None or suite.authentication != "anon"):
            return missing.reason
    return ""


def _found(
    site: Website, talk: reach.Talk, handshake: Handshake, anchors: Part | None, seen: set[str]
) -> Iterator[Found | NotMeasured]:
    chain = [hashlib.sha256(der).hexdigest() for der in handshake.chain_der]
    facts, unreadable = None, ""
    if chain:
        try:
            facts = x509facts.read_certificate(handshake.chain_der[0])
        except WireError as error:
            unreadable = str(error)
    verdict = chain_trust(handshake.chain_der, facts, talk.at, anchors)
    names = [*facts.dns_names, *facts.ip_names][:MOST_NAMES] if facts else []
    fact = TlsHandshake(
        address=talk.address,
        version=handshake.version,
        suite=handshake.suite,
        group=handshake.group,
        alpn=handshake.alpn,
        leaf=chain[0] if chain else "",
        chain=chain,
        trust=verdict[0],
        trust_reason=verdict[1],
        roots=str(anchors.notes.get("kind", "")) if anchors else "",
        name_matches=x509facts.matches(site.host, facts) if facts else None,
        names=names,
        common_name_only=bool(facts and facts.common_name_only),
        ocsp_stapled=handshake.ocsp_stapled,
        problems=list(handshake.problems[:20]),
    )
    links = (Link("presents", site, Certificate(chain[0])),) if chain else ()
    yield Found(site, fact, talk.address, links)
    if not chain or chain[0] in seen:
        return
    seen.add(chain[0])
    if facts is None:
        yield NotMeasured("CertificateDetails", unreadable, about=Certificate(chain[0]))
    else:
        yield Found(Certificate(chain[0]), details(facts))


def details(facts: x509facts.Certificate) -> CertificateDetails:
    """The fact of a certificate that was read."""
    return CertificateDetails(
        subject=facts.subject,
        issuer=facts.issuer,
        serial=facts.serial,
        not_before=facts.not_before,
        not_after=facts.not_after,
        dns_names=list(facts.dns_names[:MOST_NAMES]),
        ip_names=list(facts.ip_names[:MOST_NAMES]),
        common_names=list(facts.common_names[:MOST_NAMES]),
        key_type=facts.key_type,
        key_bits=facts.key_bits,
        curve=facts.curve,
        signature_algorithm=facts.signature_algorithm,
        signature_hash=facts.signature_hash,
        is_ca=facts.is_ca,
        server_auth=facts.server_auth,
        self_signed=facts.self_signed,
        sct_count=facts.sct_count,
        ocsp_urls=list(facts.ocsp_urls[:20]),
        issuer_urls=list(facts.issuer_urls[:20]),
        crl_urls=list(facts.crl_urls[:20]),
        problems=list(facts.problems[:20]),
    )


# --- trust -----------------------------------------------------------------------------------------------------------


def roots_part(chains: Iterable[tuple[bytes, ...]], ca_file: str) -> Part:
    """The trusted roots that could have issued one of the chains, as PEM, so that the verdict can be repeated later.

    `ca_file` names the install's own roots; "" means those of the system that scans. No other root can end a path,
    since a path is followed from issuer to subject.
    """
    notes = {"kind": "own" if ca_file else "system", "problem": ""}
    issuers: set[x509.Name] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for der in {der for chain in chains for der in chain}:
            try:
                issuers.add(x509facts.load(der).issuer)
            except (WireError, ValueError):
                continue
        try:
            roots = trust.load_roots(Path(ca_file).expanduser() if ca_file else None)
        except WireError as error:
            return Part(ROOTS, b"", notes | {"problem": error.reason})
        fitting = [root for root in roots if root.subject in issuers][:MOST_ROOTS]
    return Part(ROOTS, b"".join(root.public_bytes(Encoding.PEM) for root in fitting), notes)


def _read_roots(part: Part) -> tuple[x509.Certificate, ...]:
    roots = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in _PEM.findall(part.content)[:MOST_ROOTS]:
            try:
                roots.append(x509.load_pem_x509_certificate(block))
            except ValueError:
                continue
    return tuple(roots)


def chain_trust(
    chain: tuple[bytes, ...], facts: x509facts.Certificate | None, at: datetime, anchors: Part | None
) -> tuple[str, str]:
    """`trust` and `trust_reason` of a `TlsHandshake`, by the roots that `roots_part` recorded."""
    if chain and anchors is None:
        return "unknown", "The roots were not recorded."
    if chain and anchors is not None and (problem := str(anchors.notes.get("problem", ""))):
        return "unknown", f"There were no trusted roots to go by: {problem}."
    # Whether the certificate itself has expired is judged apart and changes with time, so the chain is judged at a
    # moment at which it was valid.
    if facts is not None and facts.not_before is not None and facts.not_after is not None:
        at = min(max(at, facts.not_before), facts.not_after)
    verdict = trust.verify_chain(chain, at, _read_roots(anchors) if anchors else ())
    return verdict.trust, verdict.reason

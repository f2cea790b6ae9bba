"""Signatures and keys: does a set of records hold (RFC 4035 section 5.3), which keys does a parent vouch for (5.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import cryptography.exceptions
import dns.dnssec
import dns.exception
import dns.name
import dns.rdataset
import dns.rdatatype
import msgspec
from dns.dnssectypes import Algorithm, DSDigest

from kattegat.plugins.dnssec.facts import DnssecDigest, DnssecKey
from kattegat.plugins.dnssec.replies import Signed

# What validators must or should support (RFC 8624 sections 3.1 and 3.3); a zone with none of these is insecure.
ALGORITHMS = frozenset({
    Algorithm.RSASHA1, Algorithm.RSASHA1NSEC3SHA1, Algorithm.RSASHA256, Algorithm.RSASHA512,
    Algorithm.ECDSAP256SHA256, Algorithm.ECDSAP384SHA384, Algorithm.ED25519, Algorithm.ED448,
})  # fmt: skip
DIGESTS = frozenset({DSDigest.SHA1, DSDigest.SHA256, DSDigest.SHA384})
RSA = frozenset({
    Algorithm.RSAMD5, Algorithm.RSASHA1, Algorithm.RSASHA1NSEC3SHA1, Algorithm.RSASHA256, Algorithm.RSASHA512,
})  # fmt: skip
# Clocks of signers and of this machine differ; validators allow for it (Unbound's val-sig-skew-min does likewise).
SKEW_SECONDS = 300
# Keys with one tag and signatures without end cost a validator hours (CVE-2023-50387): these are enough for any zone.
MOST_KEYS_OF_ONE_TAG = 4
MOST_SIGNATURES = 8
MOST_VERIFICATIONS = 200


class UndecidableError(Exception):
    """What can't be found out from this evidence, in words. Never means that something is wrong with the domain."""


class Outcome(msgspec.Struct, frozen=True):
    """Of one set of records: `problem` is "" when a signature holds, whose `span` is (beginning, end) in Unix time.

    `wildcard`: the set was made from a wildcard, whose name this is.
    """

    problem: str = ""
    span: tuple[int, int] | None = None
    wildcard: dns.name.Name | None = None


class Verifier:
    """Verifies signatures as of the time the evidence was taken, with a limit on the work that one name may cause."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._left = MOST_VERIFICATIONS

    def check(self, signed: Signed, zone: dns.name.Name, keys: Sequence[Any]) -> Outcome:
        """Whether one of the signatures holds under one of the zone's keys. Raises `UndecidableError`."""
        if not signed.rrset.name.is_subdomain(zone):
            return Outcome("it does not belong to the zone")
        if not signed.signatures:
            return Outcome("it has no signature")
        own = [one for one in signed.signatures if one.signer == zone]
        if not own:
            return Outcome(f"it is signed by {signed.signatures[0].signer}, not by the zone")
        problems: list[str] = []
        for signature in sorted(own, key=lambda one: -int(one.expiration))[:MOST_SIGNATURES]:
            problem = self._one(signed, signature, zone, keys)
            if not problem:
                span = int(signature.inception), int(signature.expiration)
                return Outcome("", span, _wildcard(signed.rrset.name, int(signature.labels)))
            problems.append(problem)
        return Outcome(problems[0])

    def _one(self, signed: Signed, signature: Any, zone: dns.name.Name, keys: Sequence[Any]) -> str:
        begins, ends = int(signature.inception), int(signature.expiration)
        shown = f"key {signature.key_tag}, {algorithm(signature.algorithm)}"
        if ends + SKEW_SECONDS < self.now:
            return f"its signature ({shown}) expired on {moment(ends)}"
        if begins - SKEW_SECONDS > self.now:
            return f"its signature ({shown}) is valid from {moment(begins)} only"
        able = [
            key for key in keys if key.algorithm == signature.algorithm and dns.dnssec.key_id(key) == signature.key_tag
        ]
        if not able:
            return f"the zone has no key for its signature ({shown})"
        candidates = able[:MOST_KEYS_OF_ONE_TAG]
        self._left -= len(candidates)
        if self._left < 0:
            raise UndecidableError(f"more than {MOST_VERIFICATIONS} signatures would have to be verified")
        known: dict[dns.name.Name, Any] = {zone: dns.rdataset.from_rdata_list(0, candidates)}
        inside = float(max(begins, min(ends, self.now)))
        try:
            dns.dnssec.validate_rrsig(signed.rrset, signature, known, None, inside)
        except (dns.exception.UnsupportedAlgorithm, cryptography.exceptions.UnsupportedAlgorithm):
            raise UndecidableError(f"signatures with {algorithm(signature.algorithm)} can't be verified here") from None
        except Exception:  # a key that is no key makes the libraries raise many things; the signature holds by none
            return f"its signature ({shown}) does not match the records"
        return ""


def _wildcard(name: dns.name.Name, labels: int) -> dns.name.Name | None:
    own = len(name) - 1 - (1 if name.is_wild() else 0)
    if labels >= own:
        return None
    return dns.name.Name((b"*", *name.labels[-(labels + 1) :]))


def entries(zone: dns.name.Name, keys: Iterable[Any], trusted: Iterable[Any]) -> list[Any]:
    """The keys of a zone that trusted DNSKEY or DS records name: those that may sign its DNSKEY set."""
    keys = [key for key in keys if usable(key)]
    trusted = list(trusted)
    digests = considered([one for one in trusted if one.rdtype == dns.rdatatype.DS])
    plain = [one for one in trusted if one.rdtype == dns.rdatatype.DNSKEY]
    return [
        key
        for key in keys
        if any(_matches(zone, key, digest) for digest in digests)
        or any(key.algorithm == one.algorithm and key.key == one.key for one in plain)
    ]


def usable(key: Any) -> bool:
    """A zone's key that is not revoked (RFC 4034 section 2.1, RFC 5011 section 2.1), of an algorithm known here."""
    return bool(key.flags & 0x0100) and not key.flags & 0x0080 and key.protocol == 3 and key.algorithm in ALGORITHMS


def considered(digests: Sequence[Any]) -> list[Any]:
    """The DS records that count: supported ones, and no SHA-1 beside a stronger digest (RFC 4509 section 3)."""
    known = [one for one in digests if one.algorithm in ALGORITHMS and one.digest_type in DIGESTS]
    strong = [one for one in known if one.digest_type != DSDigest.SHA1]
    return strong or known


def _matches(zone: dns.name.Name, key: Any, digest: Any) -> bool:
    if key.algorithm != digest.algorithm or dns.dnssec.key_id(key) != digest.key_tag:
        return False
    made = dns.dnssec.make_ds(zone, key, digest.digest_type, validating=True)
    return bool(made.digest == digest.digest)


def key_shown(key: Any) -> DnssecKey:
    """A key as it is kept in facts."""
    return DnssecKey(
        tag=dns.dnssec.key_id(key),
        algorithm=algorithm(key.algorithm),
        bits=_rsa_bits(key.key) if key.algorithm in RSA else None,
        entry=bool(key.flags & 0x0001),
    )


def digest_shown(digest: Any) -> DnssecDigest:
    """A DS record as it is kept in facts."""
    try:
        name = DSDigest.to_text(digest.digest_type)
    except ValueError:
        name = str(int(digest.digest_type))
    return DnssecDigest(tag=int(digest.key_tag), algorithm=algorithm(digest.algorithm), digest=name)


def _rsa_bits(key: bytes) -> int | None:
    """The length of the modulus (RFC 3110 section 2)."""
    if not key:
        return None
    start = 1 + key[0] if key[0] else 3 + int.from_bytes(key[1:3], "big")
    return int.from_bytes(key[start:], "big").bit_length() or None


def algorithm(number: int) -> str:
    """The mnemonic of an algorithm, or its number."""
    return str(dns.dnssec.algorithm_to_text(number))


def moment(seconds: int) -> str:
    """Unix time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""What is known of a domain's DNSSEC: the outcome, what is wrong, and each zone of the chain."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from kattegat.plugin import Fact, Hostname

__all__ = ["DnssecStatus"]


class DnssecKey(msgspec.Struct, frozen=True):
    """A DNSKEY record (RFC 4034 section 2). `algorithm` is the mnemonic of the IANA registry; `bits` of RSA keys only.

    `entry`: the secure entry point flag, as key signing keys have it.
    """

    tag: int
    algorithm: str
    bits: int | None = None
    entry: bool = False


class DnssecDigest(msgspec.Struct, frozen=True):
    """A DS record at the parent (RFC 4034 section 5): the key's tag and algorithm, and the digest's mnemonic."""

    tag: int
    algorithm: str
    digest: str


class DnssecSpan(msgspec.Struct, frozen=True, order=True):
    """From when to when signatures of a zone are valid (RFC 4034 section 3.1.5)."""

    ends: datetime
    begins: datetime


class DnssecZone(msgspec.Struct, frozen=True):
    """One zone of the chain. `name` is "." for the root.

    `validated`: its keys were proven; else `keys` are what the zone shows. `signatures`: the spans of those that were
    checked in it, first the one that ends first. `nsec3_iterations`: None when it has no NSEC3 or that was not seen.
    """

    name: str
    validated: bool
    keys: list[DnssecKey] = []
    digests: list[DnssecDigest] = []
    signatures: list[DnssecSpan] = []
    nsec3_iterations: int | None = None


class DnssecProblem(msgspec.Struct, frozen=True):
    """Why a validating resolver refuses the domain: in which zone, at which record type, and the reason in words."""

    zone: str
    record: str
    reason: str


class DnssecStatus(Fact, about=Hostname):
    """What a validating resolver makes of a name (RFC 4035 section 4.3): secure, insecure or bogus.

    `reason` is "" when secure, else a phrase. `problems` say what is bogus. `zones` go down from the trust anchor to
    the zone that holds the name's records, or to where the chain ends.
    """

    status: Literal["secure", "insecure", "bogus"]
    reason: str
    problems: list[DnssecProblem]
    zones: list[DnssecZone]

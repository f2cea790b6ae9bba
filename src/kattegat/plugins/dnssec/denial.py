"""Denial of existence: what NSEC (RFC 4035 section 5.4) and NSEC3 (RFC 5155 section 8) records prove of a name.

The records given have been verified before; nothing here looks at signatures.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Literal

import dns.dnssec
import dns.name
import dns.rdatatype
import dns.rrset
import msgspec

NS, SOA, DS, CNAME, DNAME = (
    int(kind)
    for kind in (
        dns.rdatatype.NS, dns.rdatatype.SOA, dns.rdatatype.DS, dns.rdatatype.CNAME, dns.rdatatype.DNAME,
    )
)  # fmt: skip
OPT_OUT = 1
# Validators treat more as unsigned (RFC 9276 section 3.2; BIND, Unbound, Knot Resolver and PowerDNS: 150 or fewer).
MOST_ITERATIONS = 150

Kind = Literal["nodata", "absent", "opt-out", "iterations", "unproven"]


class Proof(msgspec.Struct, frozen=True):
    """What is proven: that the name has no such record, that it is absent, that it may be an unsigned delegation
    (opt-out), nothing since too many iterations are asked for, or nothing (`words` say why).

    `delegation`: the name is a delegation. `iterations` of the NSEC3 records, None with NSEC.
    """

    kind: Kind
    words: str = ""
    delegation: bool = False
    iterations: int | None = None


def prove(name: dns.name.Name, rdtype: int, zone: dns.name.Name, records: Iterable[dns.rrset.RRset]) -> Proof:
    """What the records of this zone prove of `rdtype` at `name`."""
    sets = list(records)
    hashed = [rrset for rrset in sets if rrset.rdtype == dns.rdatatype.NSEC3]
    if hashed:
        return _Hashed(zone, hashed).prove(name, rdtype)
    plain = [(rrset.name, rrset[0]) for rrset in sets if rrset.rdtype == dns.rdatatype.NSEC]
    if plain:
        return _plain(name, rdtype, zone, plain)
    return Proof("unproven", "nothing proves that there is none (no NSEC or NSEC3 record)")


def types(record: Any) -> frozenset[int]:
    """The types in the bitmap of an NSEC or NSEC3 record (RFC 4034 section 4.1.2)."""
    return frozenset(
        window * 256 + index * 8 + bit
        for window, bitmap in record.windows
        for index, byte in enumerate(bitmap)
        for bit in range(8)
        if byte & (0x80 >> bit)
    )


def _at(listed: frozenset[int], rdtype: int, iterations: int | None = None) -> Proof:
    """What the bitmap at the very name says."""
    delegation = NS in listed and SOA not in listed
    if rdtype in listed or CNAME in listed:
        shown = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype if rdtype in listed else CNAME))
        return Proof("unproven", f"the zone says that there is a {shown} record", iterations=iterations)
    if rdtype == DS and SOA in listed:
        return Proof("unproven", "the denial of DS comes from the zone itself, not from its parent")
    if delegation and rdtype != DS:
        return Proof("unproven", "the denial comes from the parent, which does not have the records")
    return Proof("nodata", delegation=delegation, iterations=iterations)


def _cuts(listed: frozenset[int]) -> bool:
    """Whether names below an owner with these types are not the zone's to deny (RFC 6840 section 4.1)."""
    return (NS in listed and SOA not in listed) or DNAME in listed


def _plain(name: dns.name.Name, rdtype: int, zone: dns.name.Name, records: list[tuple[dns.name.Name, Any]]) -> Proof:
    for owner, record in records:
        if owner == name:
            return _at(types(record), rdtype)
    for owner, record in records:
        if not _spans(owner, record.next, name):
            continue
        if name.is_subdomain(owner) and owner != zone and _cuts(types(record)):
            continue
        if record.next.is_subdomain(name):  # an empty non-terminal: no records, names below
            return Proof("nodata")
        if rdtype == DS:
            return Proof("absent")
        encloser = max(_common(name, owner), _common(name, record.next), key=len)
        wild = dns.name.Name((b"*", *encloser.labels))
        for other, at in records:
            if other == wild:
                return _at(types(at), rdtype)
            if _spans(other, at.next, wild):
                return Proof("absent")
        return Proof("unproven", "nothing proves that no wildcard stands for the name")
    return Proof("unproven", "the NSEC records do not cover the name")


def _spans(owner: dns.name.Name, following: dns.name.Name, name: dns.name.Name) -> bool:
    """Whether `name` lies between (canonical order, RFC 4034 section 6.1); the last one's next is the apex."""
    if owner < following:
        return bool(owner < name < following)
    return bool(owner < name and name.is_subdomain(following))


def _common(one: dns.name.Name, other: dns.name.Name) -> dns.name.Name:
    count = one.fullcompare(other)[2]
    return one.split(count)[1]


class _Hashed:
    """The NSEC3 records of one zone, all of one salt and count of iterations (RFC 5155 section 8.2)."""

    def __init__(self, zone: dns.name.Name, sets: list[dns.rrset.RRset]) -> None:
        self.zone = zone
        first: Any = sets[0][0]
        self.iterations = int(first.iterations)
        self.salt, self.algorithm = bytes(first.salt), int(first.algorithm)
        self.records: dict[bytes, Any] = {}
        for rrset in sets:
            record: Any = rrset[0]
            if (int(record.iterations), bytes(record.salt), int(record.algorithm)) != (
                self.iterations,
                self.salt,
                self.algorithm,
            ) or rrset.name.parent() != zone:
                continue
            try:
                self.records[base64.b32hexdecode(rrset.name.labels[0].upper())] = record
            except ValueError:
                continue

    def prove(self, name: dns.name.Name, rdtype: int) -> Proof:
        if self.algorithm != 1:
            return Proof("iterations", f"the zone uses the unknown NSEC3 hash {self.algorithm}")
        if self.iterations > MOST_ITERATIONS:
            words = f"the zone asks for {self.iterations} NSEC3 iterations, more than validators perform"
            return Proof("iterations", words, iterations=self.iterations)
        here = self._match(name)
        if here is not None:
            return _at(types(here), rdtype, self.iterations)
        encloser, nearer = name, name
        while encloser != self.zone:
            nearer, encloser = encloser, encloser.parent()
            found = self._match(encloser)
            if found is not None:
                if encloser != self.zone and _cuts(types(found)):
                    return Proof("unproven", "the denial comes from above a delegation")
                return self._below(encloser, nearer, rdtype)
        return Proof("unproven", "the NSEC3 records do not show which part of the name exists")

    def _below(self, encloser: dns.name.Name, nearer: dns.name.Name, rdtype: int) -> Proof:
        cover = self._cover(nearer)
        if cover is None:
            return Proof("unproven", "the NSEC3 records do not cover the name")
        if cover.flags & OPT_OUT:
            return Proof("opt-out", iterations=self.iterations)
        if rdtype == DS:
            return Proof("absent", iterations=self.iterations)
        wild = dns.name.Name((b"*", *encloser.labels))
        here = self._match(wild)
        if here is not None:
            return _at(types(here), rdtype, self.iterations)
        if self._cover(wild) is not None:
            return Proof("absent", iterations=self.iterations)
        return Proof("unproven", "nothing proves that no wildcard stands for the name")

    def covers(self, name: dns.name.Name) -> bool:
        """Whether an NSEC3 record spans the name's hash."""
        return self._cover(name) is not None

    def _hash(self, name: dns.name.Name) -> bytes:
        return base64.b32hexdecode(dns.dnssec.nsec3_hash(name, self.salt, self.iterations, self.algorithm))

    def _match(self, name: dns.name.Name) -> Any | None:
        return self.records.get(self._hash(name))

    def _cover(self, name: dns.name.Name) -> Any | None:
        wanted = self._hash(name)
        for owner, record in self.records.items():
            following = bytes(record.next)
            if owner < following:
                inside = owner < wanted < following
            else:
                inside = wanted > owner or wanted < following
            if inside:
                return record
        return None


def not_there(name: dns.name.Name, wildcard: dns.name.Name, zone: dns.name.Name, sets: list[dns.rrset.RRset]) -> bool:
    """Whether the records prove that `name` itself is absent, as an answer from a wildcard needs (RFC 4035 5.3.4)."""
    hashed = [rrset for rrset in sets if rrset.rdtype == dns.rdatatype.NSEC3]
    if hashed:
        proof = _Hashed(zone, hashed)
        if proof.iterations > MOST_ITERATIONS or proof.algorithm != 1:
            return True
        # The next closer name: one label more than the wildcard's parent (RFC 5155 section 8.8).
        return proof.covers(name.split(len(wildcard))[1])
    return any(rrset.rdtype == dns.rdatatype.NSEC and _spans(rrset.name, _next(rrset), name) for rrset in sets)


def _next(rrset: dns.rrset.RRset) -> dns.name.Name:
    record: Any = rrset[0]
    following: dns.name.Name = record.next
    return following

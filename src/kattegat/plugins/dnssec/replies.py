"""Recorded answers as DNSSEC needs them: each set of records with its signatures (RFC 4035 section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import msgspec

from kattegat.plugin import Part


class Signed(msgspec.Struct, frozen=True):
    """A set of records with the RRSIG records that cover it."""

    rrset: dns.rrset.RRset
    signatures: tuple[Any, ...]


class Reply(msgspec.Struct, frozen=True):
    """What a server said to one question. `problem` is "" or why this says nothing of it."""

    problem: str = ""
    missing: bool = False
    answer: tuple[Signed, ...] = ()
    authority: tuple[Signed, ...] = ()

    def at(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Signed | None:
        """The set of this owner and type in the answer."""
        for one in self.answer:
            if one.rrset.name == name and one.rrset.rdtype == rdtype:
                return one
        return None

    def denials(self) -> list[Signed]:
        """The NSEC and NSEC3 records that came with it."""
        kinds = (dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
        return [one for one in self.authority if one.rrset.rdtype in kinds]


def read(part: Part) -> Reply:
    """Reads a recorded reply; never raises."""
    problem = str(part.notes.get("problem") or "")
    if problem:
        return Reply(problem)
    try:
        message = dns.message.from_wire(part.content, ignore_trailing=True)
        rcode = message.rcode()
        answer, authority = _signed(message.answer), _signed(message.authority)
    except Exception as error:  # whatever hostile bytes made the reader stumble, they are no message
        return Reply(f"the answer can't be read ({type(error).__name__})")
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Reply(f"the resolver answered {dns.rcode.to_text(rcode)}")
    return Reply("", rcode == dns.rcode.NXDOMAIN, answer, authority)


def _signed(section: Iterable[dns.rrset.RRset]) -> tuple[Signed, ...]:
    sets = [rrset for rrset in section if len(rrset)]
    covering: dict[tuple[dns.name.Name, int], list[Any]] = {}
    for rrset in sets:
        if rrset.rdtype == dns.rdatatype.RRSIG:
            covering.setdefault((rrset.name, int(rrset.covers)), []).extend(rrset)
    return tuple(
        Signed(rrset, tuple(covering.get((rrset.name, int(rrset.rdtype)), ())))
        for rrset in sets
        if rrset.rdtype != dns.rdatatype.RRSIG
    )

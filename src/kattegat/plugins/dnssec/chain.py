"""The walk from the trust anchor down to a name, zone cut by zone cut (RFC 4035 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import dns.dnssec
import dns.name
import dns.rdatatype
import dns.rrset

from kattegat.plugins.dnssec import denial
from kattegat.plugins.dnssec.denial import Proof
from kattegat.plugins.dnssec.facts import DnssecKey, DnssecProblem, DnssecSpan, DnssecStatus, DnssecZone
from kattegat.plugins.dnssec.replies import Reply, Signed
from kattegat.plugins.dnssec.signatures import (
    UndecidableError,
    Verifier,
    considered,
    digest_shown,
    entries,
    key_shown,
    usable,
)

#: What is asked at the name itself, beside DNSKEY and DS; a name has at most one SOA, its zone's.
RECORDS = ("SOA", "A", "AAAA", "MX", "TXT")
PARAMETERS = "NSEC3PARAM"

Questions = Mapping[tuple[dns.name.Name, str], Reply]


class _Ended(Exception):  # noqa: N818 - the end of the walk, not an error
    """The chain ends above the name: insecure, bogus or (status None) at a name that isn't there."""

    def __init__(self, status: str | None, reason: str = "", problems: Iterable[DnssecProblem] = ()) -> None:
        self.status, self.reason, self.problems = status, reason, list(problems)
        super().__init__(reason)


class _Zone:
    """One zone while it is walked through."""

    def __init__(self, name: dns.name.Name, digests: Iterable[Any] = ()) -> None:
        self.name = name
        self.digests = list(digests)
        self.shown: list[DnssecKey] = []
        self.keys: list[Any] = []
        self.spans: set[tuple[int, int]] = set()
        self.iterations: int | None = None
        self.validated = False

    def signed(self, span: tuple[int, int] | None) -> None:
        if span is not None:
            self.spans.add(span)

    def fact(self) -> DnssecZone:
        return DnssecZone(
            name=label(self.name),
            validated=self.validated,
            keys=sorted(self.shown, key=lambda key: (key.tag, key.algorithm)),
            digests=sorted((digest_shown(one) for one in self.digests), key=lambda one: (one.tag, one.digest)),
            signatures=sorted(
                DnssecSpan(begins=datetime.fromtimestamp(begins, UTC), ends=datetime.fromtimestamp(ends, UTC))
                for begins, ends in self.spans
            ),
            nsec3_iterations=self.iterations,
        )


def label(name: dns.name.Name) -> str:
    """A zone's name for people: lower case, no trailing dot, "." for the root."""
    return name.to_text(omit_final_dot=True).lower()


def down(owner: dns.name.Name, name: dns.name.Name) -> list[dns.name.Name]:
    """The names below `owner` down to `name`, each of which may be a zone of its own."""
    return [name.split(count)[1] for count in range(len(owner) + 1, len(name) + 1)]


def questions(owner: dns.name.Name, name: dns.name.Name) -> list[tuple[dns.name.Name, str]]:
    """Everything to ask for the walk."""
    asked = [(owner, "DNSKEY")]
    for cut in down(owner, name):
        asked += [(cut, "DS"), (cut, "DNSKEY")]
    return asked + [(name, rdtype) for rdtype in (*RECORDS, PARAMETERS)]


class Chain:
    """Validates one name. `anchor` are the trusted DNSKEY and DS records of one owner; `now` in Unix time."""

    def __init__(self, anchor: list[dns.rrset.RRset], name: dns.name.Name, replies: Questions, now: float) -> None:
        self.trusted = [record for rrset in anchor for record in rrset]
        self.owner = anchor[0].name
        self.name = name
        self.replies = replies
        self.verifier = Verifier(now)
        self.zones: list[_Zone] = []

    def validate(self) -> DnssecStatus | None:
        """The status; None for a name that does not exist. Raises `UndecidableError`."""
        try:
            self._start()
            for name in down(self.owner, self.name):
                self._step(name)
            problems = self._records()
        except _Ended as end:
            if end.status is None:
                return None
            return self._status(end.status, end.reason, end.problems)
        if problems:
            return self._status("bogus", "", problems)
        return self._status("secure", "", [])

    def _status(self, status: str, reason: str, problems: list[DnssecProblem]) -> DnssecStatus:
        if problems and not reason:
            first = problems[0]
            reason = f"{first.zone}: {first.record}: {first.reason}"
        zones = [zone.fact() for zone in self.zones]
        return DnssecStatus(status=status, reason=reason, problems=problems, zones=zones)  # type: ignore[arg-type]

    def _reply(self, name: dns.name.Name, rdtype: str) -> Reply:
        reply = self.replies.get((name, rdtype))
        if reply is None:
            raise UndecidableError(f"{label(name)} {rdtype} was not asked")
        if reply.problem:
            raise UndecidableError(f"{label(name)} {rdtype}: {reply.problem}")
        return reply

    def _start(self) -> None:
        """The anchor's own zone. What fails here is this side's fault: an old anchor, a resolver without DNSSEC."""
        zone = _Zone(self.owner)
        problem = self._authenticate(zone, self.trusted)
        if problem:
            raise UndecidableError(
                f"the trust anchor for {label(self.owner)} does not fit what the resolver says, or the resolver passes "
                f"on no signatures: {problem}"
            )
        self.zones.append(zone)

    def _authenticate(self, zone: _Zone, trusted: list[Any]) -> str:
        """Takes over the zone's keys when a trusted record vouches for them; gives the problem or ""."""
        signed = self._reply(zone.name, "DNSKEY").at(zone.name, dns.rdatatype.DNSKEY)
        if signed is None:
            return "the zone has no keys"
        zone.shown = [key_shown(key) for key in signed.rrset]
        entry = entries(zone.name, signed.rrset, trusted)
        if not entry:
            tags = sorted({one.key_tag for one in trusted if one.rdtype == dns.rdatatype.DS})
            wanted = f"the DS record{'s' if len(tags) > 1 else ''} ({', '.join(map(str, tags))})"
            return f"no key of the zone matches {wanted if tags else 'the trusted keys'}"
        outcome = self.verifier.check(signed, zone.name, entry)
        if outcome.problem:
            return outcome.problem
        zone.signed(outcome.span)
        zone.keys = [key for key in signed.rrset if usable(key)]
        zone.validated = True
        return ""

    def _step(self, name: dns.name.Name) -> None:
        """From the zone above to `name`: a zone of its own, or a name inside the zone."""
        zone = self.zones[-1]
        reply = self._reply(name, "DS")
        signed = reply.at(name, dns.rdatatype.DS)
        if signed is not None:
            self._hold(zone, signed, "DS")
            self._enter(name, list(signed.rrset))
            return
        if self._alias(zone, reply, name):
            return
        proof = self._denied(zone, reply, name, "DS")
        if proof.kind == "iterations":
            raise self._insecure(name, proof.words)
        if proof.kind == "opt-out" and not reply.missing:
            raise self._insecure(name, f"{label(zone.name)} has no DS record for {label(name)} (opt-out)")
        if proof.kind == "nodata" and proof.delegation:
            raise self._insecure(name, f"{label(zone.name)} has no DS record for {label(name)}")
        if reply.missing:
            raise _Ended(None)

    def _insecure(self, name: dns.name.Name, reason: str) -> _Ended:
        """Ends the chain; what the zone shows is still of interest: signed, but not connected to its parent."""
        reply = self.replies.get((name, "DNSKEY"), Reply("not asked"))
        signed = None if reply.problem else reply.at(name, dns.rdatatype.DNSKEY)
        zone = _Zone(name)
        zone.shown = [key_shown(key) for key in signed.rrset] if signed is not None else []
        self.zones.append(zone)
        return _Ended("insecure", reason)

    def _enter(self, name: dns.name.Name, digests: list[Any]) -> None:
        zone = _Zone(name, digests)
        if not considered(digests):
            self.zones.append(zone)
            raise _Ended("insecure", f"the DS records of {label(name)} use algorithms that validators do not know")
        problem = self._authenticate(zone, digests)
        self.zones.append(zone)
        if problem:
            raise _Ended("bogus", "", [DnssecProblem(label(name), "DNSKEY", problem)])

    def _hold(self, zone: _Zone, signed: Signed, record: str, reply: Reply | None = None) -> None:
        """Raises the end of the chain unless the set holds in this zone."""
        outcome = self.verifier.check(signed, zone.name, zone.keys)
        problem = outcome.problem
        if not problem and outcome.wildcard is not None and reply is not None:
            proofs = self._proofs(zone, reply)
            if not denial.not_there(signed.rrset.name, outcome.wildcard, zone.name, proofs):
                problem = f"it comes from {label(outcome.wildcard)}, and nothing proves that the name itself is absent"
        if problem:
            raise _Ended("bogus", "", [DnssecProblem(label(zone.name), record, problem)])
        zone.signed(outcome.span)

    def _proofs(self, zone: _Zone, reply: Reply) -> list[dns.rrset.RRset]:
        """The NSEC and NSEC3 records of a reply, each verified; one that does not hold ends the chain."""
        found = []
        for signed in reply.denials():
            if not signed.rrset.name.is_subdomain(zone.name):
                continue
            self._hold(zone, signed, dns.rdatatype.to_text(signed.rrset.rdtype))
            found.append(signed.rrset)
        return found

    def _denied(self, zone: _Zone, reply: Reply, name: dns.name.Name, record: str) -> Proof:
        proofs = self._proofs(zone, reply)
        proof = denial.prove(name, int(dns.rdatatype.from_text(record)), zone.name, proofs)
        if proof.iterations is not None:
            zone.iterations = proof.iterations
        if proof.kind == "unproven":
            raise _Ended("bogus", "", [DnssecProblem(label(zone.name), f"{record} {label(name)}", proof.words)])
        return proof

    def _alias(self, zone: _Zone, reply: Reply, name: dns.name.Name) -> bool:
        """Whether the name is an alias, whose record then has to hold; where it leads to is another name's matter."""
        signed = reply.at(name, dns.rdatatype.CNAME)
        if signed is None:
            return False
        if not signed.signatures:
            for other in reply.answer:
                # A CNAME made from a DNAME has no signature of its own (RFC 6672 section 5.3.1).
                if other.rrset.rdtype == dns.rdatatype.DNAME and _made(name, signed.rrset, other.rrset):
                    self._hold(zone, other, "DNAME")
                    return True
        self._hold(zone, signed, "CNAME", reply)
        return True

    def _records(self) -> list[DnssecProblem]:
        """The records at the name itself."""
        zone = self.zones[-1]
        problems: list[DnssecProblem] = []
        unanswered: UndecidableError | None = None
        for record in RECORDS:
            try:
                self._record(zone, record)
            except _Ended as end:
                problems += [problem for problem in end.problems if problem not in problems]
            except UndecidableError as gap:
                unanswered = unanswered or gap
        if unanswered is not None and not problems:
            raise unanswered
        self._parameters(zone)
        return problems

    def _record(self, zone: _Zone, record: str) -> None:
        reply = self._reply(self.name, record)
        signed = reply.at(self.name, dns.rdatatype.from_text(record))
        if signed is not None:
            self._hold(zone, signed, record, reply)
        elif not self._alias(zone, reply, self.name):
            self._denied(zone, reply, self.name, record)

    def _parameters(self, zone: _Zone) -> None:
        reply = self.replies.get((zone.name, PARAMETERS))
        signed = None if reply is None or reply.problem else reply.at(zone.name, dns.rdatatype.NSEC3PARAM)
        if signed is not None and not self.verifier.check(signed, zone.name, zone.keys).problem:
            first: Any = signed.rrset[0]
            zone.iterations = int(first.iterations)


def _made(name: dns.name.Name, alias: dns.rrset.RRset, dname: dns.rrset.RRset) -> bool:
    """Whether this CNAME follows from this DNAME (RFC 6672 section 2.2)."""
    if name == dname.name or not name.is_subdomain(dname.name):
        return False
    target: Any = dname[0]
    made: Any = alias[0]
    try:
        expected = name.relativize(dname.name).derelativize(target.target)
    except dns.name.NameTooLong:
        return False
    return bool(made.target == expected)

"""Validation of chains that are signed here, each right but for one thing."""

from __future__ import annotations

import base64
import functools
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from dns.dnssectypes import Algorithm

from kattegat.plugin import Evidence, Found, Hostname, NotMeasured, Part
from kattegat.plugins.dnssec import DnssecScanner, DnssecStatus
from kattegat.plugins.dnssec.anchor import ROOT, closest
from kattegat.plugins.dnssec.chain import questions
from kattegat.plugins.dnssec.facts import DnssecSpan

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
RECORDS = ("SOA", "A", "AAAA", "MX", "TXT")


@functools.cache
def private(kind: str, number: int = 0) -> Any:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    return ec.generate_private_key(ec.SECP256R1())


ALGORITHMS = {"p256": Algorithm.ECDSAP256SHA256, "ed25519": Algorithm.ED25519}


class Zone:
    """A zone with one key that signs everything."""

    def __init__(self, name: str, kind: str = "p256", algorithm: Algorithm | None = None, number: int = 0) -> None:
        self.name = dns.name.from_text(name)
        self.private = private(kind, number)
        self.algorithm = algorithm or ALGORITHMS.get(kind, Algorithm.RSASHA256)
        self.key = dns.dnssec.make_dnskey(self.private.public_key(), self.algorithm, flags=257)
        self.tag = dns.dnssec.key_id(self.key)

    def keys(self, *more: dns.rdata.Rdata) -> dns.rrset.RRset:
        return dns.rrset.from_rdata_list(self.name, 300, [self.key, *more])

    def ds(self, digest: str = "SHA256") -> str:
        policy = dns.dnssec.allow_all_policy
        return dns.dnssec.make_ds(self.name, self.key, digest, policy=policy).to_text()

    def sign(self, rrset: dns.rrset.RRset, begin: datetime = NOW - DAY, end: datetime = NOW + 10 * DAY) -> list[Any]:
        """The set and its signature."""
        policy = dns.dnssec.allow_all_policy
        made = dns.dnssec.sign(rrset, self.private, self.name, self.key, inception=begin, expiration=end, policy=policy)
        return [rrset, dns.rrset.from_rdata(rrset.name, 300, made)]

    def nsec(self, owner: str, following: str, types: str) -> list[Any]:
        return self.sign(rr(owner, "NSEC", f"{following} {types}"))

    def nsec3(self, name: str, types: str, *, match: bool, opt_out: bool = False, iterations: int = 0) -> list[Any]:
        """An NSEC3 record that matches the name's hash, or one that spans it and little else."""
        number = int.from_bytes(
            base64.b32hexdecode(dns.dnssec.nsec3_hash(dns.name.from_text(name), "", iterations, 1)), "big"
        )
        owner, following = [
            base64.b32hexencode(value.to_bytes(20, "big")).decode().lower()
            for value in ((number, number + 1) if match else (number - 1, number + 1))
        ]
        return self.sign(
            rr(f"{owner}.{self.name}", "NSEC3", f"1 {1 if opt_out else 0} {iterations} - {following} {types}")
        )


def rr(owner: str, rdtype: str, *data: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, 300, "IN", rdtype, *data)


class World:
    """What the resolver answers: `test.` is the anchor, `example.test.` a signed zone below it."""

    def __init__(self, child: Zone | None = None, ds: list[str] | None = None) -> None:
        self.parent = Zone("test.", number=1)
        self.child = child or Zone("example.test.", number=2)
        self.parts: dict[tuple[str, str], Part] = {}
        self.at = NOW
        self.anchor = f"test. IN DS {self.parent.ds()}\n"
        self.say("test", "DNSKEY", self.parent.sign(self.parent.keys()))
        self.say("example.test", "DS", self.parent.sign(rr("example.test.", "DS", *(ds or [self.child.ds()]))))
        self.say("example.test", "DNSKEY", self.child.sign(self.child.keys()))
        self.records("example.test")

    def records(self, name: str) -> None:
        """The usual records at a name of the child zone."""
        for rdtype, data in {
            "SOA": "ns.example.test. host.example.test. 1 2 3 4 5",
            "A": "192.0.2.1",
            "TXT": '"x"',
        }.items():
            self.say(name, rdtype, self.child.sign(rr(f"{name}.", rdtype, data)))
        for rdtype in ("AAAA", "MX"):
            denial = self.child.nsec(f"{name}.", f"a.{name}.", "A SOA TXT RRSIG NSEC")
            self.say(name, rdtype, [], denial)

    def say(self, name: str, rdtype: str, answer: list[Any], authority: list[Any] = [], rcode: int = 0) -> None:  # noqa: B006
        message = dns.message.make_response(dns.message.make_query(f"{name.rstrip('.')}.", rdtype, want_dnssec=True))
        message.answer, message.authority = list(answer), list(authority)
        message.set_rcode(dns.rcode.Rcode(rcode))
        self.parts[name, rdtype] = Part(
            "dns", message.to_wire(max_size=65535), {"name": name, "rdtype": rdtype, "problem": ""}
        )

    def silent(self, name: str, rdtype: str) -> None:
        self.parts[name, rdtype] = Part("dns", b"", {"name": name, "rdtype": rdtype, "problem": "No answer."})

    def parse(self, name: str = "example.test") -> list[Found | NotMeasured]:
        anchor = Part("anchor", self.anchor.encode(), {"asked_at": self.at.isoformat()})
        evidence = Evidence.unpack(Evidence((anchor, *self.parts.values())).pack())
        return list(DnssecScanner().parse(Hostname(name), evidence))

    def status(self, name: str = "example.test") -> DnssecStatus:
        (found,) = self.parse(name)
        assert isinstance(found, Found), found
        assert isinstance(found.fact, DnssecStatus)
        return found.fact

    def reasons(self, name: str = "example.test") -> list[tuple[str, str, str]]:
        status = self.status(name)
        assert status.status == "bogus"
        return [(problem.zone, problem.record, problem.reason) for problem in status.problems]

    def gap(self, name: str = "example.test") -> str:
        (found,) = self.parse(name)
        assert isinstance(found, NotMeasured), found
        assert (found.kind, found.item, found.about) == ("DnssecStatus", None, Hostname(name))
        return found.reason

    def host(self, name: str) -> None:
        """A name inside the child zone, with the parent's denial that it is a zone."""
        self.say(name, "DS", [], self.child.nsec(f"{name}.", f"a.{name}.", "A RRSIG NSEC"))
        self.say(name, "DNSKEY", [], self.child.nsec(f"{name}.", f"a.{name}.", "A RRSIG NSEC"))
        for rdtype in RECORDS[2:]:
            self.say(name, rdtype, [], self.child.nsec(f"{name}.", f"a.{name}.", "A RRSIG NSEC"))
        self.say(name, "SOA", [], self.child.nsec(f"{name}.", f"a.{name}.", "A RRSIG NSEC"))
        self.say(name, "A", self.child.sign(rr(f"{name}.", "A", "192.0.2.2")))


def test_a_right_chain_is_secure_with_the_earliest_end_of_its_signatures() -> None:
    world = World()
    early = NOW + 2 * DAY
    world.say("example.test", "TXT", world.child.sign(rr("example.test.", "TXT", '"x"'), end=early))
    status = world.status()
    assert (status.status, status.reason, status.problems) == ("secure", "", [])
    parent, child = status.zones
    assert (parent.name, parent.validated, parent.signatures) == ("test", True, [DnssecSpan(NOW + 10 * DAY, NOW - DAY)])
    assert (child.name, child.validated, [one.ends for one in child.signatures]) == (
        "example.test",
        True,
        [early, NOW + 10 * DAY],
    )
    assert [(key.tag, key.algorithm, key.bits) for key in child.keys] == [(world.child.tag, "ECDSAP256SHA256", None)]
    assert [(one.tag, one.digest) for one in child.digests] == [(world.child.tag, "SHA256")]


@pytest.mark.parametrize(
    ("kind", "algorithm", "bits"),
    [
        ("ed25519", Algorithm.ED25519, None),
        ("rsa2048", Algorithm.RSASHA512, 2048),
        ("rsa1024", Algorithm.RSASHA256, 1024),
        ("rsa1024", Algorithm.RSASHA1, 1024),
    ],
)
def test_other_algorithms_validate(kind: str, algorithm: Algorithm, bits: int | None) -> None:
    world = World(Zone("example.test.", kind, algorithm))
    assert world.status().status == "secure"
    assert [(key.algorithm, key.bits) for key in world.status().zones[-1].keys] == [(algorithm.name, bits)]


def test_the_chain_from_the_root() -> None:
    world = World()
    root = Zone(".", number=3)
    world.anchor = f". IN DS {root.ds()}"
    world.say(".", "DNSKEY", root.sign(root.keys()))
    world.say("test", "DS", root.sign(rr("test.", "DS", world.parent.ds())))
    assert [zone.name for zone in world.status().zones] == [".", "test", "example.test"]
    assert world.status().status == "secure"
    world.say("test", "DS", [], root.nsec("test.", "u.", "NS RRSIG NSEC"))
    assert (world.status().status, world.status().reason) == ("insecure", ". has no DS record for test")


def test_everything_that_is_asked_is_what_the_walk_needs() -> None:
    asked = [(name.to_text(), rdtype) for name, rdtype in questions(dns.name.root, dns.name.from_text("a.b."))]
    cuts = [(name, rdtype) for name in ("b.", "a.b.") for rdtype in ("DS", "DNSKEY")]
    assert asked == [(".", "DNSKEY"), *cuts, *(("a.b.", rdtype) for rdtype in (*RECORDS, "NSEC3PARAM"))]
    assert ROOT.count(" IN DS ") == len(closest(ROOT, dns.name.from_text("a.b."))[0]) == 2


def test_an_anchor_may_be_a_key() -> None:
    world = World()
    world.anchor = f"test. 3600 IN DNSKEY {world.parent.key.to_text()} ; a remark\n"
    assert world.status().status == "secure"


def test_an_alias_into_an_unsigned_zone_is_not_bogus() -> None:
    world = World()
    for rdtype in ("DS", "DNSKEY", *RECORDS):
        alias = world.child.sign(rr("www.example.test.", "CNAME", "shop.unsigned.test."))
        target = [rr("shop.unsigned.test.", "A", "192.0.2.7")] if rdtype == "A" else []
        world.say("www.example.test", rdtype, [*alias, *target])
    status = world.status("www.example.test")
    assert (status.status, [zone.name for zone in status.zones]) == ("secure", ["test", "example.test"])


def test_an_alias_without_a_signature_is_bogus() -> None:
    world = World()
    world.host("www.example.test")
    world.say(
        "www.example.test", "A", [rr("www.example.test.", "CNAME", "evil.test."), rr("evil.test.", "A", "1.2.3.4")]
    )
    assert world.reasons("www.example.test") == [("example.test", "CNAME", "it has no signature")]


def test_an_alias_made_from_a_signed_dname_holds_and_another_does_not() -> None:
    world = World()
    dname = world.child.sign(rr("old.example.test.", "DNAME", "new.unsigned."))
    world.host("old.example.test")
    for rdtype in ("DS", "DNSKEY", *RECORDS):
        world.say("a.old.example.test", rdtype, [*dname, rr("a.old.example.test.", "CNAME", "a.new.unsigned.")])
    assert world.status("a.old.example.test").status == "secure"
    world.say("a.old.example.test", "A", [*dname, rr("a.old.example.test.", "CNAME", "b.new.unsigned.")])
    assert world.reasons("a.old.example.test") == [("example.test", "CNAME", "it has no signature")]


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (NOW - 9 * DAY, NOW - 2 * DAY, "expired on 2026-05-30 12:00 UTC"),
        (NOW + DAY, NOW + 9 * DAY, "is valid from 2026-06-02 12:00 UTC only"),
    ],
)
def test_times_of_signatures(begin: datetime, end: datetime, words: str) -> None:
    world = World()
    world.say("example.test", "A", world.child.sign(rr("example.test.", "A", "192.0.2.1"), begin, end))
    shown = f"its signature (key {world.child.tag}, ECDSAP256SHA256) {words}"
    assert world.reasons() == [("example.test", "A", shown)]
    assert world.status().reason == f"example.test: A: {shown}"


def test_clocks_may_differ_a_little() -> None:
    world = World()
    a_bit = timedelta(minutes=4)
    world.say("example.test", "A", world.child.sign(rr("example.test.", "A", "192.0.2.1"), NOW + a_bit, NOW + DAY))
    world.say("example.test", "TXT", world.child.sign(rr("example.test.", "TXT", "x"), NOW - DAY, NOW - a_bit))
    assert world.status().status == "secure"


def test_one_good_signature_among_bad_ones_is_enough() -> None:
    world = World()
    rrset, good = world.child.sign(rr("example.test.", "A", "192.0.2.1"))
    _, expired = world.child.sign(rr("example.test.", "A", "192.0.2.1"), NOW - 9 * DAY, NOW - 8 * DAY)
    world.say("example.test", "A", [rrset, dns.rrset.from_rdata(rrset.name, 300, expired[0], good[0])])
    assert world.status().status == "secure"


def test_each_altered_set_is_a_problem_of_its_own() -> None:
    world = World()
    for rdtype, data in (("A", "192.0.2.66"), ("TXT", '"y"')):
        signature = world.child.sign(rr("example.test.", rdtype, "192.0.2.1" if rdtype == "A" else '"x"'))[1]
        world.say("example.test", rdtype, [rr("example.test.", rdtype, data), signature])
    shown = f"its signature (key {world.child.tag}, ECDSAP256SHA256) does not match the records"
    assert world.reasons() == [("example.test", "A", shown), ("example.test", "TXT", shown)]


def test_records_without_or_with_a_strangers_signature() -> None:
    world = World()
    world.say("example.test", "A", [rr("example.test.", "A", "192.0.2.1")])
    stranger = Zone("stranger.test.", number=5)
    world.say("example.test", "TXT", stranger.sign(rr("example.test.", "TXT", "x")))
    assert world.reasons() == [
        ("example.test", "A", "it has no signature"),
        ("example.test", "TXT", "it is signed by stranger.test., not by the zone"),
    ]


def test_a_key_that_is_not_in_the_zone() -> None:
    world = World()
    other = Zone("example.test.", number=6)
    world.say("example.test", "A", other.sign(rr("example.test.", "A", "192.0.2.1")))
    shown = f"the zone has no key for its signature (key {other.tag}, ECDSAP256SHA256)"
    assert world.reasons() == [("example.test", "A", shown)]


def test_no_key_matches_the_parent() -> None:
    other = Zone("example.test.", number=6)
    world = World(ds=[other.ds()])
    assert world.reasons() == [("example.test", "DNSKEY", f"no key of the zone matches the DS record ({other.tag})")]
    assert [zone.validated for zone in world.status().zones] == [True, False]


def test_a_parent_with_ds_and_a_zone_without_keys() -> None:
    world = World()
    world.say("example.test", "DNSKEY", [])
    assert world.reasons() == [("example.test", "DNSKEY", "the zone has no keys")]


def test_a_revoked_key_vouches_for_nothing() -> None:
    child = Zone("example.test.", number=2)
    child.key = cast(Any, child.key.replace(flags=257 | 0x0080))
    world = World(child)
    assert [reason for _, _, reason in world.reasons()] == [
        f"no key of the zone matches the DS record ({dns.dnssec.key_id(child.key)})"
    ]


def test_sha1_beside_sha256_does_not_count() -> None:
    child, other = Zone("example.test.", number=2), Zone("example.test.", number=6)
    assert World(child, [child.ds("SHA1")]).status().status == "secure"
    assert World(child, [child.ds("SHA1"), other.ds("SHA256")]).status().status == "bogus"


def test_algorithms_that_nobody_knows_leave_the_zone_insecure() -> None:
    world = World(ds=["12345 200 2 " + "00" * 32, "12346 13 9 " + "00" * 32])
    status = world.status()
    assert status.status == "insecure"
    assert status.reason == "the DS records of example.test use algorithms that validators do not know"


# --- unsigned delegations --------------------------------------------------------------------------------------------


def test_insecure_is_proven_by_nsec() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec("example.test.", "f.test.", "NS RRSIG NSEC"))
    status = world.status()
    assert (status.status, status.reason) == ("insecure", "test has no DS record for example.test")
    # The zone is signed all the same, which is of interest: only the DS record is missing.
    assert [(zone.name, zone.validated, len(zone.keys)) for zone in status.zones] == [
        ("test", True, 1),
        ("example.test", False, 1),
    ]


def test_insecure_is_proven_by_nsec3() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec3("example.test.", "NS", match=True))
    assert world.status().reason == "test has no DS record for example.test"
    apex = world.parent.nsec3("test.", "NS SOA RRSIG DNSKEY NSEC3PARAM", match=True)
    span = world.parent.nsec3("example.test.", "", match=False, opt_out=True)
    world.say("example.test", "DS", [], [*apex, *span])
    assert world.status().reason == "test has no DS record for example.test (opt-out)"


def test_a_span_without_opt_out_proves_no_unsigned_delegation() -> None:
    """There is no such name, so no zone is cut off here; the records are the parent's, and hold by its keys only."""
    world = World()
    apex = world.parent.nsec3("test.", "NS SOA RRSIG DNSKEY NSEC3PARAM", match=True)
    world.say("example.test", "DS", [], [*apex, *world.parent.nsec3("example.test.", "", match=False)])
    assert {record for _, record, _ in world.reasons()} >= {"A", "SOA"}


def test_too_many_iterations_are_treated_as_validators_do() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec3("example.test.", "NS", match=True, iterations=500))
    status = world.status()
    assert status.status == "insecure"
    assert status.reason == "the zone asks for 500 NSEC3 iterations, more than validators perform"


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (None, "nothing proves that there is none (no NSEC or NSEC3 record)"),
        ("NS DS RRSIG NSEC", "the zone says that there is a DS record"),
        ("NS SOA RRSIG NSEC", "the denial of DS comes from the zone itself, not from its parent"),
    ],
)
def test_a_denial_that_proves_nothing_is_bogus(types: str | None, words: str) -> None:
    world = World()
    denial = world.parent.nsec("example.test.", "f.test.", types) if types else []
    world.say("example.test", "DS", [], denial)
    assert world.reasons() == [("test", "DS example.test", words)]


def test_an_unsigned_denial_is_bogus() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec("example.test.", "f.test.", "NS RRSIG NSEC")[:1])
    assert world.reasons() == [("test", "NSEC", "it has no signature")]


def test_a_denial_about_other_names_is_bogus() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec("f.test.", "g.test.", "NS RRSIG NSEC"))
    assert world.reasons() == [("test", "DS example.test", "the NSEC records do not cover the name")]


def test_what_is_below_an_unsigned_zone_is_insecure_whatever_it_shows() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec("example.test.", "f.test.", "NS RRSIG NSEC"))
    world.say("sub.example.test", "DS", world.child.sign(rr("sub.example.test.", "DS", world.child.ds())))
    world.say("sub.example.test", "DNSKEY", [])
    assert world.status("sub.example.test").status == "insecure"


def test_a_name_that_does_not_exist_has_no_status() -> None:
    world = World()
    world.say("example.test", "DS", [], world.parent.nsec("e.test.", "f.test.", "NS RRSIG NSEC"), rcode=3)
    assert world.parse() == []


def test_names_between_zones_are_walked_through() -> None:
    """An empty non-terminal, as below `_tcp`, is no zone and no fault."""
    world = World()
    for rdtype in ("DS", "DNSKEY"):
        denial = world.child.nsec("example.test.", "x.b.example.test.", "A SOA RRSIG NSEC")
        world.say("b.example.test", rdtype, [], denial)
    world.host("x.b.example.test")
    assert world.status("x.b.example.test").status == "secure"


# --- wildcards and missing records -----------------------------------------------------------------------------------


def wildcard(world: World, name: str, proof: list[Any]) -> None:
    world.host(name)
    _, signature = world.child.sign(rr("*.example.test.", "A", "192.0.2.3"))
    moved = dns.rrset.from_rdata(dns.name.from_text(f"{name}."), 300, signature[0])
    world.say(name, "A", [rr(f"{name}.", "A", "192.0.2.3"), moved], proof)


def test_an_answer_from_a_wildcard_needs_the_proof_that_the_name_is_absent() -> None:
    world = World()
    wildcard(world, "any.example.test", world.child.nsec("*.example.test.", "b.example.test.", "A RRSIG NSEC"))
    assert world.status("any.example.test").status == "secure"
    wildcard(world, "any.example.test", world.child.nsec3("any.example.test.", "", match=False))
    assert world.status("any.example.test").status == "secure"
    wildcard(world, "any.example.test", [])
    words = "it comes from *.example.test, and nothing proves that the name itself is absent"
    assert world.reasons("any.example.test") == [("example.test", "A", words)]
    wildcard(world, "any.example.test", world.child.nsec("c.example.test.", "d.example.test.", "A RRSIG NSEC"))
    assert world.reasons("any.example.test") == [("example.test", "A", words)]


def test_iterations_are_read_from_denials_and_parameters() -> None:
    world = World()
    world.say("example.test", "MX", [], world.child.nsec3("example.test.", "A SOA TXT", match=True, iterations=7))
    assert world.status().zones[-1].nsec3_iterations == 7
    world = World()
    world.say("example.test", "NSEC3PARAM", world.child.sign(rr("example.test.", "NSEC3PARAM", "1 0 5 -")))
    assert world.status().zones[-1].nsec3_iterations == 5
    world.say("example.test", "NSEC3PARAM", [rr("example.test.", "NSEC3PARAM", "1 0 5 -")])
    assert world.status().zones[-1].nsec3_iterations is None


# --- what could not be asked is never insecure -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [("test", "DNSKEY"), ("example.test", "DS"), ("example.test", "DNSKEY"), *(("example.test", r) for r in RECORDS)],
)
def test_silence_is_not_measured(name: str, rdtype: str) -> None:
    world = World()
    world.silent(name, rdtype)
    assert world.gap() == f"{name} {rdtype}: No answer."
    del world.parts[name, rdtype]
    assert world.gap() == f"{name} {rdtype} was not asked"
    world.say(name, rdtype, [], rcode=2)
    assert world.gap() == f"{name} {rdtype}: the resolver answered SERVFAIL"


def test_what_is_proven_wrong_outweighs_what_was_not_answered() -> None:
    world = World()
    world.silent("example.test", "MX")
    world.say("example.test", "A", [rr("example.test.", "A", "192.0.2.1")])
    assert world.reasons() == [("example.test", "A", "it has no signature")]


def test_a_resolver_that_strips_signatures_says_nothing() -> None:
    world = World()
    world.say("test", "DNSKEY", [world.parent.keys()])
    assert world.gap().startswith(
        "the trust anchor for test does not fit what the resolver says, or the resolver passes"
    )


def test_an_old_anchor_says_nothing_of_the_domain() -> None:
    world = World()
    world.anchor = f"test. IN DS {Zone('test.', number=9).ds()}"
    assert "no key of the zone matches the DS record" in world.gap()


def test_anchors_that_can_not_be_used() -> None:
    world = World()
    world.anchor = "test. IN DS nonsense"
    assert world.gap().startswith("The trust anchor can't be read")
    world.anchor = f"other. IN DS {world.parent.ds()}"
    assert world.gap().startswith("example.test. lies below no trust anchor (there is one for other.)")


def test_evidence_without_an_anchor_or_time() -> None:
    parse = DnssecScanner().parse
    assert [type(found) for found in parse(Hostname("example.test"), Evidence())] == [NotMeasured]
    anchor = Part("anchor", World().anchor.encode(), {"asked_at": "yesterday"})
    assert [type(found) for found in parse(Hostname("example.test"), Evidence((anchor,)))] == [NotMeasured]


def test_a_flood_of_signatures_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-50387: what one set of records may cost does not grow with the number of its signatures."""
    world = World()
    rrset = rr("example.test.", "A", "192.0.2.1")
    signature = world.child.sign(rrset)[1][0]
    wrong = [signature.replace(signature=bytes([number]) * 64) for number in range(60)]
    world.say("example.test", "A", [rrset, dns.rrset.from_rdata_list(rrset.name, 300, wrong)])
    verified: list[int] = []
    validate = dns.dnssec.validate_rrsig

    def counted(rrset: Any, *more: Any) -> None:
        if rrset.rdtype == dns.rdatatype.A:
            verified.append(1)
        validate(rrset, *more)

    monkeypatch.setattr(dns.dnssec, "validate_rrsig", counted)
    assert [reason for _, _, reason in world.reasons()] == [
        f"its signature (key {world.child.tag}, ECDSAP256SHA256) does not match the records"
    ]
    assert len(verified) == 8


def test_the_work_for_one_name_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kattegat.plugins.dnssec.signatures.MOST_VERIFICATIONS", 3)
    assert World().gap() == "more than 3 signatures would have to be verified"

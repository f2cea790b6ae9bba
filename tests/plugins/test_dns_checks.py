"""Every check of the DNS and DNSSEC plugins: pass, fail with exact items, unknown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kattegat import registry
from kattegat.plugin import (
    Context,
    Evidence,
    Fact,
    Facts,
    Fail,
    Found,
    Hostname,
    Item,
    Known,
    Pass,
    Unknown,
    Verdict,
)
from kattegat.plugins.dns import DnsName, DnsRecords, NameServerAnswer
from kattegat.plugins.dnssec import DnssecScanner, DnssecStatus
from kattegat.plugins.dnssec.facts import DnssecDigest, DnssecKey, DnssecProblem, DnssecSpan, DnssecZone

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
HOST = Hostname("good.test")
FOLDER = Path(__file__).parent / "recorded"
Entry = Fact | tuple[str, Fact]


def known(entry: Entry, asset: Hostname = HOST) -> Known[Any]:
    item, fact = entry if isinstance(entry, tuple) else ("", entry)
    return Known(asset, fact, item, "scanner", "internet", NOW)


def facts(entries: Sequence[Entry] = (), unmeasured: Sequence[str] = ()) -> Facts[Any]:
    return Facts([known(entry) for entry in entries], unmeasured)


def judge(name: str, *needs: Facts[Any], host: Hostname = HOST, **options: Any) -> Verdict:
    spec = registry.load().check(name)
    assert len(needs) == len(spec.needs)
    defaults = {option.name: option.default for option in spec.options}
    return spec.function(Context(host, NOW, {**defaults, **options}), *needs)


def keys(verdict: Verdict) -> list[str]:
    """The keys of a failed verdict's items, each of whose sentences can be made."""
    assert isinstance(verdict, Fail), verdict
    assert all(str(item) and "{" not in str(item) for item in verdict.items)
    return [item.key for item in verdict.items]


def there(exists: bool = True, aliases: Sequence[str] = (), dangling: bool = False) -> Facts[Any]:
    return facts([DnsName(exists=exists, aliases=list(aliases), dangling=dangling, domain="good.test")])


def records(*shown: tuple[str, list[str]], unmeasured: Sequence[str] = ()) -> Facts[Any]:
    return facts([(item, DnsRecords(rdtype=item, records=data)) for item, data in shown], unmeasured)


def server(name: str, address: str, problem: str = "", serial: int | None = 1, servers: Sequence[str] = ()) -> Entry:
    fact = NameServerAnswer(server=name, address=address, problem=problem, serial=serial, servers=list(servers))
    return f"{name}|{address}", fact


def test_name_missing() -> None:
    assert judge("dns-name-missing", there()) == Pass()
    assert judge("dns-name-missing", facts()) == Pass()
    assert keys(judge("dns-name-missing", there(exists=False))) == ["nxdomain"]


def test_alias_dangling() -> None:
    assert judge("dns-alias-dangling", there(aliases=["b.test"])) == Pass()
    assert keys(judge("dns-alias-dangling", there(aliases=["b.test", "c.test"], dangling=True))) == ["c.test"]


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [
        (there(), records(("CAA", ['0 issue "ca.test"'])), Pass()),
        (there(exists=False), records(), Pass()),
        (there(), records(unmeasured=["CAA: No answer."]), Unknown("CAA: No answer.")),
        (there(), records(unmeasured=["MX: No answer."]), ["caa"]),
        (there(), records(("A", ["192.0.2.1"])), ["caa"]),
    ],
)
def test_caa_missing(name: Facts[Any], found: Facts[Any], expected: Verdict | list[str]) -> None:
    verdict = judge("dns-caa-missing", name, found)
    assert (keys(verdict) if isinstance(expected, list) else verdict) == expected


def test_caa_malformed() -> None:
    right = ['0 issue "ca.test"', '128 issuewild ";"', '0 IODEF "mailto:a@b.test"', '0 issuemail ";"']
    assert judge("dns-caa-malformed", records(("CAA", right))) == Pass()
    assert judge("dns-caa-malformed", records(unmeasured=["CAA: No answer."])) == Unknown("CAA: No answer.")
    wrong = ['0 isue "ca.test"', r"\# 1 00", '128 tbs "x"']
    assert keys(judge("dns-caa-malformed", records(("CAA", [*right, *wrong])))) == wrong


def test_address_ipv6() -> None:
    check = "dns-address-ipv6"
    assert judge(check, records(("A", ["192.0.2.1"]), ("AAAA", ["2001:db8::1"]))) == Pass()
    assert judge(check, records(("AAAA", ["2001:db8::1"]))) == Pass()
    assert judge(check, records()) == Pass()
    assert keys(judge(check, records(("A", ["192.0.2.1"])))) == ["aaaa"]
    silent = records(("A", ["192.0.2.1"]), unmeasured=["AAAA: No answer."])
    assert judge(check, silent) == Unknown("AAAA: No answer.")
    assert judge(check, records(unmeasured=["A: No answer."])) == Unknown("A: No answer.")


def test_name_servers_few() -> None:
    check = "name-servers-few"
    assert judge(check, records(("NS", ["ns1.test.", "ns2.test."]))) == Pass()
    assert judge(check, records()) == Pass()
    assert judge(check, records(unmeasured=["NS: No answer."])) == Unknown("NS: No answer.")
    assert keys(judge(check, records(("NS", ["ns1.test."])))) == ["one"]


def test_name_servers_ipv6() -> None:
    check = "name-servers-ipv6"
    one, two = Hostname("ns1.test"), Hostname("ns2.test")
    own = records(("NS", ["ns1.test.", "ns2.test."]))

    def linked(*with_it: Hostname, unmeasured: Sequence[str] = ()) -> Facts[Any]:
        fact = DnsRecords(rdtype="AAAA", records=["2001:db8::1"])
        return Facts([known(("AAAA", fact), host) for host in with_it], unmeasured, [one, two])

    assert judge(check, own, linked(one, two)) == Pass()
    assert judge(check, records(), linked()) == Pass()
    assert keys(judge(check, own, linked(one))) == ["ns2.test"]
    assert keys(judge(check, own, linked())) == ["ns1.test", "ns2.test"]
    assert judge(check, own, linked(one, unmeasured=["ns2.test: No answer."])) == Unknown("ns2.test: No answer.")
    assert judge(check, records(unmeasured=["NS: No answer."]), linked()) == Unknown("NS: No answer.")


FOUR = [server("a", "192.0.2.1"), server("b", "192.0.2.9")]
SIX = [server("a", "2001:db8::1"), server("b", "2001:db8:0:1::1")]


@pytest.mark.parametrize(
    ("answers", "unmeasured", "expected"),
    [
        (FOUR, [], "192.0.2.0/24"),
        (SIX, [], "2001:db8::/48"),
        ([*FOUR, *SIX], [], "192.0.2.0/24, 2001:db8::/48"),
        ([server("a", "192.0.2.1"), server("b", "198.51.100.1")], [], Pass()),
        ([*FOUR, server("a", "2001:db8::1"), server("b", "2001:db8:1::1")], [], Pass()),
        (FOUR[:1], [], Pass()),
        ([], [], Pass()),
        ([server("a", "192.0.2.1"), server("b", "2001:db8::1")], [], Pass()),
        ([*FOUR, server("c", "", "its name has no address")], [], "192.0.2.0/24"),
        (FOUR, ["c: No answer."], Unknown("c: No answer.")),
        ([server("a", "192.0.2.1"), server("b", "198.51.100.1")], ["c: No answer."], Pass()),
    ],
)
def test_name_servers_one_network(answers: list[Entry], unmeasured: list[str], expected: Verdict | str) -> None:
    verdict = judge("name-servers-one-network", facts(answers, unmeasured))
    if isinstance(expected, str):
        assert keys(verdict) == ["network"]
        assert isinstance(verdict, Fail)
        assert verdict.items[0].params == {"network": expected}
    else:
        assert verdict == expected


def test_name_server_lame() -> None:
    check = "name-server-lame"
    assert judge(check, facts(FOUR)) == Pass()
    assert judge(check, facts(FOUR, ["c: No answer."])) == Unknown("c: No answer.")
    lame = server("c", "192.0.2.3", "the DNS server answered REFUSED")
    both = server("c", "2001:db8::3", "the DNS server answered REFUSED")
    verdict = judge(check, facts([*FOUR, lame, both, server("d", "", "its name has no address")], ["e: No answer."]))
    assert keys(verdict) == ["c the DNS server answered REFUSED", "d its name has no address"]
    assert isinstance(verdict, Fail)
    assert [str(item) for item in verdict.items] == [
        "c (192.0.2.3, 2001:db8::3): the DNS server answered REFUSED",
        "d: its name has no address",
    ]


def test_name_server_diverging() -> None:
    check = "name-server-diverging"
    assert judge(check, facts(FOUR)) == Pass()
    assert judge(check, facts(FOUR, ["c: No answer."])) == Unknown("c: No answer.")
    old = [server("a", "192.0.2.1", serial=5), server("b", "192.0.2.9", serial=4)]
    verdict = judge(check, facts([*old, server("b", "2001:db8::9", serial=3)]))
    assert keys(verdict) == ["serial b"]
    assert isinstance(verdict, Fail)
    assert str(verdict.items[0]) == "b (192.0.2.9, 2001:db8::9) has serial 3, another server has 5"
    other = [server("a", "192.0.2.1", servers=["a", "b"]), server("b", "192.0.2.9", servers=["a"])]
    assert keys(judge(check, facts(other))) == ["servers"]
    lame = [server("a", "192.0.2.1", serial=5), server("b", "192.0.2.9", "lame", serial=None, servers=["x"])]
    assert judge(check, facts(lame)) == Pass()


def test_domain_ownership_pending() -> None:
    check = "domain-ownership-pending"
    pending = "ns1.registrant-verification.ispapi.net."
    assert judge(check, records(("NS", ["ns1.test."]))) == Pass()
    assert judge(check, records(unmeasured=["NS: No answer."])) == Unknown("NS: No answer.")
    assert keys(judge(check, records(("NS", [pending, "ns1.test."])))) == [pending.rstrip(".")]


# --- DNSSEC ----------------------------------------------------------------------------------------------------------


def status(
    kind: str = "secure",
    reason: str = "",
    problems: Sequence[DnssecProblem] = (),
    **zone: Any,
) -> Facts[Any]:
    above = DnssecZone("test", True, [DnssecKey(1, "RSASHA1", 1024)], [], spans((-20, 0.1)), 9)
    own = DnssecZone(**{"name": "good.test", "validated": kind == "secure", **zone})
    return facts([DnssecStatus(status=kind, reason=reason, problems=list(problems), zones=[above, own])])  # type: ignore[arg-type]


DNSSEC = [
    "dnssec-missing", "dnssec-bogus", "dnssec-signature-expiring", "dnssec-weak-algorithm", "dnssec-nsec3-iterations",
]  # fmt: skip


@pytest.mark.parametrize("check", DNSSEC)
def test_a_right_zone_and_a_name_without_status_pass_whatever_is_above(check: str) -> None:
    """The parent's weak keys and short signatures are not the domain's fault."""
    assert judge(check, status()) == Pass()
    assert judge(check, facts()) == Pass()


def test_dnssec_missing() -> None:
    plain = judge("dnssec-missing", status("insecure", "test has no DS record for good.test"))
    assert isinstance(plain, Fail)
    assert [(item.key, str(item)) for item in plain.items] == [
        ("insecure", "the domain is not signed: test has no DS record for good.test")
    ]
    unconnected = judge("dnssec-missing", status("insecure", "no DS", keys=[DnssecKey(2, "ED25519")]))
    assert isinstance(unconnected, Fail)
    assert str(unconnected.items[0]) == "the zone has keys, but resolvers do not use them: no DS"
    assert judge("dnssec-missing", status("bogus", "x", [DnssecProblem("good.test", "A", "x")])) == Pass()


def test_dnssec_bogus_has_an_item_for_each_problem() -> None:
    problems = [DnssecProblem("good.test", "TXT", "it has no signature"), DnssecProblem("good.test", "A", "it expired")]
    verdict = judge("dnssec-bogus", status("bogus", "x", problems))
    assert keys(verdict) == ["good.test A", "good.test TXT"]
    assert isinstance(verdict, Fail)
    assert str(verdict.items[0]) == "A in good.test: it expired"
    assert judge("dnssec-bogus", status("insecure", "no DS")) == Pass()


def spans(*days: tuple[float, float]) -> list[DnssecSpan]:
    """Signatures that began and end so many days from now."""
    return [DnssecSpan(NOW + timedelta(days=ends), NOW + timedelta(days=begins)) for begins, ends in days]


def test_dnssec_signature_expiring() -> None:
    check = "dnssec-signature-expiring"
    soon, later = spans((-12, 2)), spans((-6, 8), (-1, 13))
    assert judge(check, status(signatures=later)) == Pass(until=NOW + timedelta(days=8 - 3))
    shown: dict[str, str | int] = {"zone": "good.test", "until": "2026-06-03 12:00 UTC"}
    text = "a signature in {zone} ends on {until}"
    assert judge(check, status(signatures=[*soon, *later])) == Fail((Item("good.test", text, shown),))
    assert judge(check, status(signatures=soon), days=1) == Pass(until=NOW + timedelta(days=2 - 1))
    assert judge(check, status("insecure", "no DS", signatures=soon)) == Pass()
    assert judge(check, status("bogus", "x", [DnssecProblem("good.test", "A", "x")], signatures=soon)) == Pass()


def test_a_server_that_signs_each_answer_for_two_days_is_not_about_to_expire() -> None:
    check = "dnssec-signature-expiring"
    assert judge(check, status(signatures=spans((-1, 1)))) == Pass(until=NOW + timedelta(days=0.5))
    assert keys(judge(check, status(signatures=spans((-1.6, 0.4))))) == ["good.test"]
    # Signatures over the keys live longer, and are not hidden by the short ones.
    assert keys(judge(check, status(signatures=spans((-1, 1), (-58.5, 1.5))))) == ["good.test"]


def test_dnssec_weak_algorithm() -> None:
    check = "dnssec-weak-algorithm"
    strong = [DnssecKey(1, "RSASHA256", 2048), DnssecKey(2, "ECDSAP256SHA256"), DnssecKey(3, "ED25519")]
    weak = [DnssecKey(4, "RSASHA1NSEC3SHA1", 2048), DnssecKey(5, "RSASHA256", 1024), DnssecKey(6, "DSA")]
    digests = [DnssecDigest(1, "RSASHA256", "SHA256"), DnssecDigest(1, "RSASHA256", "SHA1")]
    assert judge(check, status(keys=strong, digests=digests[:1])) == Pass()
    verdict = judge(check, status(keys=[*strong, *weak], digests=digests))
    assert keys(verdict) == ["digest 1 SHA1", "key 4", "key 5", "key 6"]
    assert isinstance(verdict, Fail)
    assert [str(item) for item in verdict.items] == [
        "the DS record of key 1 uses SHA1",
        "key 4 uses RSASHA1NSEC3SHA1",
        "key 5 (RSASHA256) has 1024 bits only",
        "key 6 uses DSA",
    ]
    assert judge(check, status("insecure", "no DS", keys=weak)) == Pass()


def test_dnssec_nsec3_iterations() -> None:
    check = "dnssec-nsec3-iterations"
    assert judge(check, status(nsec3_iterations=0)) == Pass()
    assert keys(judge(check, status(nsec3_iterations=1))) == ["good.test"]
    assert judge(check, status("insecure", "too many", nsec3_iterations=500)) == Pass()


@pytest.mark.parametrize(
    ("case", "host", "expected"),
    [
        ("good", "good.test", {}),
        ("tampered", "tampered.test", {}),
        ("tampered-www", "www.tampered.test", {"dnssec-bogus": ["tampered.test A"]}),
        ("broken", "broken.test", {"dnssec-bogus": ["broken.test DNSKEY"]}),
        ("expired", "expired.test", {"dnssec-bogus": ["expired.test DNSKEY"]}),
        ("insecure", "insecure.test", {"dnssec-missing": ["insecure"]}),
        ("bad", "bad.test", {"dnssec-missing": ["insecure"]}),
        ("lame", "lame.test", {"dnssec-missing": ["insecure"]}),
        ("missing", "nowhere.test", {}),
        ("missing-nsec3", "a.none.good.test", {}),
        ("alias-chain", "alias.good.test", {}),
        ("wildcard", "any.wild.good.test", {}),
        ("underscore", "_underscore.good.test", {}),
    ],
)
def test_checks_of_recorded_zones(case: str, host: str, expected: dict[str, list[str]]) -> None:
    """Real servers' answers, judged as of the hour they were recorded: the verdict stays the same for ever."""
    evidence = Evidence.unpack((FOLDER / "dnssec" / f"dnssec--{case}.evidence").read_bytes())
    found = list(DnssecScanner().parse(Hostname(host), evidence))
    assert all(isinstance(one, Found) for one in found)
    anchor = evidence.first("anchor")
    assert anchor is not None
    asked_at = datetime.fromisoformat(anchor.notes["asked_at"])
    given = facts([one.fact for one in found if isinstance(one, Found)])
    failed = {}
    for name in DNSSEC:
        verdict = registry.load().check(name).function(Context(Hostname(host), asked_at, {"days": 3}), given)
        if not isinstance(verdict, Pass):
            failed[name] = keys(verdict)
    assert failed == expected


def test_the_same_evidence_read_as_of_another_time_has_expired() -> None:
    """Validity is judged at the time that the evidence names, not at the time of reading it."""
    evidence = Evidence.unpack((FOLDER / "dnssec" / "dnssec--good.evidence").read_bytes())
    anchor, *others = evidence.parts
    later = datetime.fromisoformat(anchor.notes["asked_at"]) + timedelta(days=58)
    moved = type(anchor)(anchor.name, anchor.content, {"asked_at": later.isoformat()})
    (found,) = DnssecScanner().parse(HOST, Evidence((moved, *others)))
    assert isinstance(found, Found)
    verdict = (
        registry.load()
        .check("dnssec-signature-expiring")
        .function(Context(HOST, later, {"days": 3}), facts([found.fact]))
    )
    assert keys(verdict) == ["good.test"]
    moved = type(anchor)(anchor.name, anchor.content, {"asked_at": (later + timedelta(days=5)).isoformat()})
    (found,) = DnssecScanner().parse(HOST, Evidence((moved, *others)))
    assert not isinstance(found, Found)  # the anchor's own zone has expired, which says nothing of the domain

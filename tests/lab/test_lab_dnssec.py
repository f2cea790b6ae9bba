"""The DNSSEC scanner through the runner against the laboratory's zones: signed well, signed badly, not signed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.dnssec
import dns.rdatatype
import dns.zone
import pytest
from scanning import Target, parsed, scan

from kattegat.model.facts import Found
from kattegat.plugins.dnssec import DnssecStatus
from lab import Lab

pytestmark = [pytest.mark.lab]

# name -> status, zones of the chain, where it breaks
SECURE = {
    "good.test": ["test", "good.test"],
    "www.good.test": ["test", "good.test"],
    "alias.good.test": ["test", "good.test"],
    "any.wild.good.test": ["test", "good.test"],
    "wild.good.test": ["test", "good.test"],
    "_underscore.good.test": ["test", "good.test"],
    "_submission._tcp.good.test": ["test", "good.test"],
    "tampered.test": ["test", "tampered.test"],
    "nic.test": ["test"],
}
INSECURE = {
    "bad.test": "bad.test",
    "lame.test": "lame.test",
    "insecure.test": "insecure.test",
    "www.insecure.test": "insecure.test",
    "takeover.bad.test": "bad.test",
    "live.bad.test": "bad.test",
}
BOGUS = {
    "broken.test": ("broken.test", "DNSKEY", r"no key of the zone matches the DS record \(\d+\)"),
    "expired.test": ("expired.test", "DNSKEY", r"its signature \(key \d+, ECDSAP256SHA256\) expired on (.*) UTC"),
    "www.tampered.test": ("tampered.test", "A", r"its signature \(key \d+, .*\) does not match the records"),
}
ABSENT = ("nowhere.test", "a.none.good.test", "none.tampered.test")


def tags(lab: Lab, zone: str) -> list[int]:
    """The key tags in the zone's master file."""
    read = dns.zone.from_file(str(Path(lab.directory) / "dns" / f"{zone}.zone"), f"{zone}.", relativize=False)
    return sorted(dns.dnssec.key_id(key) for key in read.find_rdataset(f"{zone}.", dns.rdatatype.DNSKEY))


def test_dnssec_scanner(lab: Lab) -> None:
    names = [*SECURE, *INSECURE, *BOGUS, *ABSENT]
    targets: list[Target] = [("dnssec", "Hostname", name) for name in names]
    found: dict[str, DnssecStatus | None] = {}
    for target, result in zip(targets, scan(lab, targets), strict=True):
        statuses = [one.fact if isinstance(one, Found) else one for one in parsed(target, result)]
        assert all(isinstance(status, DnssecStatus) for status in statuses), (target, statuses)
        found[target[2]] = statuses[0] if statuses else None  # type: ignore[assignment]

    now = datetime.now(UTC)
    for name, zones in SECURE.items():
        status = found[name]
        assert status is not None, name
        assert (status.status, status.reason, status.problems) == ("secure", "", []), name
        assert [zone.name for zone in status.zones] == zones, name
        for zone in status.zones:
            assert zone.validated
            assert [key.tag for key in zone.keys] == tags(lab, zone.name)
            assert {key.algorithm for key in zone.keys} == {"ECDSAP256SHA256"}
            assert [timedelta(days=58) < span.ends - now < timedelta(days=61) for span in zone.signatures] == [True]
    good, tampered = found["good.test"], found["tampered.test"]
    assert good is not None
    assert tampered is not None
    assert (good.zones[0].nsec3_iterations, good.zones[1].nsec3_iterations) == (None, 0)
    assert tampered.zones[1].nsec3_iterations is None
    assert [one.digest for one in good.zones[1].digests] == ["SHA256"]

    for name, cut in INSECURE.items():
        status = found[name]
        assert status is not None, name
        assert (status.status, status.reason) == ("insecure", f"test has no DS record for {cut}"), name
        assert status.problems == []
        last = status.zones[-1]
        assert (last.name, last.validated) == (cut, False)
        # Signed, but not connected to its parent: only that zone shows keys.
        assert [key.tag for key in last.keys] == (tags(lab, cut) if cut == "insecure.test" else []), name

    for name, (zone_name, record, reason) in BOGUS.items():
        status = found[name]
        assert status is not None, name
        assert status.status == "bogus"
        (problem,) = status.problems
        assert (problem.zone, problem.record) == (zone_name, record)
        match = re.fullmatch(reason, problem.reason)
        assert match, problem.reason
        assert status.reason == f"{zone_name}: {record}: {problem.reason}"
        if name == "expired.test":
            ended = datetime.strptime(match[1], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
            assert timedelta(days=29) < now - ended < timedelta(days=31)

    for name in ABSENT:
        assert found[name] is None, name

    for name in (*SECURE, *INSECURE, *BOGUS):
        # Unbound validates the same zones by itself: AD is secure, SERVFAIL bogus.
        status = found[name]
        assert status is not None
        said = lab.run(["dig", "+tries=2", "+time=5", "+adflag", name, "A"]).stdout
        flags = re.search(r"^;; flags: ([a-z ]+);", said, re.MULTILINE)
        assert flags, said
        other = "bogus" if "status: SERVFAIL" in said else "secure" if " ad" in flags[1] else "insecure"
        assert other == status.status, name


def test_what_can_not_be_proven_is_a_failed_scan(lab: Lab, tmp_path: Path) -> None:
    """No anchor above the name, and an anchor that can't be read: never "insecure"."""
    (outside,) = scan(lab, [("dnssec", "Hostname", "nowhere.example")])
    assert (outside.outcome, outside.evidence) == ("failed", b"")
    assert outside.reason.startswith("nowhere.example. lies below no trust anchor")
    nonsense = tmp_path / "anchor"
    nonsense.write_text("this is no anchor\n")
    (unread,) = scan(lab, [("dnssec", "Hostname", "good.test")], {"KAT_TRUST_ANCHOR": str(nonsense)})
    assert unread.outcome == "failed"
    assert unread.reason.startswith("The trust anchor can't be read")
    (absent,) = scan(lab, [("dnssec", "Hostname", "good.test")], {"KAT_TRUST_ANCHOR": str(tmp_path / "none")})
    assert absent.outcome == "failed"
    assert absent.reason.startswith("The file that KAT_TRUST_ANCHOR names can't be read")


def test_an_anchor_of_another_key_says_nothing_of_the_domain(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "anchor"
    other.write_text(f"test. IN DS 12345 13 2 {'00' * 32}\n")
    target: Target = ("dnssec", "Hostname", "good.test")
    (result,) = scan(lab, [target], {"KAT_TRUST_ANCHOR": str(other)})
    (gap,) = parsed(target, result)
    assert not isinstance(gap, Found)
    assert "no key of the zone matches the DS record (12345)" in gap.reason

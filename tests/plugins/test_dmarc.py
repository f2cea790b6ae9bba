"""DMARC policy records."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.mail.dmarc import Dmarc, ReportUri, external_report_name, parse, select_records


def codes(found: Dmarc) -> list[tuple[str, str]]:
    return [(problem.code, problem.tag) for problem in found.problems]


def test_a_full_record() -> None:
    found = parse(
        b"v=DMARC1; p=quarantine; sp=reject; np=none; pct=20; adkim=s; aspf=R; fo=1:d; rf=afrf; ri=3600;"
        b"rua=mailto:a@example.org!10m, mailto:b@Example.NET ; ruf=mailto:c@example.org;"
    )
    assert found.problems == ()
    assert (found.policy, found.subdomain_policy, found.nonexistent_policy) == ("quarantine", "reject", "none")
    assert (found.percent, found.adkim, found.aspf, found.report_interval) == (20, "s", "r", 3600)
    assert found.failure_options == ("1", "d")
    assert found.rua == (
        ReportUri("mailto:a@example.org", "mailto", "example.org", 10 * 1024 * 1024),
        ReportUri("mailto:b@Example.NET", "mailto", "example.net"),
    )
    assert [uri.domain for uri in found.ruf] == ["example.org"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Dmarc) == found


def test_defaults_and_subdomains_take_the_policy_of_the_domain() -> None:
    found = parse("v=DMARC1;p=Reject")
    assert (found.policy, found.subdomain_policy, found.nonexistent_policy) == ("reject", "reject", "reject")
    assert (found.percent, found.adkim, found.aspf, found.rua) == (100, "r", "r", ())
    assert found.problems == ()
    assert parse("v=DMARC1; p=reject; sp=none").nonexistent_policy == "none"


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ("v=DMARC1; p=reject; pct=101", [("invalid-value", "pct")]),
        ("v=DMARC1; p=reject; pct=-1", [("invalid-value", "pct")]),
        ("v=DMARC1; p=reject; pct=\u0663", [("invalid-value", "pct")]),
        ("v=DMARC1; p=reject; adkim=strict", [("invalid-value", "adkim")]),
        ("v=DMARC1; p=reject; fo=2:s", [("invalid-value", "fo")]),
        ("v=DMARC1; p=reject; rua=a@example.org", [("invalid-uri", "rua")]),
        ("v=DMARC1; p=reject; rua=mailto:a@example.org mailto:b@example.org", [("invalid-uri", "rua")]),
        ("v=DMARC1; p=reject; rua=https://example.org/", [("invalid-uri", "rua")]),
        ("v=DMARC1; p=reject; p=none", [("duplicate-tag", "p")]),
        ("v=DMARC1; p=reject; policy=none", [("unknown-tag", "policy")]),
        ("v=DMARC1; p=reject; t=y; psd=n", []),
        ("v=DMARC1; p=reject;; pct=1", [("syntax", "")]),
        ("v=DMARC1; adkim=r; p=reject", [("policy-position", "p")]),
        ("p=reject; v=DMARC1", [("version", "v"), ("policy-position", "p")]),
        ("v=dmarc1; p=reject", [("version", "v")]),
    ],
)
def test_what_is_wrong_is_named_and_does_not_undo_the_policy(record: str, wanted: list[tuple[str, str]]) -> None:
    found = parse(record)
    assert codes(found) == wanted
    assert found.policy == "reject"


@pytest.mark.parametrize(
    ("record", "policy"),
    [
        ("v=DMARC1; rua=mailto:a@example.org", "none"),
        ("v=DMARC1; p=rejct; rua=mailto:a@example.org", "none"),
        ("v=DMARC1; p=reject; sp=all; rua=mailto:a@example.org", "none"),
        ("v=DMARC1; p=rejct; rua=a@example.org", None),
        ("v=DMARC1; pct=5", None),
        ("", None),
    ],
)
def test_without_a_usable_policy_reports_decide(record: str, policy: str | None) -> None:
    found = parse(record)
    assert (found.policy, found.subdomain_policy) == (policy, policy)
    assert found.problems


def test_selection() -> None:
    texts = [
        b"v=DMARC1; p=none",
        b"v=DMARC10; p=none",
        b"v=spf1 -all",
        b"v = DMARC1 ;p=none",
        b"V=DMARC1;",
        b"v=DMARC1",
    ]
    assert select_records(texts) == (texts[0], texts[3], texts[5])


def test_the_name_that_permits_reports_elsewhere() -> None:
    assert external_report_name("example.org", "example.net") == "example.org._report._dmarc.example.net"


# A loaded machine must not fail a test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(
    [
        "v=DMARC1",
        "p=none",
        "p=x",
        "sp=reject",
        "pct=7",
        "pct=x",
        "rua=mailto:a@b.c!5k,x",
        "ruf=mailto:@",
        "fo=0:1:",
        "ri=99999999999",
        "=",
        "adkim=",
        "é",
    ]
)


@UNTIMED
@given(st.lists(PIECES | st.text(max_size=12), max_size=8).map(";".join) | st.binary(max_size=60))
def test_any_input_is_read_without_an_exception(record: str | bytes) -> None:
    found = parse(record)
    assert 0 <= found.percent <= 100
    assert found.policy is not None or found.problems

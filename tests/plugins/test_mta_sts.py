"""MTA-STS records and policy files."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.mail.mta_sts import (
    MAX_POLICY,
    StsPolicy,
    mx_allowed,
    parse_policy,
    parse_record,
    select_records,
)

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.Example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


def codes(found: StsPolicy) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_record() -> None:
    found = parse_record(b"v=STSv1; id=20160831085700Z;")
    assert (found.id, found.problems) == ("20160831085700Z", ())


@pytest.mark.parametrize(
    ("record", "wanted", "id_"),
    [
        ("v=STSv1; id=", ["invalid-id"], None),
        ("v=STSv1; id=2016-08-31", ["invalid-id"], None),
        ("v=STSv1; id=" + "1" * 33, ["invalid-id"], None),
        ("v=STSv1;", ["missing-id"], None),
        ("v=STSv2; id=1", ["version"], "1"),
        ("v=STSv1; id=1; id=2", ["duplicate-tag"], "1"),
        ("v=STSv1; id=1; what", ["syntax"], "1"),
        ("v=STSv1; id=1; extension=x", [], "1"),
    ],
)
def test_what_is_wrong_in_a_record(record: str, wanted: list[str], id_: str | None) -> None:
    found = parse_record(record)
    assert ([problem.code for problem in found.problems], found.id) == (wanted, id_)


def test_selection() -> None:
    texts = [b"v=STSv1; id=1", b"v=STSv1 ; id=1", b"v=STSv1", b"v=STSv10; id=1", b"V=STSv1; id=1", b"v = STSv1; id=1"]
    assert select_records(texts) == (texts[0], texts[1])


@pytest.mark.parametrize(
    "body", [POLICY, POLICY.replace(b"\r\n", b"\n"), POLICY.rstrip(), POLICY + b"x_1:  y \xc3\xa9\r\n"]
)
def test_a_policy(body: bytes) -> None:
    found = parse_policy(body)
    assert (found.valid, codes(found)) == (True, [])
    assert (found.mode, found.max_age, found.mx) == ("enforce", 604800, ("mail.example.com", "*.example.net"))
    assert msgspec.json.decode(msgspec.json.encode(found), type=StsPolicy) == found


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (b"STSv1", b"STSv2", ["version"]),
        (b"version: STSv1\r\n", b"", ["version"]),
        (b"enforce", b"Enforce", ["invalid-mode"]),
        (b"604800", b"31557601", ["invalid-max-age"]),
        (b"604800", b"1 week", ["invalid-max-age"]),
        (b"604800", b"\xd9\xa3", ["invalid-max-age"]),
        (b"*.example.net", b"*.*.example.net", ["invalid-mx"]),
        (b"*.example.net", b"*", ["invalid-mx"]),
        (b"mx: ", b"mxs: ", ["missing-mx"]),
        (b"mode: ", b"mode ", ["syntax", "invalid-mode"]),
        (b"mode: ", b"mode : ", ["syntax", "invalid-mode"]),
        (b"max_age", b"x: \xff\r\nmax_age", ["not-utf8"]),
    ],
)
def test_what_makes_a_policy_invalid(old: bytes, new: bytes, wanted: list[str]) -> None:
    found = parse_policy(POLICY.replace(old, new))
    problems = list(dict.fromkeys(codes(found)))
    assert (problems, found.valid) == (wanted if new != b"mxs: " else ["duplicate-field", *wanted], False)


def test_a_repeated_field_counts_once() -> None:
    found = parse_policy(POLICY + b"mode: none\r\n")
    assert (found.valid, found.mode, codes(found)) == (True, "enforce", ["duplicate-field"])


def test_mode_none_needs_no_mx() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 0\n").valid


def test_a_policy_without_end_is_cut_off() -> None:
    found = parse_policy(POLICY + b"x: " + b"y" * MAX_POLICY)
    assert (codes(found), found.valid, found.mode) == (["too-large"], False, "enforce")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mail.example.com.", True),
        ("MAIL.example.com", True),
        ("a.example.net", True),
        ("a.b.example.net", False),
        ("example.net", False),
        (".example.net", False),
        ("example.com", False),
    ],
)
def test_a_star_stands_for_one_label(host: str, allowed: bool) -> None:
    assert mx_allowed(host, parse_policy(POLICY).mx) is allowed


# A loaded machine must not fail a test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LINES = st.sampled_from([b"version: STSv1", b"mode: none", b"mode:", b"mx: *.", b"mx: a.b", b"max_age: 9", b":", b"\r"])


@UNTIMED
@given(
    st.lists(LINES | st.binary(max_size=12), max_size=8).map(b"\n".join), st.text(max_size=40) | st.binary(max_size=40)
)
def test_any_input_is_read_without_an_exception(body: bytes, record: str | bytes) -> None:
    policy = parse_policy(body)
    assert policy.valid or policy.problems
    found = parse_record(record)
    assert found.id is not None or found.problems

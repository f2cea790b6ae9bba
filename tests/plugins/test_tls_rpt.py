"""TLS-RPT records."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.mail.tls_rpt import TlsRpt, parse, select_records


def test_a_record() -> None:
    found = parse(b"v=TLSRPTv1; rua=mailto:tls@example.org , https://reports.example.org/v1;")
    assert found.rua == ("mailto:tls@example.org", "https://reports.example.org/v1")
    assert found.problems == ()
    assert msgspec.json.decode(msgspec.json.encode(found), type=TlsRpt) == found


@pytest.mark.parametrize(
    ("record", "wanted", "count"),
    [
        ("v=TLSRPTv1;", ["missing-rua"], 0),
        ("v=TLSRPTv2; rua=mailto:a@example.org", ["version"], 1),
        ("v=TLSRPTv1; rua=a@example.org", ["invalid-uri"], 0),
        ("v=TLSRPTv1; rua=mailto:a@example.org,", ["invalid-uri"], 1),
        ("v=TLSRPTv1; rua=mailto:a@example.org!10m", ["invalid-uri"], 0),
        ("v=TLSRPTv1; rua=http://example.org/", ["invalid-uri"], 0),
        ("v=TLSRPTv1; rua=https:example.org", ["invalid-uri"], 0),
        ("v=TLSRPTv1; rua=mailto:a@b@example.org", ["invalid-uri"], 0),
        ("v=TLSRPTv1; rua=mailto:a@example.org; rua=mailto:b@example.org", ["duplicate-tag"], 1),
        ("v=TLSRPTv1; rua=mailto:a@example.org?subject=x", [], 1),
    ],
)
def test_what_is_wrong(record: str, wanted: list[str], count: int) -> None:
    found = parse(record)
    assert ([problem.code for problem in found.problems], len(found.rua)) == (wanted, count)


def test_selection() -> None:
    texts = [b"v=TLSRPTv1; rua=mailto:a@example.org", b"v=TLSRPTv1", b"v=TLSRPTv1 ;", b"v=tlsrptv1; rua=x"]
    assert select_records(texts) == (texts[0], texts[2])


# A loaded machine must not fail a test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(["v=TLSRPTv1", "rua=", "rua=mailto:a@b.c", "rua=,", "x", "=", "\xe9"])


@UNTIMED
@given(st.lists(PIECES | st.text(max_size=12), max_size=6).map(";".join) | st.binary(max_size=60))
def test_any_input_is_read_without_an_exception(record: str | bytes) -> None:
    found = parse(record)
    assert found.rua or found.problems

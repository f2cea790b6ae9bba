"""The times of a scan by the clock of the install, whatever the runner's clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as some

from kattegat.web.door import by_our_clock

LEASED = datetime(2030, 1, 1, tzinfo=UTC)
SECONDS = some.floats(-1e7, 1e7).map(lambda seconds: timedelta(seconds=seconds))
SPANS = some.floats(0, 1e6).map(lambda seconds: timedelta(seconds=seconds))


@given(SECONDS, SPANS, SPANS)
def test_a_scan_lies_between_its_lease_and_now(wrong: timedelta, took: timedelta, since: timedelta) -> None:
    now = LEASED + since
    started, ended = by_our_clock(LEASED + wrong, LEASED + wrong + took, LEASED, now)
    assert LEASED <= started <= ended <= now


def test_a_clock_that_is_right_is_believed() -> None:
    times = LEASED + timedelta(seconds=3), LEASED + timedelta(seconds=9)
    assert by_our_clock(*times, LEASED, LEASED + timedelta(seconds=60)) == times

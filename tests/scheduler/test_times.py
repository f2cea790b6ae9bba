"""Windows, blackouts, cron: by the wall clock of their zone, also where it is put forward or back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattegat.scheduler import times
from kattegat.scheduler.times import Cron, TimeRuleError


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


MOMENTS = st.integers(0, 15 * 365 * 86400).map(lambda seconds: at("2020-01-01T00:00") + timedelta(seconds=seconds))
NIGHTS = times.window("weekdays 20:00-06:00 Europe/Amsterdam")


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-20T18:59", "2026-11-20T19:00"),  # Friday, 19:59 there
        ("2026-11-20T23:00", "2026-11-20T23:00"),  # in the night that began on Friday
        ("2026-11-21T04:59", "2026-11-21T04:59"),
        ("2026-11-21T05:00", "2026-11-23T19:00"),  # Saturday morning: not before Monday
        ("2026-03-27T18:59", "2026-03-27T19:00"),  # the last evening of winter time
        ("2026-03-30T17:00", "2026-03-30T18:00"),  # summer time: an hour earlier by UTC
    ],
)
def test_nights_of_weekdays(now: str, opens: str) -> None:
    assert times.opens(at(now), (NIGHTS,), ()) == at(opens)


def test_a_blackout_closes_a_window() -> None:
    dark = times.blackout("2026-12-24T00:00 2026-12-28T12:00 Europe/Amsterdam")
    assert times.opens(at("2026-12-23T22:59"), (NIGHTS,), (dark,)) == at("2026-12-23T22:59")
    assert times.opens(at("2026-12-23T23:00"), (NIGHTS,), (dark,)) == at("2026-12-28T19:00")
    assert times.opens(at("2026-12-25T00:00"), (), (dark,)) == at("2026-12-28T11:00")


def test_windows_that_never_open_together_are_far() -> None:
    assert times.opens(at("2026-01-01T00:00"), (), ()) == at("2026-01-01T00:00")
    always_dark = times.Blackout(at("2026-01-01T00:00"), at("2099-01-01T00:00"))
    assert times.opens(at("2026-01-01T00:00"), (NIGHTS,), (always_dark,)) > at("2030-01-01T00:00")


def cron(rule: str) -> Cron:
    found = times.interval(f"cron {rule}")
    assert isinstance(found, Cron)
    return found


@pytest.mark.parametrize(
    ("rule", "now", "due"),
    [
        ("30 3 * * *", "2026-11-22T03:30", "2026-11-23T03:30"),
        ("30 3 * * * Europe/Amsterdam", "2026-11-22T03:30", "2026-11-23T02:30"),
        ("*/15 8-17 * * mon-fri", "2026-11-20T17:46", "2026-11-23T08:00"),
        ("0 0 1 * 0", "2026-11-22T00:00", "2026-11-29T00:00"),  # either: Sundays, and firsts of a month
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 12 * * 7", "2026-11-22T12:00", "2026-11-29T12:00"),
        ("0 12 * * sat-mon", "2026-11-22T12:00", "2026-11-23T12:00"),
        # 02:30 is left out on that night; it counts as 03:30 by the new clock.
        ("30 2 * * * Europe/Amsterdam", "2026-03-29T00:00", "2026-03-29T01:30"),
        ("0 0 31 2 *", "2026-01-01T00:00", "2031-01-05T00:00"),
    ],
)
def test_cron(rule: str, now: str, due: str) -> None:
    found = cron(rule).after(at(now))
    assert found == at(due) or (found - at(now)) > timedelta(days=1800)


@pytest.mark.parametrize(
    "rule",
    ["", "12", "0h", "99999d", "cron 60 * * * *", "cron * * * *", "cron a * * * *", "cron 1 1 1 1 1 Nowhere/At-all"],
)
def test_what_is_no_interval(rule: str) -> None:
    with pytest.raises(TimeRuleError):
        times.interval(rule)


@pytest.mark.parametrize("rule", ["", "20:00", "25:00-26:00", "xyz 20:00-06:00", "mon 20:00-06:00 Mars/North"])
def test_what_is_no_window(rule: str) -> None:
    with pytest.raises(TimeRuleError):
        times.window(rule)


@pytest.mark.parametrize("rule", ["", "a b", "2026-12-24 2026-12-23", "2026-12-24T00:00 2026-12-27T08:00 Mars/North"])
def test_what_is_no_blackout(rule: str) -> None:
    with pytest.raises(TimeRuleError):
        times.blackout(rule)


@given(
    MOMENTS,
    st.sampled_from(["mon-fri 20:00-06:00 Europe/Amsterdam", "sun 02:00-03:00 America/New_York", "09:00-17:00"]),
)
def test_it_is_open_when_it_says_that_it_opens(moment: datetime, rule: str) -> None:
    window = times.window(rule)
    found = times.opens(moment, (window,), ())
    # The hour that the clock leaves out in spring is no window in that week.
    assert moment <= found <= moment + timedelta(days=15)
    assert any(begins <= found < ends for begins, ends in window.spans(found))
    if found > moment:
        assert not any(begins <= moment < ends for begins, ends in window.spans(moment))


@given(MOMENTS, st.integers(0, 59))
def test_cron_is_after_and_at_its_minute(moment: datetime, minute: int) -> None:
    found = cron(f"{minute} * * * *").after(moment)
    assert moment < found <= moment + timedelta(hours=1, minutes=1)
    assert found.minute == minute

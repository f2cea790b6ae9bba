"""When something may run and when it is due: intervals, cron, windows and blackouts, each in a time zone of its own.

    every     12h | 7d | 90m | cron 30 3 * * mon-fri [Europe/Amsterdam]
    window    mon-fri 20:00-06:00 Europe/Amsterdam    (a span over midnight belongs to the day it begins on)
    blackout  2026-12-24T00:00 2026-12-27T08:00 Europe/Amsterdam

Without a zone it is UTC. Where clocks are put forward or back, a span begins and ends by the wall clock there.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from kattegat.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LEAST, MOST = timedelta(minutes=1), timedelta(days=3660)
FAR = timedelta(days=366 * 5)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class TimeRuleError(UsageError):
    """A rule about times that can't be read."""

    def __init__(self, rule: str, reason: str) -> None:
        self.rule = rule
        self.reason = reason
        super().__init__(f"{rule[:80]!r} can't be read: {reason}.")


class Cron(msgspec.Struct, frozen=True):
    """Minutes, hours, days of the month, months and days of the week (0 is Monday) at which something is due."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    """With a day of the month and a day of the week both given, either will do (crontab(5))."""
    zone: str = "UTC"

    def after(self, moment: datetime) -> datetime:
        """The first time after a moment. A time that the clock leaves out counts as the one an hour later."""
        zone = zone_of(self.zone)
        local = moment.astimezone(zone)
        day = local.date()
        for _ in range(366 * 5):
            if day.month in self.months and self._day(day.day, day.weekday()):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        found = datetime.combine(day, time(hour, minute), zone).astimezone(UTC)
                        if found > moment:
                            return found
            day += timedelta(days=1)
        return moment + FAR

    def _day(self, day: int, weekday: int) -> bool:
        if self.either:
            return day in self.days or weekday in self.weekdays
        return day in self.days and weekday in self.weekdays


class Window(msgspec.Struct, frozen=True):
    """A span of the day on some days of the week (0 is Monday); `start` equal to `end` is the whole day."""

    days: frozenset[int]
    start: time
    end: time
    zone: str = "UTC"

    def spans(self, moment: datetime) -> list[tuple[datetime, datetime]]:
        """The spans from the day before a moment to eight days after it."""
        zone = zone_of(self.zone)
        day = moment.astimezone(zone).date() - timedelta(days=1)
        found = []
        for offset in range(10):
            begins = day + timedelta(days=offset)
            if begins.weekday() in self.days:
                over = begins if self.end > self.start else begins + timedelta(days=1)
                found.append(
                    (
                        datetime.combine(begins, self.start, zone).astimezone(UTC),
                        datetime.combine(over, self.end, zone).astimezone(UTC),
                    )
                )
        return found


class Blackout(msgspec.Struct, frozen=True):
    """A time in which nothing runs."""

    start: datetime
    end: datetime


def opens(moment: datetime, windows: tuple[Window, ...], blackouts: tuple[Blackout, ...]) -> datetime:
    """The first time from a moment on at which something may run: the moment itself when that is now."""
    at = moment
    for _ in range(100):
        closed = next((dark for dark in blackouts if dark.start <= at < dark.end), None)
        if closed is not None:
            at = closed.end
            continue
        if not windows:
            return at
        starts: list[datetime] = []
        for window in windows:
            for begins, ends in window.spans(at):
                if begins <= at < ends:
                    return at
                if begins > at:
                    starts.append(begins)
        if not starts:
            break
        at = min(starts)
    return moment + FAR


@lru_cache(maxsize=256)
def interval(rule: str) -> timedelta | Cron:
    """An interval (`12h`) or a cron rule (`cron 30 3 * * *`, with a time zone after it if wished)."""
    if rule.strip().lower().startswith("cron "):
        return _cron(rule)
    found = re.fullmatch(r"\s*(\d{1,9})\s*([smhdw])\s*", rule)
    if not found:
        raise TimeRuleError(rule, "write it like 12h, 7d, or cron 30 3 * * mon")
    span = timedelta(seconds=int(found[1]) * UNITS[found[2]])
    if not LEAST <= span <= MOST:
        raise TimeRuleError(rule, "an interval is a minute to ten years")
    return span


@lru_cache(maxsize=256)
def window(rule: str) -> Window:
    """A window: days, a span, and a time zone if wished."""
    found = re.fullmatch(
        r"\s*(?:([a-z,-]+)\s+)?(\d{1,2}:\d\d)\s*-\s*(\d{1,2}:\d\d)(?:\s+(\S+))?\s*", rule, re.IGNORECASE
    )
    if not found:
        raise TimeRuleError(rule, "write it like mon-fri 20:00-06:00 Europe/Amsterdam")
    named = (found[1] or "mon-sun").lower().replace("weekdays", "mon-fri").replace("weekend", "sat-sun")
    days = _field(rule, named.replace("daily", "mon-sun"), 0, 6, DAYS)
    return Window(days, _clock(rule, found[2]), _clock(rule, found[3]), _zone(rule, found[4]))


@lru_cache(maxsize=256)
def blackout(rule: str) -> Blackout:
    """A blackout: two times and a time zone if wished."""
    parts = rule.split()
    if len(parts) not in (2, 3):
        raise TimeRuleError(rule, "write it like 2026-12-24T00:00 2026-12-27T08:00 Europe/Amsterdam")
    zone = zone_of(_zone(rule, parts[2] if len(parts) == 3 else None))
    try:
        start, end = (datetime.fromisoformat(part) for part in parts[:2])
    except ValueError:
        raise TimeRuleError(rule, "a time is like 2026-12-24T00:00") from None
    start, end = ((at if at.tzinfo is not None else at.replace(tzinfo=zone)).astimezone(UTC) for at in (start, end))
    if end <= start:
        raise TimeRuleError(rule, "it ends before it begins")
    return Blackout(start, end)


def zone_of(name: str) -> ZoneInfo:
    """A time zone that is known to exist."""
    return ZoneInfo(name)


def _cron(rule: str) -> Cron:
    parts = rule.split()[1:]
    if len(parts) not in (5, 6):
        raise TimeRuleError(rule, "cron has five fields (minute, hour, day, month, day of the week) and a time zone")
    minute, hour, day, month, weekday = (part.lower() for part in parts[:5])
    # crontab(5) counts the days of the week from Sunday, 0 or 7.
    weekdays = frozenset((number - 1) % 7 for number in _field(rule, weekday, 0, 7, ("sun", *DAYS[:6])))
    return Cron(
        _field(rule, minute, 0, 59),
        _field(rule, hour, 0, 23),
        _field(rule, day, 1, 31),
        _field(rule, month, 1, 12, ("", *MONTHS)),
        weekdays,
        day != "*" and weekday != "*",
        _zone(rule, parts[5] if len(parts) == 6 else None),
    )


def _field(rule: str, text: str, least: int, most: int, names: tuple[str, ...] = ()) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            low, high = least, most
        else:
            low = _number(rule, first, names)
            high = _number(rule, last, names) if dash else (most if step else low)
        if not (least <= low <= most and least <= high <= most) or (step and not (step.isdecimal() and int(step))):
            raise TimeRuleError(rule, f"{part!r} is out of its range")
        numbers = range(low, high + 1) if low <= high else (*range(low, most + 1), *range(least, high + 1))
        found.update(list(numbers)[:: int(step) if step else 1])
    return frozenset(found)


def _number(rule: str, text: str, names: tuple[str, ...]) -> int:
    if text and text in names:
        return names.index(text)
    if not text.isdecimal():
        raise TimeRuleError(rule, f"{text!r} is neither a number nor a name that fits")
    return int(text)


def _clock(rule: str, text: str) -> time:
    hour, minute = (int(part) for part in text.split(":"))
    if (hour, minute) == (24, 0):
        return time(0)
    if hour > 23 or minute > 59:
        raise TimeRuleError(rule, f"{text} is no time of the day")
    return time(hour, minute)


def _zone(rule: str, name: str | None) -> str:
    if name is None:
        return "UTC"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise TimeRuleError(rule, f"there is no time zone {name!r}") from None
    return name

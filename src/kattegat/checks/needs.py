"""What checks need, read for many assets at once: current facts with the state of the source that says each.

"Not measured" is never "absent": a need is measured when a source of it ran, last time, with success. Else there is a
reason in words. Five statements read everything, however many assets there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from kattegat.errors import KeyFormatError
from kattegat.model import assets as model
from kattegat.model.assets import Asset
from kattegat.model.facts import Fact
from kattegat.plugin import CheckSpec, Facts, Known, Need, ScannerSpec
from kattegat.registry import Registry

STALE_AFTER = 3
"""A fact is stale when its source has not confirmed it for this many intervals."""
DEFAULT_EVERY = timedelta(days=7)

ASSETS = text(
    """
    SELECT id, type, key, present, clearance FROM asset
    WHERE organisation_id = :organisation AND id = ANY(CAST(:ids AS bigint[]))
    """
)
NEIGHBOURS = text(
    """
    SELECT origin_id, target_id, type FROM link
    WHERE organisation_id = :organisation AND ended_at IS NULL
      AND origin_id = ANY(CAST(:ids AS bigint[])) AND type = ANY(CAST(:along AS text[]))
    UNION
    SELECT origin_id, target_id, type FROM link
    WHERE organisation_id = :organisation AND ended_at IS NULL
      AND target_id = ANY(CAST(:ids AS bigint[])) AND type = ANY(CAST(:against AS text[]))
    """
)
FACTS = text(
    """
    SELECT f.asset_id, f.kind, f.item, f.form, f.value, f.source_id FROM fact f
    WHERE f.organisation_id = :organisation AND f.ended_at IS NULL
      AND f.asset_id = ANY(CAST(:ids AS bigint[])) AND f.kind = ANY(CAST(:kinds AS text[]))
    ORDER BY f.asset_id, f.kind, f.item, f.source_id
    """
)
SOURCES = text(
    """
    SELECT s.id, s.asset_id, s.scanner, s.vantage, s.state, s.reason, s.confirmed_at, s.last_ended_at, s.unmeasured,
           h.every, coalesce(h.hold, '') AS hold
    FROM source s LEFT JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
    WHERE s.organisation_id = :organisation
      AND (s.asset_id = ANY(CAST(:ids AS bigint[])) OR s.id = ANY(CAST(:sources AS bigint[])))
    """
)


class Row(NamedTuple):
    """An asset as read: its number, what it is, whether it is present and how much it may be scanned."""

    id: int
    asset: Asset
    present: bool
    clearance: int


class Source(NamedTuple):
    """A source as read."""

    id: int
    asset_id: int
    scanner: str
    vantage: str
    state: str
    reason: str
    confirmed_at: datetime | None
    ended_at: datetime | None
    unmeasured: tuple[tuple[str, str | None, str], ...]
    every: timedelta | None
    hold: str

    def stale_at(self) -> datetime | None:
        """From when its facts are stale; None for what was never confirmed."""
        return self.confirmed_at and self.confirmed_at + STALE_AFTER * (self.every or DEFAULT_EVERY)


class Measured(NamedTuple):
    """What is known for one need of one asset: `missing` is the reason why nothing is, or ""."""

    facts: Facts[Any]
    missing: str
    until: datetime | None


class Picture:
    """Everything that the checks of a set of assets may look at, in memory."""

    def __init__(self, registry: Registry, now: datetime) -> None:
        self.registry = registry
        self.now = now
        self.rows: dict[int, Row] = {}
        self.neighbours: dict[tuple[int, str, bool], list[int]] = defaultdict(list)
        self.facts: dict[tuple[int, str], list[tuple[Known[Any], Source]]] = defaultdict(list)
        self.unreadable: dict[tuple[int, str], str] = {}
        self.own: dict[tuple[int, str], list[Source]] = defaultdict(list)
        self._done: dict[tuple[int, str], Measured] = {}

    def measured(self, row: Row, need: Need) -> Measured:
        """The facts of a need of an asset, or the reason why there are none to go by."""
        if not need.link:
            return self._about(row, need.fact)
        # A link can lead to several types of asset (websites and services present certificates); the fact is about one.
        linked = [
            self.rows[other]
            for other in self.neighbours[row.id, need.link, need.backwards]
            if other in self.rows and isinstance(self.rows[other].asset, need.fact.about)
        ]
        parts = [(other, self._about(other, need.fact)) for other in linked]
        missing = [f"{part.missing} ({other.asset})" for other, part in parts if part.missing]
        facts: Facts[Any] = Facts(
            [known for _, part in parts for known in part.facts.known],
            [*(reason for _, part in parts for reason in part.facts.unmeasured), *missing],
            [other.asset for other in linked],
        )
        whole = missing[0] if missing and len(missing) == len(parts) else ""
        return Measured(facts, whole, _earliest(part.until for _, part in parts))

    def _about(self, row: Row, fact: type[Fact]) -> Measured:
        """Worked out once, since many checks look at the same facts."""
        key = (row.id, fact.kind)
        if key not in self._done:
            self._done[key] = self._work_out(row, fact)
        return self._done[key]

    def _work_out(self, row: Row, fact: type[Fact]) -> Measured:
        current: list[Known[Any]] = []
        reasons: list[str] = []
        unmeasured: list[str] = []
        until: list[datetime | None] = []
        for known, source in self.facts[row.id, fact.kind]:
            problem = self._problem(source)
            if problem:
                reasons.append(problem)
            else:
                current.append(known)
                until.append(source.stale_at())
        answered = bool(current)
        for scanner in self.registry.yielded_by.get(fact.kind, ()):
            if scanner.about is not type(row.asset) or not scanner.applies(row.asset):
                continue
            sources = self.own[row.id, scanner.name]
            if not sources:
                reasons.append(never(scanner, row, ""))
            for source in sources:
                problem = self._problem(source)
                if problem:
                    reasons.append(never(scanner, row, source.hold) if source.state == "never" else problem)
                    continue
                parts = [entry for entry in source.unmeasured if entry[0] == fact.kind]
                unmeasured += [reason if item is None else f"{item}: {reason}" for _, item, reason in parts]
                if any(item is None for _, item, _ in parts) and not any(
                    known.scanner == scanner.name for known in current
                ):
                    reasons.append(next(reason for _, item, reason in parts if item is None))
                    continue
                answered = True
                until.append(source.stale_at())
        if unreadable := self.unreadable.get((row.id, fact.kind)):
            # Going by the rest would take what can't be read for absent.
            return Measured(Facts(current, unmeasured), unreadable, _earliest(until))
        missing = "" if answered else (reasons[0] if reasons else f"nothing has measured {fact.kind} of it yet")
        return Measured(Facts(current, unmeasured), missing, _earliest(until))

    def _problem(self, source: Source) -> str:
        if source.state == "never":
            return f"{source.scanner} has not run yet"
        if source.state in ("failed", "blocked"):
            at = f" at {source.ended_at:%Y-%m-%d %H:%M} UTC" if source.ended_at else ""
            word = "failed" if source.state == "failed" else "was refused"
            return f"{source.scanner} {word}{at}: {source.reason}"
        stale = source.stale_at()
        if stale is not None and stale <= self.now:
            return f"{source.scanner} last succeeded at {source.confirmed_at:%Y-%m-%d %H:%M} UTC, too long ago to go by"
        return ""


def never(scanner: ScannerSpec, row: Row, hold: str) -> str:
    """Why a scanner has never run on an asset."""
    if hold:
        return f"{scanner.name} has not run: {hold}"
    if row.clearance < scanner.clearance:
        return f"{scanner.name} has not run: clearance {row.clearance}, needs {scanner.clearance}"
    return f"{scanner.name} has not run yet"


def _earliest(times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def links_used(checks: Iterable[CheckSpec]) -> tuple[list[str], list[str]]:
    """The link types that checks follow: along, and against their direction."""
    needs = [need for check in checks for need in check.needs if need.link]
    return (
        sorted({need.link for need in needs if not need.backwards}),
        sorted({need.link for need in needs if need.backwards}),
    )


def read(connection: Connection, organisation: int, ids: Collection[int], registry: Registry, now: datetime) -> Picture:
    """The picture for the checks of these assets, in five statements."""
    picture = Picture(registry, now)
    along, against = links_used(registry.checks.values())
    asked = {"organisation": organisation, "ids": list(ids)}
    for link in connection.execute(NEIGHBOURS, {**asked, "along": along, "against": against}):
        picture.neighbours[link.origin_id, link.type, False].append(link.target_id)
        picture.neighbours[link.target_id, link.type, True].append(link.origin_id)
    everything = sorted({*ids, *(other for others in picture.neighbours.values() for other in others)})
    asked = {"organisation": organisation, "ids": everything}
    for found in connection.execute(ASSETS, asked):
        try:
            asset = model.parse(found.type, found.key)
        except KeyFormatError:
            asset = model.Other(found.type, found.key)
        picture.rows[found.id] = Row(found.id, asset, found.present, found.clearance)
    kinds = sorted({need.fact.kind for check in registry.checks.values() for need in check.needs})
    facts = connection.execute(FACTS, {**asked, "kinds": kinds}).all()
    sources = _sources(connection, asked, {fact.source_id for fact in facts})
    for source in sources.values():
        picture.own[source.asset_id, source.scanner].append(source)
    for fact in facts:
        _add_fact(picture, fact, sources)
    return picture


def _sources(connection: Connection, asked: Mapping[str, Any], others: set[int]) -> dict[int, Source]:
    made: dict[int, Source] = {}
    for found in connection.execute(SOURCES, {**asked, "sources": sorted(others)}):
        unmeasured = tuple((entry[0], entry[1], entry[2]) for entry in found.unmeasured)
        made[found.id] = Source(
            found.id, found.asset_id, found.scanner, found.vantage, found.state, found.reason, found.confirmed_at,
            found.last_ended_at, unmeasured, found.every, found.hold,
        )  # fmt: skip
    return made


def _add_fact(picture: Picture, fact: Any, sources: Mapping[int, Source]) -> None:
    type_ = picture.registry.facts[fact.kind]
    if fact.form != type_.form:
        picture.unreadable[fact.asset_id, fact.kind] = (
            f"{fact.kind} was recorded in form {fact.form}, and this release reads form {type_.form}"
        )
        return
    try:
        value = msgspec.convert(fact.value, type=type_)
    except msgspec.ValidationError as problem:
        picture.unreadable[fact.asset_id, fact.kind] = f"{fact.kind} can't be read ({problem})"
        return
    source, row = sources[fact.source_id], picture.rows[fact.asset_id]
    confirmed = source.confirmed_at or picture.now
    known: Known[Any] = Known(row.asset, value, fact.item, source.scanner, source.vantage, confirmed)
    picture.facts[fact.asset_id, fact.kind].append((known, source))

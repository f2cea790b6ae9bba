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
    SELECT a.id, a.type, a.key, a.present, a.clearance
    FROM unnest(CAST(:ids AS bigint[])) AS s(id)
    CROSS JOIN LATERAL (SELECT * FROM asset a WHERE a.organisation_id = :organisation AND a.id = s.id OFFSET 0) a
    """
)
# A range and not an equality, so that the order by it counts: only the index of the link's own end gives it. By the
# index of the other end (skipping through it, from PostgreSQL 18 on) every current link of the type would be read.
NEIGHBOURS = text(
    """
    SELECT s.id AS origin_id, l.target_id, t.type
    FROM unnest(CAST(:ids AS bigint[])) AS s(id) CROSS JOIN unnest(CAST(:along AS text[])) AS t(type)
    CROSS JOIN LATERAL (SELECT l.target_id FROM link l
                        WHERE l.organisation_id = :organisation AND l.origin_id = s.id AND l.ended_at IS NULL
                          AND l.type BETWEEN t.type AND t.type ORDER BY l.type OFFSET 0) l
    UNION
    SELECT l.origin_id, s.id, t.type
    FROM unnest(CAST(:ids AS bigint[])) AS s(id) CROSS JOIN unnest(CAST(:against AS text[])) AS t(type)
    CROSS JOIN LATERAL (SELECT l.origin_id FROM link l
                        WHERE l.organisation_id = :organisation AND l.target_id = s.id AND l.ended_at IS NULL
                          AND l.type BETWEEN t.type AND t.type ORDER BY l.type OFFSET 0) l
    """
)
FACTS = text(
    """
    SELECT s.id AS asset_id, f.kind, f.item, f.form, f.value, f.source_id
    FROM unnest(CAST(:ids AS bigint[])) AS s(id)
    CROSS JOIN LATERAL (SELECT f.kind, f.item, f.form, CAST(f.value AS text) AS value, f.source_id FROM fact f
                        WHERE f.organisation_id = :organisation AND f.asset_id = s.id AND f.ended_at IS NULL
                        ORDER BY f.kind, f.item, f.source_id OFFSET 0) f
    WHERE f.kind = ANY(CAST(:kinds AS text[]))
    """
)
SOURCES = text(
    """
    SELECT s.id, s.asset_id, s.scanner, s.vantage, s.state, s.reason, s.confirmed_at, s.last_ended_at, s.unmeasured,
           h.every, coalesce(h.hold, '') AS hold, a.present
    FROM (
        SELECT o.id FROM unnest(CAST(:ids AS bigint[])) AS n(id)
        CROSS JOIN LATERAL (SELECT s.id FROM source s
                            WHERE s.organisation_id = :organisation AND s.asset_id = n.id OFFSET 0) o
        UNION
        SELECT * FROM unnest(CAST(:sources AS bigint[]))
    ) n
    CROSS JOIN LATERAL (SELECT * FROM source s WHERE s.organisation_id = :organisation AND s.id = n.id OFFSET 0) s
    CROSS JOIN LATERAL (SELECT a.present FROM asset a
                        WHERE a.organisation_id = :organisation AND a.id = s.asset_id OFFSET 0) a
    LEFT JOIN LATERAL (SELECT h.every, h.hold FROM schedule h
                       WHERE h.organisation_id = :organisation AND h.id = n.id OFFSET 0) h ON true
    """
)


class Row(NamedTuple):
    """An asset as read: its number, what it is, whether it is present and how much it may be scanned."""

    id: int
    asset: Asset
    present: bool
    clearance: int


class Gap(NamedTuple):
    """What the last successful run of a source could not measure: `item` None is every item, `about` None any asset."""

    kind: str
    item: str | None
    reason: str
    about: tuple[str, str] | None

    def concerns(self, kind: str, asset: Asset) -> bool:
        """Whether facts of this kind about this asset are missing or older than the run."""
        return self.kind == kind and (self.about is None or self.about == (model.type_of(asset), asset.key))


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
    unmeasured: tuple[Gap, ...]
    every: timedelta | None
    hold: str
    subject_present: bool

    def stale_at(self) -> datetime | None:
        """From when its facts are stale; None for what was never confirmed."""
        return self.confirmed_at and self.confirmed_at + STALE_AFTER * (self.every or DEFAULT_EVERY)


class Measured(NamedTuple):
    """What is known for one need of one asset: `missing` is the reason why nothing is, or "".

    `lost` is "" or why something that was known can't be gone by now (its source failed, was refused or is stale) or
    a part of the linked assets is not known: what is left may show that something is wrong, never that all is well.
    """

    facts: Facts[Any]
    missing: str
    until: datetime | None
    lost: str = ""


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
            for other in sorted(self.neighbours[row.id, need.link, need.backwards])
            # Links of what is gone stand until their source runs again, which it never does.
            if other in self.rows and self.rows[other].present and isinstance(self.rows[other].asset, need.fact.about)
        ]
        parts = [(other, self._about(other, need.fact)) for other in linked]
        missing = [f"{part.missing} ({other.asset})" for other, part in parts if part.missing]
        facts: Facts[Any] = Facts(
            [known for _, part in parts for known in part.facts.known],
            [*(reason for _, part in parts for reason in part.facts.unmeasured), *missing],
            [other.asset for other in linked],
        )
        whole = missing[0] if missing and len(missing) == len(parts) else ""
        if not linked and not self._looked_at(row):
            whole = f"nothing is known yet of what {need.link} leads to"
        lost = [*(f"{part.lost} ({other.asset})" for other, part in parts if part.lost), *missing]
        return Measured(facts, whole, _earliest(part.until for _, part in parts), lost[0] if lost else "")

    def _looked_at(self, row: Row) -> bool:
        """Whether anything has been measured of an asset, so that it would be known what it is linked to."""
        about = (scanner.name for scanner in self.registry.scanners.values() if scanner.about is type(row.asset))
        return any(source.state == "ok" for name in about for source in self.own.get((row.id, name), ()))

    def _about(self, row: Row, fact: type[Fact]) -> Measured:
        """Worked out once, since many checks look at the same facts."""
        key = (row.id, fact.kind)
        if key not in self._done:
            self._done[key] = self._work_out(row, fact)
        return self._done[key]

    def _work_out(self, row: Row, fact: type[Fact]) -> Measured:
        current: list[Known[Any]] = []
        reasons: list[str] = []
        lost: list[str] = []
        gaps: list[Gap] = []
        until: list[datetime | None] = []
        for known, source in self.facts[row.id, fact.kind]:
            if problem := self._problem(source):
                reasons.append(problem)
                # What is no longer installed, or looked at an asset that is gone, will never be measured again.
                if source.scanner in self.registry.scanners and source.subject_present:
                    lost.append(problem)
            else:
                current.append(known)
                until.append(source.stale_at())
                if source.asset_id != row.id:
                    gaps += [gap for gap in source.unmeasured if gap.concerns(fact.kind, row.asset)]
        answered = bool(current)
        for scanner in self.registry.yielded_by.get(fact.kind, ()):
            if scanner.about is not type(row.asset) or not _applies(scanner, row):
                continue
            sources = self.own[row.id, scanner.name]
            if not sources:
                reasons.append(never(scanner, row, ""))
            for source in sources:
                if source.state == "never":
                    reasons.append(never(scanner, row, source.hold))
                    continue
                if problem := self._problem(source):
                    reasons.append(problem)
                    lost.append(problem)
                    continue
                parts = [gap for gap in source.unmeasured if gap.concerns(fact.kind, row.asset)]
                gaps += parts
                if any(gap.item is None for gap in parts) and not any(
                    known.scanner == scanner.name for known in current
                ):
                    reasons.append(next(gap.reason for gap in parts if gap.item is None))
                    continue
                answered = True
                until.append(source.stale_at())
        # A fact that stands beside a gap of its whole kind may be one that this run has not seen again.
        lost += [gap.reason for gap in gaps if gap.item is None]
        unmeasured = list(
            dict.fromkeys(gap.reason if gap.item is None else f"{gap.item}: {gap.reason}" for gap in gaps)
        )
        if unreadable := self.unreadable.get((row.id, fact.kind)):
            # Going by the rest would take what can't be read for absent.
            return Measured(Facts(current, unmeasured), unreadable, _earliest(until), unreadable)
        missing = "" if answered else (reasons[0] if reasons else f"nothing has measured {fact.kind} of it yet")
        return Measured(Facts(current, unmeasured), missing, _earliest(until), lost[0] if lost else "")

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


def _applies(scanner: ScannerSpec, row: Row) -> bool:
    try:
        return scanner.applies(row.asset)
    except Exception:
        # It was logged when it was to be planned; one broken plugin keeps no check of the others from being run.
        return False


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
        unmeasured = tuple(
            Gap(entry[0], entry[1], entry[2], (entry[3][0], entry[3][1]) if len(entry) > 3 else None)
            for entry in found.unmeasured
        )
        made[found.id] = Source(
            found.id, found.asset_id, found.scanner, found.vantage, found.state, found.reason, found.confirmed_at,
            found.last_ended_at, unmeasured, found.every, found.hold, found.present,
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
        value = msgspec.json.decode(fact.value, type=type_)
    except msgspec.ValidationError as problem:
        picture.unreadable[fact.asset_id, fact.kind] = f"{fact.kind} can't be read ({problem})"
        return
    source, row = sources[fact.source_id], picture.rows[fact.asset_id]
    confirmed = source.confirmed_at or picture.now
    known: Known[Any] = Known(row.asset, value, fact.item, source.scanner, source.vantage, confirmed)
    picture.facts[fact.asset_id, fact.kind].append((known, source))

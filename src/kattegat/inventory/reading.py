"""Reading assets, facts and links, as they are or as they were known at a time.

`at` is a recording time: what had been recorded by then is seen, as it was recorded then. None is now.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.inventory import claim
from kattegat.model import assets as model
from kattegat.model.assets import Asset

COUNTED = 10_000

_NOW = """(
    SELECT id, type, key, first_seen, gone_at, present, clearance, declared, declared_clearance, declared_by
    FROM asset WHERE organisation_id = :organisation
)"""
_THEN = """(
    SELECT a.id, a.type, a.key, a.first_seen, coalesce(e.present, false) AS present,
           coalesce(e.clearance, 0) AS clearance, coalesce(e.declared, false) AS declared, e.declared_clearance,
           CASE WHEN NOT e.present THEN (
               SELECT min(g.at) FROM asset_event g
               WHERE g.organisation_id = a.organisation_id AND g.asset_id = a.id AND g.at <= :at AND g.at > (
                   SELECT max(p.at) FROM asset_event p
                   WHERE p.organisation_id = a.organisation_id AND p.asset_id = a.id AND p.at <= :at AND p.present)
           ) END AS gone_at, e.declared_by
    FROM asset a
    LEFT JOIN LATERAL (
        SELECT * FROM asset_event e
        WHERE e.organisation_id = a.organisation_id AND e.asset_id = a.id AND e.at <= :at
        ORDER BY e.at DESC, e.id DESC LIMIT 1
    ) e ON true
    WHERE a.organisation_id = :organisation AND a.first_seen <= :at
)"""
_COLUMNS = """
    s.id, s.type, s.key, s.first_seen, s.gone_at, s.present, s.clearance, s.declared, s.declared_clearance,
    s.declared_by
"""
_BY_NAME = "SELECT COLUMNS FROM STATE s WHERE s.type = :type AND s.key = :key"
_BY_ID = "SELECT COLUMNS FROM STATE s WHERE s.id = ANY(CAST(:ids AS bigint[]))"
# One predicate for the list and for its count.
_MATCHES = """
    (CAST(:types AS text[]) IS NULL OR s.type = ANY(CAST(:types AS text[])))
    AND (CAST(:present AS boolean) IS NULL OR s.present = CAST(:present AS boolean))
    AND strpos(lower(s.key), lower(CAST(:search AS text))) > 0
"""
_LIST = """
    SELECT COLUMNS FROM STATE s WHERE MATCHES AND (s.type, s.key) > (:after_type, :after_key)
    ORDER BY s.type, s.key LIMIT :limit
"""
_COUNT = "SELECT count(*) FROM (SELECT FROM STATE s WHERE MATCHES LIMIT :most) counted"

_FACTS_NOW = """
    SELECT f.id, f.asset_id, f.kind, f.item, f.form, f.value, f.evidence_id, f.recorded_at, f.ended_at,
           f.source_id, s.kind, s.scanner, s.vantage, s.confirmed_at
    FROM fact f JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
    WHERE f.organisation_id = :organisation AND f.asset_id = ANY(CAST(:assets AS bigint[])) AND f.ended_at IS NULL
      AND (CAST(:kinds AS text[]) IS NULL OR f.kind = ANY(CAST(:kinds AS text[])))
    ORDER BY f.asset_id, f.kind, f.item, s.scanner, s.vantage, f.id
"""
_FACTS_THEN = """
    SELECT f.id, f.asset_id, f.kind, f.item, f.form, f.value, f.evidence_id, f.recorded_at, f.ended_at,
           f.source_id, s.kind, s.scanner, s.vantage, (
               SELECT r.ended_at FROM run r
               WHERE r.organisation_id = f.organisation_id AND r.source_id = f.source_id AND r.recorded_at <= :at
                 AND r.outcome = 'ok'
               ORDER BY r.recorded_at DESC, r.id DESC LIMIT 1)
    FROM fact f JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
    WHERE f.organisation_id = :organisation AND f.asset_id = ANY(CAST(:assets AS bigint[]))
      AND f.recorded_at <= :at AND (f.ended_at IS NULL OR f.ended_at > :at)
      AND (CAST(:kinds AS text[]) IS NULL OR f.kind = ANY(CAST(:kinds AS text[])))
    ORDER BY f.asset_id, f.kind, f.item, s.scanner, s.vantage, f.id
"""
_LINK_COLUMNS = """
    SELECT l.id, l.type, l.fact_id, l.recorded_at, l.ended_at, o.id, o.type, o.key, t.id, t.type, t.key,
           f.kind, s.scanner, s.vantage
    FROM l
    JOIN asset o ON o.organisation_id = l.organisation_id AND o.id = l.origin_id
    JOIN asset t ON t.organisation_id = l.organisation_id AND t.id = l.target_id
    JOIN fact f ON f.organisation_id = l.organisation_id AND f.id = l.fact_id
    JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
    ORDER BY l.type, o.type, o.key, t.type, t.key, l.id
"""
# UNION, not OR: each part has an index of its own. UNION also drops the second copy of a link between two of them.
_LINKS_NOW = """
    WITH l AS (
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NULL
                             AND origin_id = ANY(CAST(:assets AS bigint[]))
        UNION
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NULL
                             AND target_id = ANY(CAST(:assets AS bigint[]))
    )
"""
_LINKS_THEN = """
    WITH l AS (
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NULL AND recorded_at <= :at
                             AND origin_id = ANY(CAST(:assets AS bigint[]))
        UNION
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NULL AND recorded_at <= :at
                             AND target_id = ANY(CAST(:assets AS bigint[]))
        UNION
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NOT NULL AND ended_at > :at
                             AND recorded_at <= :at AND origin_id = ANY(CAST(:assets AS bigint[]))
        UNION
        SELECT * FROM link WHERE organisation_id = :organisation AND ended_at IS NOT NULL AND ended_at > :at
                             AND recorded_at <= :at AND target_id = ANY(CAST(:assets AS bigint[]))
    )
"""


class Row(msgspec.Struct, frozen=True):
    """An asset with its state. `gone_at` says since when it is no longer present, None also if it never was."""

    id: int
    type: str
    key: str
    first_seen: datetime
    gone_at: datetime | None
    present: bool
    clearance: int
    declared: bool
    declared_clearance: int | None
    declared_by: str | None

    @property
    def asset(self) -> Asset:
        """The asset as a type of the model; raises `KeyFormatError` for a key that this release can't read."""
        return model.parse(self.type, self.key)


class Filter(msgspec.Struct, frozen=True):
    """Which assets: of these types (None = all), present or not (None = both), with `search` in the key, any case."""

    types: tuple[str, ...] | None = None
    present: bool | None = True
    search: str = ""


PRESENT = Filter()


class Count(msgspec.Struct, frozen=True):
    """A number of rows; when not `exact` there are at least so many. `str` gives `10,000+`."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.number:,}" if self.exact else f"{self.number:,}+"


class FactRow(msgspec.Struct, frozen=True):
    """A fact with who says it. It was known from `recorded_at` until `ended_at`; `confirmed_at` is its source's."""

    id: int
    asset_id: int
    kind: str
    item: str
    form: int
    value: Any
    evidence_id: int | None
    recorded_at: datetime
    ended_at: datetime | None
    source_id: int
    source_kind: str
    scanner: str
    vantage: str
    confirmed_at: datetime | None


class LinkRow(msgspec.Struct, frozen=True):
    """A link with both ends, and the fact and source that claim it."""

    id: int
    type: str
    fact_id: int
    recorded_at: datetime
    ended_at: datetime | None
    origin_id: int
    origin_type: str
    origin_key: str
    target_id: int
    target_type: str
    target_key: str
    fact_kind: str
    scanner: str
    vantage: str


def asset(connection: Connection, organisation_id: int, wanted: Asset, at: datetime | None = None) -> Row | None:
    """The asset by its type and key; None if it was not known (at that time)."""
    type_, key = claim.identity(wanted)
    row = connection.execute(
        text(_over(_BY_NAME, at)), {"organisation": organisation_id, "at": at, "type": type_, "key": key}
    ).one_or_none()
    return Row(*row) if row is not None else None


def by_id(
    connection: Connection, organisation_id: int, ids: Iterable[int], at: datetime | None = None
) -> dict[int, Row]:
    """The assets of these ids that were known (at that time)."""
    rows = connection.execute(
        text(_over(_BY_ID, at)), {"organisation": organisation_id, "at": at, "ids": sorted(set(ids))}
    )
    return {row[0]: Row(*row) for row in rows}


def assets(
    connection: Connection,
    organisation_id: int,
    wanted: Filter = PRESENT,
    *,
    after: tuple[str, str] = ("", ""),
    limit: int = 50,
    at: datetime | None = None,
) -> list[Row]:
    """A page of assets in the order of (type, key), from behind `after`, which is the last (type, key) shown."""
    parameters = _filter(organisation_id, wanted, at) | {
        "after_type": after[0],
        "after_key": after[1],
        "limit": limit,
    }
    return [Row(*row) for row in connection.execute(text(_over(_LIST, at)), parameters)]


def count(
    connection: Connection,
    organisation_id: int,
    wanted: Filter = PRESENT,
    *,
    most: int | None = COUNTED,
    at: datetime | None = None,
) -> Count:
    """How many assets `assets` would list on all pages: exact up to `most`, or however many there are with None."""
    parameters = _filter(organisation_id, wanted, at) | {"most": most + 1 if most is not None else None}
    found: int = connection.execute(text(_over(_COUNT, at)), parameters).scalar_one()
    return Count(found, True) if most is None or found <= most else Count(most, False)


def facts(
    connection: Connection,
    organisation_id: int,
    asset_ids: Iterable[int],
    *,
    kinds: Iterable[str] | None = None,
    at: datetime | None = None,
) -> list[FactRow]:
    """Every fact about these assets that was current (at that time), of these kinds or all, from all sources."""
    parameters = {
        "organisation": organisation_id,
        "at": at,
        "assets": sorted(set(asset_ids)),
        "kinds": None if kinds is None else sorted(set(kinds)),
    }
    return [FactRow(*row) for row in connection.execute(text(_FACTS_THEN if at else _FACTS_NOW), parameters)]


def links(
    connection: Connection, organisation_id: int, asset_ids: Iterable[int], *, at: datetime | None = None
) -> list[LinkRow]:
    """Every link from or to these assets that was current (at that time), each claim of it on its own."""
    parameters = {"organisation": organisation_id, "at": at, "assets": sorted(set(asset_ids))}
    sql = (_LINKS_THEN if at else _LINKS_NOW) + _LINK_COLUMNS
    return [LinkRow(*row) for row in connection.execute(text(sql), parameters)]


def _over(query: str, at: datetime | None) -> str:
    """The query over the assets' state now or then."""
    query = query.replace("STATE", _THEN if at else _NOW)
    return query.replace("COLUMNS", _COLUMNS).replace("MATCHES", _MATCHES)


def _filter(organisation_id: int, wanted: Filter, at: datetime | None) -> dict[str, object]:
    return {
        "organisation": organisation_id,
        "at": at,
        "types": list(wanted.types) if wanted.types is not None else None,
        "present": wanted.present,
        "search": claim.storable(wanted.search),
    }

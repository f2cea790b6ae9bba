"""The rows that things are known by: assets and sources, made when they are first named.

Both are made in the order of their keys and locked in the order of their ids, so that no two recorders wait for each
other in a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.inventory.claim import Identity

AssetName = tuple[int, Identity]
"""(organisation, (type, key))."""
SourceName = tuple[int, str, int, str]
"""(organisation, scanner, subject asset, vantage)."""

_ASSETS = """
    SELECT a.organisation_id, a.type, a.key, a.id
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:types AS text[]), CAST(:keys AS text[]))
         AS n(organisation_id, type, key)
    JOIN asset a ON a.organisation_id = n.organisation_id AND a.type = n.type AND a.key = n.key
"""
_MAKE_ASSETS = """
    INSERT INTO asset (organisation_id, type, key, first_seen)
    SELECT n.organisation_id, n.type, n.key, clock_timestamp()
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:types AS text[]), CAST(:keys AS text[]))
         AS n(organisation_id, type, key)
    ORDER BY n.organisation_id, n.type COLLATE "C", n.key COLLATE "C"
    ON CONFLICT (organisation_id, type, key) DO NOTHING
    RETURNING organisation_id, type, key, id
"""
_MAKE_SOURCES = """
    INSERT INTO source (organisation_id, kind, scanner, asset_id, vantage)
    SELECT n.organisation_id, n.kind, n.scanner, n.asset_id, n.vantage
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:kinds AS text[]), CAST(:scanners AS text[]),
                CAST(:assets AS bigint[]), CAST(:vantages AS text[]))
         AS n(organisation_id, kind, scanner, asset_id, vantage)
    WHERE NOT EXISTS (SELECT FROM source s WHERE s.organisation_id = n.organisation_id AND s.scanner = n.scanner
                      AND s.asset_id = n.asset_id AND s.vantage = n.vantage)
    ORDER BY n.organisation_id, n.scanner COLLATE "C", n.asset_id, n.vantage COLLATE "C"
    ON CONFLICT (organisation_id, scanner, asset_id, vantage) DO NOTHING
"""
_LOCK_SOURCES = """
    SELECT s.organisation_id, s.scanner, s.asset_id, s.vantage, s.id, s.last_started_at, s.confirmed_started_at,
           s.recorded_at
    FROM source s
    JOIN unnest(CAST(:organisations AS bigint[]), CAST(:scanners AS text[]), CAST(:assets AS bigint[]),
                CAST(:vantages AS text[])) AS n(organisation_id, scanner, asset_id, vantage)
      ON s.organisation_id = n.organisation_id AND s.scanner = n.scanner AND s.asset_id = n.asset_id
     AND s.vantage = n.vantage
    ORDER BY s.organisation_id, s.id
    FOR NO KEY UPDATE OF s
"""


class Source(msgspec.Struct):
    """A locked source: when its last run and its last successful run started, and when it was last recorded."""

    id: int
    last_started_at: datetime | None
    confirmed_started_at: datetime | None
    recorded_at: datetime | None


def find(connection: Connection, names: Collection[AssetName]) -> dict[AssetName, int]:
    """The ids of the assets that exist, by name."""
    rows = connection.execute(text(_ASSETS), _names(names))
    return {(row[0], (row[1], row[2])): row[3] for row in rows}


def assets(connection: Connection, names: Collection[AssetName]) -> tuple[dict[AssetName, int], set[AssetName]]:
    """The ids of these assets by name, and which of them are new. One to three statements."""
    known = find(connection, names)
    missing = [name for name in names if name not in known]
    if not missing:
        return known, set()
    rows = connection.execute(text(_MAKE_ASSETS), _names(missing))
    made = {(row[0], (row[1], row[2])): row[3] for row in rows}
    known.update(made)
    raced = [name for name in missing if name not in made]
    if raced:
        known.update(find(connection, raced))
    return known, set(made)


def sources(connection: Connection, names: Iterable[tuple[SourceName, str]]) -> dict[SourceName, Source]:
    """The sources of these (name, kind), locked until the transaction ends. Two statements."""
    wanted = dict(names)
    columns = {
        "organisations": [name[0] for name in wanted],
        "scanners": [name[1] for name in wanted],
        "assets": [name[2] for name in wanted],
        "vantages": [name[3] for name in wanted],
    }
    connection.execute(text(_MAKE_SOURCES), columns | {"kinds": list(wanted.values())})
    rows = connection.execute(text(_LOCK_SOURCES), columns)
    return {(row[0], row[1], row[2], row[3]): Source(row[4], row[5], row[6], row[7]) for row in rows}


def _names(names: Collection[AssetName]) -> dict[str, list[int] | list[str]]:
    return {
        "organisations": [organisation for organisation, _ in names],
        "types": [type_ for _, (type_, _) in names],
        "keys": [key for _, (_, key) in names],
    }

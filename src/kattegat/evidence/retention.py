"""Retention: drops bytes and keeps the leaf; and the sweep that removes objects which no row needs.

What is dropped is itself recorded as evidence of the scanner `kattegat.retention`, so that a record whose bytes were
taken away by somebody else can't pass for one that retention dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import msgspec
from sqlalchemy import Connection, text

from kattegat.evidence import keys, leaf, vault
from kattegat.evidence.errors import SweepRoleError

SCANNER = "kattegat.retention"
_BATCH = 1000


class Drop(msgspec.Struct, frozen=True):
    """The content of a record of retention: the numbers dropped, as ranges with both ends, and the time."""

    dropped_at: str
    ranges: tuple[tuple[int, int], ...]


def drop(conn: Connection, where: vault.Vault, organisation_id: int, before: datetime) -> int:
    """Drops the bytes of what was recorded before a time; gives of how many records. The leaves stay.

    A pack goes as a whole: one that also holds younger records (of the same day, after `compaction`) stays.
    The objects go with the next `sweep`, once this transaction is committed. Raises what `vault.put` raises.
    """
    keys.lock(conn, organisation_id)
    at: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    numbers = conn.execute(
        text(
            """
            UPDATE evidence SET dropped_at = :at, key_id = NULL, pack = NULL, pack_offset = NULL, pack_length = NULL
            WHERE organisation_id = :organisation AND recorded_at < :before AND dropped_at IS NULL
              AND scanner <> :retention AND pack IN (
                  SELECT pack FROM evidence WHERE organisation_id = :organisation AND pack IS NOT NULL
                  GROUP BY pack HAVING max(recorded_at) < :before)
            RETURNING leaf_number
            """
        ),
        {"organisation": organisation_id, "at": at, "before": before, "retention": SCANNER},
    ).scalars()
    ranges = tuple(_ranges(sorted(numbers)))
    if not ranges:
        return 0
    total = sum(last - first + 1 for first, last in ranges)
    entry = vault.Entry(
        content=msgspec.json.encode(Drop(leaf.instant(at), ranges)),
        scanner=SCANNER,
        plugin_version=1,
        asset_type="",
        asset_key="",
        vantage="",
        runner="",
        started_at=at,
        ended_at=at,
        detail={"before": before.astimezone(UTC).isoformat(), "records": total},
    )
    vault.put(conn, where, organisation_id, [entry])
    return total


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in numbers:
        if first is None or last is None:
            first = last = number
        elif number == last + 1:
            last = number
        else:
            yield first, last
            first = last = number
    if first is not None and last is not None:
        yield first, last


def sweep(
    conn: Connection,
    where: vault.Vault,
    organisation_id: int | None = None,
    *,
    older_than: timedelta = timedelta(days=1),
) -> list[str]:
    """Removes the objects that no row needs (of one organisation, or of all and of deleted ones); gives their names.

    These are: what a rolled-back `put` left, what `drop` let go, and what a destroyed key encrypted. Only objects older
    than `older_than` go, since a `put` under way has written its object and not yet its rows. Raises `SweepRoleError`
    for a role that does not see every row: it would take the objects of others for unused.
    """
    if conn.execute(text("SELECT row_security_active('evidence')")).scalar_one():
        raise SweepRoleError("A sweep of the evidence needs the role kat_system, which sees every row; use that one.")
    limit = datetime.now(UTC) - older_than
    prefix = "" if organisation_id is None else str(organisation_id)
    old = (name for name, written in where.objects.names(prefix) if written <= limit)
    removed: list[str] = []
    while batch := list(islice(old, _BATCH)):
        needed = set(
            conn.execute(
                text(
                    """
                    SELECT e.pack FROM evidence e
                    WHERE e.organisation_id = ANY (CAST(:organisations AS bigint[]))
                      AND e.pack = ANY (CAST(:names AS text[]))
                      AND NOT EXISTS (
                          SELECT FROM evidence_key k
                          WHERE k.organisation_id = e.organisation_id AND k.id = e.key_id
                            AND k.wrapped IS NULL AND k.destroyed_at IS NOT NULL)
                    """
                ),
                {"organisations": sorted({int(name.split("/", 1)[0]) for name in batch}), "names": batch},
            ).scalars()
        )
        unused = [name for name in batch if name not in needed]
        where.objects.delete(unused)
        removed += unused
    return removed

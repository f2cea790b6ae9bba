"""What is in the queue, for people: tasks page by page, exact counts, and what happened to one task."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.scheduler.queue import COLUMNS, Task, task_of

PAGE = 100
COUNT_LIMIT = 10_000


class Filter(msgspec.Struct, frozen=True):
    """Which tasks; an empty field does not filter. `organisations` None means all (for the operator only)."""

    organisations: Collection[int] | None = None
    kinds: Collection[str] = ()
    states: Collection[str] = ()
    scanners: Collection[str] = ()
    sources: Collection[int] = ()
    ids: Collection[int] = ()

    def parameters(self) -> dict[str, Any]:
        """The values of `WHERE`."""
        return {
            "organisations": None if self.organisations is None else list(self.organisations),
            "kinds": list(self.kinds) or None,
            "states": list(self.states) or None,
            "scanners": list(self.scanners) or None,
            "sources": list(self.sources) or None,
            "ids": list(self.ids) or None,
        }


class Event(msgspec.Struct, frozen=True):
    """One step of a task."""

    at: datetime
    was: str
    became: str
    by: str
    reason: str


# The list and its count share this predicate, so that they can't disagree.
WHERE = """
    (CAST(:organisations AS bigint[]) IS NULL OR t.organisation_id = ANY(CAST(:organisations AS bigint[])))
    AND (CAST(:kinds AS text[]) IS NULL OR t.kind = ANY(CAST(:kinds AS text[])))
    AND (CAST(:states AS text[]) IS NULL OR t.state = ANY(CAST(:states AS text[])))
    AND (CAST(:scanners AS text[]) IS NULL OR t.scanner = ANY(CAST(:scanners AS text[])))
    AND (CAST(:sources AS bigint[]) IS NULL OR t.source_id = ANY(CAST(:sources AS bigint[])))
    AND (CAST(:ids AS bigint[]) IS NULL OR t.id = ANY(CAST(:ids AS bigint[])))
    """
TASKS = text(
    f"""
    SELECT {COLUMNS} FROM task t
    WHERE {WHERE} AND (CAST(:before AS bigint) IS NULL OR t.id < :before)
    ORDER BY t.id DESC LIMIT :limit
    """  # noqa: S608 - constants
)
COUNT = text(f"SELECT count(*) FROM (SELECT FROM task t WHERE {WHERE} LIMIT :limit) AS counted")  # noqa: S608
COUNTS = text(
    f"SELECT t.kind, t.state, count(*) FROM task t WHERE {WHERE} GROUP BY t.kind, t.state ORDER BY 1, 2"  # noqa: S608
)
EVENTS = text('SELECT at, was, became, "by", reason FROM task_event WHERE task_id = :task ORDER BY at, id')


def tasks(conn: Connection, which: Filter, *, before: int | None = None, limit: int = PAGE) -> list[Task]:
    """Tasks from the newest back; the next page begins `before` the last id of this one."""
    found = conn.execute(TASKS, {**which.parameters(), "before": before, "limit": limit})
    return [task_of(row) for row in found]


def count(conn: Connection, which: Filter, *, limit: int | None = COUNT_LIMIT) -> int:
    """How many tasks the filter holds: exact up to `limit`, then `limit + 1` (to be shown as "10,000+")."""
    parameters = {**which.parameters(), "limit": None if limit is None else limit + 1}
    return int(conn.execute(COUNT, parameters).scalar_one())


def counts(conn: Connection, which: Filter | None = None) -> dict[tuple[str, str], int]:
    """Exact numbers by (kind, state); pairs without tasks are left out."""
    found = conn.execute(COUNTS, (which or Filter()).parameters())
    return {(kind, state): number for kind, state, number in found}


def events(conn: Connection, task_id: int) -> list[Event]:
    """Everything that happened to one task, oldest first."""
    return [Event(*row) for row in conn.execute(EVENTS, {"task": task_id})]

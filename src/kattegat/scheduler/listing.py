"""What is in the queue, for people: tasks page by page, exact counts, and what happened to one task."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.scheduler.queue import COLUMNS, Task, task_of

PAGE = 100
TABLES = ("task", "task_history")
COLUMN_OF = (
    ("organisations", "organisation_id", "bigint"),
    ("sources", "source_id", "bigint"),
    ("ids", "id", "bigint"),
    ("kinds", "kind", "text"),
    ("states", "state", "text"),
    ("scanners", "scanner", "text"),
)
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
        found: dict[str, Any] = {
            "organisations": None if self.organisations is None else list(self.organisations),
            "kinds": list(self.kinds) or None,
            "states": list(self.states) or None,
            "scanners": list(self.scanners) or None,
            "sources": list(self.sources) or None,
            "ids": list(self.ids) or None,
        }
        return found | {f"one_{name}": (values or [None])[0] for name, values in found.items()}

    def where(self) -> str:
        """The condition on a task `t`: only what filters, since an index serves no condition that may be left out.

        The list and its count share it, so that they can't disagree.
        """
        parts = ["true"]
        given = self.parameters()
        for name, column, kind in COLUMN_OF:
            if given[name] is not None:
                # Of one value the index gives the rows in order; of several they have to be sorted.
                one = len(given[name]) == 1
                parts.append(
                    f"t.{column} = CAST(:one_{name} AS {kind})"
                    if one
                    else f"t.{column} = ANY(CAST(:{name} AS {kind}[]))"
                )
        return " AND ".join(parts)


class Event(msgspec.Struct, frozen=True):
    """One step of a task."""

    at: datetime
    was: str
    became: str
    by: str
    reason: str


TALLIED = text(
    """
    SELECT kind, state, sum(tasks) AS tasks FROM task_tally
    WHERE tasks > 0
      AND (CAST(:organisations AS bigint[]) IS NULL OR organisation_id = ANY(CAST(:organisations AS bigint[])))
      AND (CAST(:kinds AS text[]) IS NULL OR kind = ANY(CAST(:kinds AS text[])))
      AND (CAST(:states AS text[]) IS NULL OR state = ANY(CAST(:states AS text[])))
      AND (CAST(:scanners AS text[]) IS NULL OR scanner = ANY(CAST(:scanners AS text[])))
    GROUP BY kind, state
    """
)
EVENTS = text('SELECT at, was, became, "by", reason FROM task_event WHERE task_id = :task ORDER BY at, id')


def tasks(
    conn: Connection, which: Filter, *, before: int | None = None, limit: int = PAGE, oldest_first: bool = False
) -> list[Task]:
    """Tasks from the newest back, open and ended; the next page begins `before` the last id of this one.

    With `oldest_first` the other way round, and `before` is then the id after which the page begins.
    """
    order, beyond = ("ASC", ">") if oldest_first else ("DESC", "<")
    where = which.where()
    if before is not None:
        where += f" AND t.id {beyond} :before"
    # Both halves are read from the end of an index, and no more of them than is shown.
    query = " UNION ALL ".join(
        f"(SELECT {COLUMNS} FROM {table} t WHERE {where} ORDER BY t.id {order} LIMIT :limit)"  # noqa: S608 - ours
        for table in TABLES
    )
    found = conn.execute(
        text(f"SELECT {COLUMNS} FROM ({query}) AS t ORDER BY t.id {order} LIMIT :limit"),  # noqa: S608 - ours
        {**which.parameters(), "before": before, "limit": limit},
    )
    return [task_of(row) for row in found]


def count(conn: Connection, which: Filter, *, limit: int | None = COUNT_LIMIT) -> int:
    """How many tasks the filter holds: exact up to `limit`, then `limit + 1` (to be shown as "10,000+")."""
    most = None if limit is None else limit + 1
    query = " UNION ALL ".join(f"(SELECT FROM {table} t WHERE {which.where()} LIMIT :limit)" for table in TABLES)
    found = conn.execute(
        text(f"SELECT count(*) FROM (SELECT FROM ({query}) AS t LIMIT :limit) AS counted"),  # noqa: S608 - ours
        {**which.parameters(), "limit": most},
    )
    return int(found.scalar_one())


def counts(conn: Connection, which: Filter | None = None) -> dict[tuple[str, str], int]:
    """Exact numbers by (kind, state); pairs without tasks are left out. Of what is in the history the tallies are read,
    but for a filter by source or id.
    """
    chosen = which or Filter()
    tallied = not chosen.sources and not chosen.ids
    found: dict[tuple[str, str], int] = {}
    for table in TABLES[: 1 if tallied else 2]:
        rows = conn.execute(
            text(
                f"SELECT t.kind, t.state, count(*) AS tasks FROM {table} t WHERE {chosen.where()}"  # noqa: S608 - ours
                " GROUP BY t.kind, t.state"
            ),
            chosen.parameters(),
        )
        for row in rows:
            found[row.kind, row.state] = found.get((row.kind, row.state), 0) + row.tasks
    if tallied:
        for row in conn.execute(TALLIED, chosen.parameters()):
            found[row.kind, row.state] = found.get((row.kind, row.state), 0) + int(row.tasks)
    return dict(sorted(found.items()))


def events(conn: Connection, task_id: int) -> list[Event]:
    """Everything that happened to one task, oldest first."""
    return [Event(*row) for row in conn.execute(EVENTS, {"task": task_id})]

"""Finished tasks: moved to a history in monthly partitions, counted by the hour, and forgotten after their time.

The queue's own table holds what is open and what ended just now, so that a claim costs the same after ten million
tasks as after ten. What is dead stays there for a month, since somebody has to look at it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.scheduler.queue import Task
from kattegat.schema import fence
from kattegat.store import partition

KEEP_SECONDS = 600.0
KEEP_DEAD_SECONDS = 30 * 86400.0
BATCH = 5000
NAMES = ", ".join(Task.__struct_fields__)
MONTHS = text(
    """
    SELECT DISTINCT date_trunc('month', ended_at AT TIME ZONE 'UTC') AS month FROM (
      SELECT ended_at FROM task WHERE ended_at < now() - make_interval(secs => :keep) ORDER BY ended_at, id LIMIT :batch
    ) AS over
    """
)
MOVE = text(
    f"""
    WITH over AS (
      SELECT id FROM task
      WHERE ended_at < now() - make_interval(secs => :keep)
        AND (state IN ('done', 'failed', 'cancelled')
             OR state = 'dead' AND ended_at < now() - make_interval(secs => :keep_dead))
      ORDER BY ended_at, id LIMIT :batch FOR UPDATE SKIP LOCKED
    ), gone AS (
      DELETE FROM task t USING over WHERE t.id = over.id RETURNING t.*
    ), kept AS (
      INSERT INTO task_history ({NAMES}) SELECT {NAMES} FROM gone
    ), tallied AS (
      INSERT INTO task_tally AS y (hour, organisation_id, kind, scanner, state, tasks, seconds)
      SELECT date_trunc('hour', ended_at, 'UTC'), coalesce(organisation_id, 0), kind, scanner, state, count(*),
             coalesce(sum(extract(epoch FROM ended_at - started_at)), 0)
      FROM gone GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
      ON CONFLICT (hour, organisation_id, kind, scanner, state)
      DO UPDATE SET tasks = y.tasks + excluded.tasks, seconds = y.seconds + excluded.seconds
    )
    SELECT count(*) FROM gone
    """  # noqa: S608 - constants
)
# The other way, for what is to be tried again: it is counted again when it ends.
BACK = text(
    f"""
    WITH gone AS (
      DELETE FROM task_history
      WHERE id = ANY(CAST(:ids AS bigint[])) AND state IN ('failed', 'dead', 'cancelled') RETURNING *
    ), tallied AS (
      UPDATE task_tally y SET tasks = y.tasks - g.tasks, seconds = y.seconds - g.seconds
      FROM (
        SELECT date_trunc('hour', ended_at, 'UTC') AS hour, coalesce(organisation_id, 0) AS owner, kind, scanner, state,
               count(*) AS tasks, coalesce(sum(extract(epoch FROM ended_at - started_at)), 0) AS seconds
        FROM gone GROUP BY 1, 2, 3, 4, 5
      ) AS g
      WHERE (y.hour, y.organisation_id, y.kind, y.scanner, y.state) = (g.hour, g.owner, g.kind, g.scanner, g.state)
    )
    INSERT INTO task ({NAMES}) SELECT {NAMES} FROM gone RETURNING id
    """  # noqa: S608 - constants
)
STATISTICS = text(
    """
    SELECT hour, organisation_id, kind, scanner, state, sum(tasks) AS tasks, sum(seconds) AS seconds FROM (
      SELECT hour, organisation_id, kind, scanner, state, tasks, seconds FROM task_tally
      WHERE hour >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC') AND tasks > 0
      UNION ALL
      SELECT date_trunc('hour', ended_at, 'UTC'), coalesce(organisation_id, 0), kind, scanner, state, count(*),
             coalesce(sum(extract(epoch FROM ended_at - started_at)), 0)
      FROM task WHERE ended_at >= date_trunc('hour', CAST(:since AS timestamptz), 'UTC') GROUP BY 1, 2, 3, 4, 5
    ) AS all_of_them
    WHERE CAST(:organisations AS bigint[]) IS NULL OR organisation_id = ANY(CAST(:organisations AS bigint[]))
    GROUP BY hour, organisation_id, kind, scanner, state ORDER BY hour, organisation_id, kind, scanner, state
    """
)
TABLES = ("task_history", "task_event")


class Tally(msgspec.Struct, frozen=True):
    """How many tasks ended in an hour (UTC), and how many seconds they took together. No organisation: 0."""

    hour: datetime
    organisation_id: int
    kind: str
    scanner: str
    state: str
    tasks: int
    seconds: float


def months(conn: Connection, *, keep_seconds: float = KEEP_SECONDS, batch: int = BATCH) -> list[date]:
    """The months of what is to be moved next: for each the owner has to see to a partition."""
    return sorted(month.date() for month in conn.execute(MONTHS, {"keep": keep_seconds, "batch": batch}).scalars())


def partitions(conn: Connection, wanted: Collection[date]) -> list[str]:
    """Makes the partitions that the history needs for these months; as the owner."""
    made: list[str] = []
    for month in wanted:
        made += partition.ensure(conn, today=month, tables=("task_history",))
    return made


def move(
    conn: Connection,
    *,
    keep_seconds: float = KEEP_SECONDS,
    keep_dead_seconds: float = KEEP_DEAD_SECONDS,
    batch: int = BATCH,
) -> int:
    """Moves a batch of what has ended to the history, and counts it; gives how many."""
    parameters = {"keep": keep_seconds, "keep_dead": keep_dead_seconds, "batch": batch}
    return int(conn.execute(MOVE, parameters).scalar_one())


def back(conn: Connection, ids: Collection[int]) -> list[int]:
    """Takes failed, dead and cancelled tasks out of the history again; gives those that were there."""
    return list(conn.execute(BACK, {"ids": list(ids)}).scalars()) if ids else []


def statistics(conn: Connection, since: datetime, organisations: Collection[int] | None = None) -> list[Tally]:
    """What ended by hour, organisation, kind, scanner and state: from tallies, so the number of tasks costs nothing."""
    named = None if organisations is None else list(organisations)
    found = conn.execute(STATISTICS, {"since": since, "organisations": named})
    return [Tally(r.hour, r.organisation_id, r.kind, r.scanner, r.state, int(r.tasks), float(r.seconds)) for r in found]


def forget(conn: Connection, keep_months: int, *, today: date | None = None) -> list[str]:
    """Drops the partitions of tasks and their events that are older than so many months; as the owner.

    The tallies stay. Gives the names of what was dropped.
    """
    day = today or datetime.now(UTC).date()
    index = day.year * 12 + day.month - 1 - keep_months
    oldest = f"{index // 12:04d}_{index % 12 + 1:02d}"
    dropped: list[str] = []
    for table in TABLES:
        found = conn.execute(
            text(
                "SELECT relname FROM pg_class"
                " WHERE relispartition AND relkind = 'r' AND relname LIKE :like ORDER BY relname"
            ),
            {"like": f"{table}\\_2%"},
        ).scalars()
        for name in list(found):
            if name.removeprefix(f"{table}_") < oldest:
                if not dropped and fence.present(conn):
                    fence.hold(conn)
                conn.execute(text(f"DROP TABLE {name}"))
                dropped.append(name)
    return dropped

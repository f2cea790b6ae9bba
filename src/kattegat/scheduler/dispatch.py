"""From schedules to scan tasks: what is due now, in which order, and no more than the queue should hold.

The rule, in full. What a person asked for goes first, whoever else waits. All other work goes by rounds: in each round
every organisation that has something due gets one scan. An organisation's own order, and the order inside a round: what
has never run, then what is most overdue for how often it is to run (by tenths of its interval), then the rest; the
oldest first among equals. So an organisation with a million assets never makes one with ten wait for more than a round.

Every look is at the front of an index, so a million sources that are not due cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, text

from kattegat.inventory import planning
from kattegat.scheduler import pauses, payload, queue, regime, times, traces, turns
from kattegat.scheduler.queue import NewTask, Returned

QUEUE_HOLDS = 2000
ROUNDS = 10
REQUESTED, NEVER_RUN, USUAL = 0, 50, 100
RETRY_SECONDS = 600.0
JITTER = 0.05

# Not only scans: when the workers can't keep up with results, more scans would only make it worse.
WAITING = text(
    """
    SELECT count(*) FROM (
      SELECT FROM task WHERE kind IN ('scan', 'ingest') AND state = 'queued' AND source_id IS NOT NULL LIMIT :most
    ) AS waiting
    """
)
ANY_DUE = text(
    """
    SELECT EXISTS (SELECT FROM unnest(ARRAY[0, 50, 100]) AS p(priority) WHERE EXISTS (
      SELECT FROM schedule h WHERE h.hold = '' AND h.priority = p.priority AND h.due_at <= now()))
    """
)
# Which organisations have work, and at which intervals: one look into the index for each pair.
GROUPS = text(
    """
    WITH RECURSIVE step AS (
      SELECT o.id AS organisation_id, p.priority,
             (SELECT min(h.every) FROM schedule h
              WHERE h.organisation_id = o.id AND h.priority = p.priority AND h.hold = '') AS every
      FROM organisation o CROSS JOIN unnest(ARRAY[0, 50, 100]) AS p(priority)
      WHERE (CAST(:organisations AS bigint[]) IS NULL OR o.id = ANY(CAST(:organisations AS bigint[])))
        AND NOT EXISTS (SELECT FROM pause u WHERE u.level = 'install'
          OR u.level = 'organisation' AND u.organisation_id = o.id
          OR u.level = 'group' AND EXISTS (
            SELECT FROM group_member g WHERE g.group_id = u.group_id AND g.organisation_id = o.id))
      UNION ALL
      SELECT s.organisation_id, s.priority,
             (SELECT min(h.every) FROM schedule h
              WHERE h.organisation_id = s.organisation_id AND h.priority = s.priority AND h.hold = ''
                AND h.every > s.every)
      FROM step s WHERE s.every IS NOT NULL
    )
    SELECT s.organisation_id, s.priority, s.every FROM step s
    WHERE s.every IS NOT NULL AND EXISTS (
      SELECT FROM schedule h WHERE h.organisation_id = s.organisation_id AND h.priority = s.priority
        AND h.every = s.every AND h.hold = '' AND h.due_at <= now())
    """
)
# The open tasks are few, and as a list they are looked up by hash whatever the statistics say.
DUE = text(
    f"""
    WITH open AS MATERIALIZED (
      SELECT organisation_id, source_id FROM task
      WHERE state IN ('queued', 'leased', 'paused') AND kind IN ('scan', 'ingest') AND source_id IS NOT NULL
        AND organisation_id IS NOT NULL
    ), front AS (
      SELECT d.* FROM unnest(CAST(:owners AS bigint[]), CAST(:priorities AS integer[]), CAST(:everies AS interval[]))
        AS g(organisation_id, priority, every)
      CROSS JOIN LATERAL (
        SELECT h.organisation_id, h.id, h.priority, h.due_at, h.every, h.request_actor, h.request_way
        FROM schedule h
        WHERE h.hold = '' AND h.organisation_id = g.organisation_id AND h.priority = g.priority AND h.every = g.every
          AND h.due_at <= now()
          AND (h.organisation_id, h.id) NOT IN (SELECT organisation_id, source_id FROM open)
        ORDER BY h.due_at LIMIT CASE WHEN g.priority = 0 THEN :most ELSE :each END
        FOR UPDATE OF h SKIP LOCKED
      ) AS d
    ), ranked AS (
      SELECT f.*, CASE WHEN f.priority < 100 THEN f.priority ELSE 100 - least(40, floor(10 * extract(
               epoch FROM now() - f.due_at) / greatest(extract(epoch FROM f.every), 1)))::integer END AS rank
      FROM front f
    ), placed AS (
      SELECT r.*, row_number() OVER (
               PARTITION BY r.organisation_id, r.priority = 0 ORDER BY r.rank, r.due_at, r.id) AS place
      FROM ranked r
    ), picked AS (
      SELECT p.* FROM placed p ORDER BY p.priority > 0, p.place, p.rank, p.due_at, p.id LIMIT :most
    )
    SELECT p.organisation_id, p.id, p.rank, p.request_actor, p.request_way, s.scanner, s.vantage, s.asset_id,
           (SELECT {pauses.sentence("u")} FROM pause u
            WHERE u.level IN ('asset', 'scanner') AND {pauses.covers("u", "s.organisation_id", "s.scanner", "s.id")}
            ORDER BY u.id LIMIT 1) AS paused
    FROM picked p
    JOIN source s ON s.organisation_id = p.organisation_id AND s.id = p.id
    ORDER BY p.priority > 0, p.place, p.rank, p.due_at, p.id
    """  # noqa: S608 - constants
)
# The next time is a guess until the run has ended; without it a task that ends dead would never be tried again.
SENT = text(
    """
    UPDATE schedule h
    SET due_at = now() + h.every, priority = 100, request_actor = '', request_way = '', wait = ''
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:ids AS bigint[])) AS r(organisation_id, id)
    WHERE h.organisation_id = r.organisation_id AND h.id = r.id
    """
)
# A source that became due since it was sent (somebody asked, a fact it uses changed) stays due. No times are compared:
# a transaction says when it began, and one that began before a claim may say what it found after it. That a due time is
# not the guess which was made when the task was sent tells that somebody has set it since.
RAN = text(
    """
    UPDATE schedule h
    SET tries = CASE r.outcome WHEN 'failed' THEN h.tries + 1 ELSE 0 END,
        priority = CASE WHEN r.again THEN h.priority ELSE 100 END,
        request_actor = CASE WHEN r.again THEN h.request_actor ELSE '' END,
        request_way = CASE WHEN r.again THEN h.request_way ELSE '' END,
        due_at = CASE WHEN r.again THEN h.due_at ELSE
          r.ended_at + (1 + :jitter * (2 * random() - 1)) * CASE r.outcome
            WHEN 'failed' THEN least(h.every, make_interval(secs => :base * power(2, least(h.tries, 20))))
            ELSE h.every END END
    FROM (
      SELECT r.*, h.due_at <= now() AND h.due_at <> r.sent_at + h.every AS again
      FROM unnest(CAST(:organisations AS bigint[]), CAST(:ids AS bigint[]), CAST(:outcomes AS text[]),
                  CAST(:sent AS timestamptz[]), CAST(:ended AS timestamptz[]))
           AS r(organisation_id, id, outcome, sent_at, ended_at)
      JOIN schedule h ON h.organisation_id = r.organisation_id AND h.id = r.id
      ORDER BY h.organisation_id, h.id FOR UPDATE OF h
    ) AS r
    WHERE h.organisation_id = r.organisation_id AND h.id = r.id
    """
)
POSTPONE = text(
    """
    UPDATE schedule h SET due_at = r.due_at, wait = r.reason
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:ids AS bigint[]), CAST(:times AS timestamptz[]),
                CAST(:reasons AS text[])) AS r(organisation_id, id, due_at, reason)
    WHERE h.organisation_id = r.organisation_id AND h.id = r.id
    """
)
CRON = text(
    """
    SELECT h.organisation_id, h.id, h.cron FROM schedule h
    JOIN unnest(CAST(:organisations AS bigint[]), CAST(:ids AS bigint[])) AS r(organisation_id, id)
      ON h.organisation_id = r.organisation_id AND h.id = r.id
    WHERE h.cron <> '' AND h.due_at > now()
    """
)
ASK = text(
    f"""
    WITH mine AS (
      SELECT h.id FROM schedule h
      WHERE h.organisation_id = :organisation AND h.id = ANY(CAST(:ids AS bigint[])) AND h.hold = ''
      ORDER BY h.id FOR UPDATE
    ), queued AS (
      UPDATE task t SET priority = 0, turn = {turns.next_("t.kind", str(-turns.LANE), "t.organisation_id")} FROM mine
      WHERE t.organisation_id = :organisation AND t.source_id = mine.id AND t.kind = 'scan' AND t.state = 'queued'
      RETURNING t.source_id AS id
    ), due AS (
      UPDATE schedule h
      SET due_at = now(), priority = 0, request_actor = :actor, request_way = :way, wait = ''
      FROM mine
      WHERE h.organisation_id = :organisation AND h.id = mine.id AND mine.id NOT IN (SELECT id FROM queued)
      RETURNING h.id
    )
    SELECT id FROM queued UNION SELECT id FROM due ORDER BY id
    """  # noqa: S608 - constants
)
HELD = text(
    """
    SELECT id, hold FROM schedule
    WHERE organisation_id = :organisation AND id = ANY(CAST(:ids AS bigint[])) AND hold <> '' ORDER BY id
    """
)


class Requested(NamedTuple):
    """The sources that will run next, and those that may not, with the reason."""

    asked: list[int]
    held: dict[int, str]


class Ran(NamedTuple):
    """A run of a source that has ended: for its next time. `sent_at` is when its task was made."""

    organisation_id: int
    source_id: int
    outcome: Literal["ok", "failed", "blocked"]
    sent_at: datetime
    ended_at: datetime


def dispatch(conn: Connection, *, holds: int = QUEUE_HOLDS, organisations: Collection[int] | None = None) -> list[int]:
    """Queues scans of what is due until `holds` scans and results wait in the queue; gives the tasks.

    What turns out to be paused is held with the reason, and what is due after it gets its place.
    """
    room = holds - int(conn.execute(WAITING, {"most": holds}).scalar_one())
    pushed: list[int] = []
    if room <= 0 or not conn.execute(ANY_DUE).scalar_one():
        return pushed
    chosen = None if organisations is None else list(organisations)
    rules = regime.load(conn)
    with planning.by_index(conn):
        for _ in range(ROUNDS):
            groups = conn.execute(GROUPS, {"organisations": chosen}).all()
            owners = {group.organisation_id for group in groups}
            if not owners:
                break
            parameters = {
                "owners": [group.organisation_id for group in groups],
                "priorities": [group.priority for group in groups],
                "everies": [group.every for group in groups],
                "most": room,
                "each": -(-room // len(owners)),
            }
            found = conn.execute(DUE, parameters).all()
            hold(conn, [(row.organisation_id, row.id, row.paused) for row in found if row.paused is not None])
            closed = _closed(conn, [row for row in found if row.paused is None], rules)
            postpone(conn, [(row.organisation_id, row.id, *until) for row, until in closed if until])
            free = [row for row, until in closed if not until]
            sent = _send(conn, free)
            pushed += sent
            room -= len(sent)
            # An organisation with little leaves room for the others, and so does what is paused.
            if room <= 0 or not found:
                break
    return pushed


def _closed(
    conn: Connection, rows: Sequence[Row[Any]], rules: regime.Regime
) -> list[tuple[Row[Any], tuple[datetime, str] | None]]:
    """Each row with when it may run and why not now; None where it may."""
    if not rules or not rows:
        return [(row, None) for row in rows]
    now = conn.execute(text("SELECT now()")).scalar_one()
    inside = regime.sets_of(conn, rules, [(row.organisation_id, row.asset_id) for row in rows])
    return [
        (row, rules.closed(now, row.organisation_id, row.scanner, inside.get((row.organisation_id, row.asset_id), ())))
        for row in rows
    ]


def postpone(conn: Connection, refused: Iterable[tuple[int, int, datetime, str]]) -> None:
    """Makes sources due later, as (organisation, source, when, why): a window is closed. Requests stay requests."""
    listed = list(refused)
    if listed:
        conn.execute(
            POSTPONE,
            {
                "organisations": [entry[0] for entry in listed],
                "ids": [entry[1] for entry in listed],
                "times": [entry[2] for entry in listed],
                "reasons": [entry[3] for entry in listed],
            },
        )


def requested_by(actor: str, way: str) -> str:
    """Who asked for a scan, as it is told: `piet (command line)`."""
    return f"{actor} ({way})" if way else actor


def actor_and_way(by: str) -> tuple[str, str]:
    """`piet (command line)` in its two parts; the second is "" where there is none."""
    found = re.fullmatch(r"(.*) \(([^()]*)\)", by, re.DOTALL)
    return (found[1], found[2]) if found else (by, "")


def _send(conn: Connection, rows: Sequence[Row[Any]]) -> list[int]:
    if not rows:
        return []
    number = payload.form(conn)
    pushed = queue.push(
        conn,
        [
            NewTask(
                "scan",
                row.organisation_id,
                row.id,
                row.scanner,
                row.vantage,
                row.rank,
                payload=payload.write(
                    number,
                    {},
                    requested_by=requested_by(row.request_actor, row.request_way),
                    trace=traces.new(),
                ),
            )
            for row in rows
        ],
    )
    conn.execute(SENT, {"organisations": [row.organisation_id for row in rows], "ids": [row.id for row in rows]})
    return pushed


def ran(conn: Connection, runs: Iterable[Ran], *, base_seconds: float = RETRY_SECONDS) -> None:
    """Sets the next time of these sources: an interval after the end, sooner after a failure (doubling, at most that).

    A run that was blocked would be blocked again, so it waits a whole interval.
    """
    listed = list(runs)
    if not listed:
        return
    conn.execute(
        RAN,
        {
            "organisations": [run.organisation_id for run in listed],
            "ids": [run.source_id for run in listed],
            "outcomes": [run.outcome for run in listed],
            "sent": [run.sent_at for run in listed],
            "ended": [run.ended_at for run in listed],
            "jitter": JITTER,
            "base": base_seconds,
        },
    )
    by_cron = conn.execute(
        CRON, {"organisations": [run.organisation_id for run in listed], "ids": [run.source_id for run in listed]}
    ).all()
    ended = {(run.organisation_id, run.source_id): run for run in listed}
    times_ = []
    for row in by_cron:
        rule, run = times.interval(row.cron), ended[row.organisation_id, row.id]
        if isinstance(rule, times.Cron) and run.outcome != "failed":
            times_.append((row.organisation_id, row.id, rule.after(run.ended_at), ""))
    postpone(conn, times_)


def request(conn: Connection, organisation_id: int, source_ids: Collection[int], by: str) -> Requested:
    """Makes sources due now, before everything else. What is held stays held, and the answer says why."""
    actor, way = actor_and_way(by)
    parameters = {"organisation": organisation_id, "ids": list(source_ids), "actor": actor, "way": way}
    asked = list(conn.execute(ASK, parameters).scalars())
    held = {row.id: row.hold for row in conn.execute(HELD, parameters)}
    return Requested(asked, held)


def settle(conn: Connection, returned: Iterable[Returned]) -> list[int]:
    """Queues the ingest of a failed run for every scan or result that ended dead, so that its source says so.

    Gives the ingest tasks. Other tasks and those that were queued again are left alone, and so is the ingest of a
    failure: with nothing to read in it, it fails when the database does, and would again.
    """
    tasks = [
        back.task
        for back in returned
        if back.became == "dead"
        and (back.task.kind == "scan" or (back.task.kind == "ingest" and back.task.payload.get("outcome") == "ok"))
    ]
    return queue.push(
        conn,
        [
            NewTask(
                "ingest",
                task.organisation_id,
                task.source_id,
                task.scanner,
                priority=task.priority,
                payload={
                    "scan_task_id": task.id,
                    "started_at": (task.started_at or task.created_at).isoformat(),
                    "ended_at": (task.ended_at or task.created_at).isoformat(),
                    **task.payload,
                    "outcome": "failed",
                    "reason": f"given up after {task.tries} tries: {task.reason}",
                },
            )
            for task in tasks
            if task.organisation_id is not None and task.source_id is not None
        ],
    )


def hold(conn: Connection, refused: Iterable[tuple[int, int, str]]) -> None:
    """Holds sources that turned out not to be allowed when their task was claimed, as (organisation, source, reason).

    The next `plan` of the asset takes the hold back if it is wrong by then.
    """
    listed = list(refused)
    if listed:
        conn.execute(
            text(
                "UPDATE schedule h SET hold = r.hold FROM unnest(CAST(:organisations AS bigint[]),"
                " CAST(:ids AS bigint[]), CAST(:holds AS text[])) AS r(organisation_id, id, hold)"
                " WHERE h.organisation_id = r.organisation_id AND h.id = r.id"
            ),
            {
                "organisations": [entry[0] for entry in listed],
                "ids": [entry[1] for entry in listed],
                "holds": [entry[2] for entry in listed],
            },
        )

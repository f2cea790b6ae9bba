"""Why a thing waits: for each task that does not run, and each source that is not queued, a code and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, text

from kattegat.plugin import ScannerSpec
from kattegat.scheduler import regime, room
from kattegat.scheduler.queue import Task
from kattegat.scheduler.runners import Runner, listed

Code = Literal["turn", "retry", "paused", "runner", "drained", "tool", "limit", "held", "window", "not-due", "place"]
LIVE_SECONDS = 30.0
COUNTED = 10_000

AHEAD = text(
    """
    SELECT CAST(r.id AS bigint) AS id, (
      SELECT count(*) FROM (
        SELECT FROM task q WHERE q.state = 'queued' AND q.kind = r.kind AND (q.turn, q.id) < (r.turn, r.id) LIMIT :most
      ) AS counted) AS ahead
    FROM unnest(CAST(:ids AS bigint[]), CAST(:kinds AS text[]), CAST(:turns AS bigint[])) AS r(id, kind, turn)
    """
)
NOW = text("SELECT now()")
SOURCES = text(
    """
    SELECT h.id, h.hold, h.wait, h.due_at, h.due_at <= now() AS due, h.priority FROM schedule h
    WHERE h.organisation_id = :organisation AND h.id = ANY(CAST(:ids AS bigint[])) ORDER BY h.id
    """
)
DUE = text(
    """
    SELECT count(*) FROM (
      SELECT FROM schedule h WHERE h.hold = '' AND h.due_at <= now()
        AND (CAST(:organisations AS bigint[]) IS NULL OR h.organisation_id = ANY(CAST(:organisations AS bigint[])))
      LIMIT :most) AS due
    """
)


class Why(msgspec.Struct, frozen=True):
    """What something waits for: a word for programs, and a sentence."""

    code: Code
    reason: str


def tasks(conn: Connection, waiting: Sequence[Task], scanners: Mapping[str, ScannerSpec]) -> dict[int, Why]:
    """Why each of these tasks does not run; those that run or have ended are left out."""
    open_ = [task for task in waiting if task.state in ("queued", "paused")]
    if not open_:
        return {}
    now = conn.execute(NOW).scalar_one()
    runners = listed(conn)
    live = [
        runner
        for runner in runners
        if runner.revoked_at is None
        and runner.seen_at is not None
        and (now - runner.seen_at).total_seconds() < LIVE_SECONDS
    ]
    limited = room.full(conn, regime.load(conn).scans(), [task for task in open_ if task.kind == "scan"])
    ahead = _ahead(conn, [task for task in open_ if task.state == "queued"])
    found: dict[int, Why] = {}
    for task in open_:
        if task.state == "paused":
            found[task.id] = Why("paused", task.reason)
        elif task.run_after > now:
            after = f" after try {task.tries} of {task.max_tries}: {task.reason}" if task.tries else ""
            found[task.id] = Why("retry", f"waits until {task.run_after:%Y-%m-%d %H:%M:%S} UTC{after}")
        elif task.id in limited:
            found[task.id] = Why("limit", limited[task.id])
        else:
            found[task.id] = (task.kind == "scan" and _no_runner(task, live, scanners.get(task.scanner))) or Why(
                "turn", _turn(ahead.get(task.id, 0))
            )
    return found


def sources(conn: Connection, organisation_id: int, source_ids: Sequence[int]) -> dict[int, Why]:
    """Why each of these sources is not in the queue: held, not due yet, or due and waiting for a place there."""
    found: dict[int, Why] = {}
    for row in conn.execute(SOURCES, {"organisation": organisation_id, "ids": list(source_ids)}):
        if row.hold:
            found[row.id] = Why("paused" if row.hold.startswith("paused by ") else "held", row.hold)
        elif row.wait and not row.due:
            found[row.id] = Why("window", row.wait)
        elif row.due:
            found[row.id] = Why("place", f"due since {row.due_at:%Y-%m-%d %H:%M} UTC, waits for a place in the queue")
        else:
            found[row.id] = Why("not-due", f"due {row.due_at:%Y-%m-%d %H:%M} UTC")
    return found


def due(conn: Connection, organisations: Iterable[int] | None = None, *, most: int = COUNTED) -> int:
    """How many sources are due and wait for a place in the queue: exact up to `most`, then `most + 1`."""
    named = None if organisations is None else list(organisations)
    return int(conn.execute(DUE, {"organisations": named, "most": most + 1}).scalar_one())


def _no_runner(task: Task, live: Sequence[Runner], spec: ScannerSpec | None) -> Why | None:
    here = [runner for runner in live if not task.vantage or runner.vantage == task.vantage]
    if not here:
        return Why("runner", f"no runner has been heard from at {task.vantage or 'any place'} just now")
    working = [runner for runner in here if runner.drained_at is None]
    if not working:
        names = ", ".join(runner.name for runner in here)
        why = "; ".join(sorted({runner.drained_reason for runner in here if runner.drained_reason}))
        return Why("drained", f"runner {names} is drained" + (f": {why}" if why else ""))
    if spec is not None and spec.tool and not any(spec.tool in runner.tools for runner in working):
        return Why("tool", f"no runner has the tool {spec.tool}")
    return None


def _ahead(conn: Connection, queued: Sequence[Task]) -> dict[int, int]:
    if not queued:
        return {}
    parameters: dict[str, Any] = {
        "ids": [task.id for task in queued],
        "kinds": [task.kind for task in queued],
        "turns": [task.turn for task in queued],
        "most": COUNTED + 1,
    }
    return {row.id: row.ahead for row in conn.execute(AHEAD, parameters)}


def _turn(ahead: int) -> str:
    if not ahead:
        return "next in the queue"
    return f"{'more than 10,000' if ahead > COUNTED else f'{ahead:,}'} before it in the queue"

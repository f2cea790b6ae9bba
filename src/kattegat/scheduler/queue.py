"""The task queue: claimed in batches with a lease, handed back by the lease's token, every step written down.

    queued --claim--> leased --finish--> done | failed
      ^ ^                |
      | +-- fail, reap, release --+--> dead (after max_tries)    queued | leased | paused --cancel--> cancelled
      +-- pause, resume --> paused                               failed | dead | cancelled --retry--> queued

The database takes no other step (the trigger `kat_task_step`). A lease is a time and a random token. Whoever lets the
time run out loses the task: it is queued again under no token,
and a result with the old token is refused. So a task may be *performed* twice, and is recorded once. All functions
take batches and do one statement each; they belong to the caller's transaction.

Tasks of a kind are claimed by turns: each organisation's tasks take one turn after another, so that one with a million
of them is served as often as one with ten. What a person asked for stands before all others, and has turns of its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, text

from kattegat.errors import KattegatError
from kattegat.scheduler import pauses, payload, turns

Kind = Literal["scan", "ingest", "report", "deliver", "sweep", "backup"]
State = Literal["queued", "leased", "paused", "done", "failed", "dead", "cancelled"]

LEASE_SECONDS = 30
OPEN: frozenset[State] = frozenset({"queued", "leased", "paused"})
TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("", "queued"),
        ("queued", "leased"),
        ("queued", "paused"),
        ("queued", "cancelled"),
        ("paused", "queued"),
        ("paused", "cancelled"),
        ("leased", "queued"),
        ("leased", "done"),
        ("leased", "failed"),
        ("leased", "dead"),
        ("leased", "cancelled"),
        ("failed", "queued"),
        ("dead", "queued"),
        ("cancelled", "queued"),
    }
)
"""Every step that a task can take; task_event holds no other (`was` is "" when it is pushed)."""
PERSON, USUAL, LAST = 0, 100, 200
"""Priorities: 0 before all others, from 200 on after them; between, a smaller one goes first in a round of turns."""
BACK_OFF_SECONDS = 15.0
BACK_OFF_MOST_SECONDS = 3600.0
REASON_LENGTH = 2000


class QueueError(KattegatError):
    """A call that asks the queue for something it can't do, such as a state that no task can be finished with."""


class NewTask(msgspec.Struct, frozen=True):
    """A task to be queued. With a `source_id` only one of its kind can be open at a time."""

    kind: Kind
    organisation_id: int | None = None
    source_id: int | None = None
    scanner: str = ""
    vantage: str = ""
    priority: int = USUAL
    run_after: datetime | None = None
    max_tries: int = 3
    payload: dict[str, Any] = {}


class Task(msgspec.Struct, frozen=True):
    """A task as it stands in the table; `lease_token` proves the right to end it."""

    id: int
    organisation_id: int | None
    kind: Kind
    source_id: int | None
    scanner: str
    vantage: str
    state: State
    priority: int
    turn: int
    run_after: datetime
    lease_until: datetime | None
    lease_token: int | None
    leased_by: str
    tries: int
    max_tries: int
    reason: str
    payload: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def token(self) -> int:
        """The lease's token of a claimed task; raises `QueueError` for a task that nobody holds."""
        if self.lease_token is None:
            raise QueueError(f"Task {self.id} is {self.state}: only a claimed task has a lease.")
        return self.lease_token


class Ending(msgspec.Struct, frozen=True):
    """How a claimed task ended: for `finish_all`."""

    task_id: int
    token: int
    state: Literal["done", "failed"] = "done"
    reason: str = ""


class Returned(msgspec.Struct, frozen=True):
    """A task that came back without a result: queued again, or dead."""

    task: Task
    became: State


COLUMNS = ", ".join(f"t.{name}" for name in Task.__struct_fields__)
# The token must not be guessable by another runner, and never the same twice.
TOKEN = "('x' || substr(replace(gen_random_uuid()::text, '-', ''), 18, 13))::bit(52)::bigint"  # noqa: S105

PUSH = text(
    f"""
    WITH r AS (
      SELECT r.*, {turns.lane("r.priority")} AS lane, coalesce(r.organisation_id, 0) AS owner
      FROM ROWS FROM (jsonb_to_recordset(CAST(:rows AS jsonb))
           AS (organisation_id bigint, kind text, source_id bigint, scanner text, vantage text, priority integer,
               run_after timestamptz, max_tries integer, payload jsonb)) WITH ORDINALITY
           AS r(organisation_id, kind, source_id, scanner, vantage, priority, run_after, max_tries, payload, place)
    ), front AS (
      SELECT k.kind, k.lane, k.owner, {turns.front("k.kind", "k.lane", "k.owner")} AS turn
      FROM (SELECT DISTINCT kind, lane, owner FROM r) AS k
    ), pushed AS (
      INSERT INTO task (organisation_id, kind, source_id, scanner, vantage, priority, turn, run_after, max_tries,
                        payload)
      SELECT r.organisation_id, r.kind, r.source_id, r.scanner, r.vantage, r.priority,
             f.turn + row_number() OVER (PARTITION BY r.kind, r.lane, r.owner ORDER BY r.place),
             coalesce(r.run_after, now()), r.max_tries, r.payload
      FROM r JOIN front f ON f.kind = r.kind AND f.lane = r.lane AND f.owner = r.owner
      ORDER BY r.place
      ON CONFLICT (organisation_id, source_id, kind) WHERE state = ANY (ARRAY['queued', 'leased', 'paused']) DO NOTHING
      RETURNING id
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by") SELECT id, '', 'queued', :by FROM pushed
    )
    SELECT id FROM pushed ORDER BY id
    """  # noqa: S608 - constants
)
# One kind at a time, so that the index gives the order; pauses are looked at only when there are any.
CLAIM = text(
    f"""
    WITH picked AS (
      SELECT t.id FROM task t
      WHERE t.state = 'queued' AND t.kind = :kind AND t.run_after <= now()
        AND (CAST(:scanners AS text[]) IS NULL OR t.scanner = ANY(CAST(:scanners AS text[])))
        AND (t.vantage = '' OR CAST(:vantages AS text[]) IS NULL OR t.vantage = ANY(CAST(:vantages AS text[])))
        AND (CAST(:ids AS bigint[]) IS NULL OR t.id = ANY(CAST(:ids AS bigint[])))
        AND (t.kind <> 'scan' OR NOT (SELECT EXISTS (SELECT FROM pause)) OR NOT {pauses.COVERED})
      ORDER BY t.turn, t.priority, t.run_after, t.id LIMIT :most
      FOR UPDATE OF t SKIP LOCKED
    ), taken AS (
      UPDATE task t
      SET state = 'leased', leased_by = :by, lease_token = {TOKEN}, started_at = now(), ended_at = NULL, reason = '',
          lease_until = now() + make_interval(secs => :seconds)
      FROM picked WHERE t.id = picked.id
      RETURNING {COLUMNS}
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by") SELECT id, 'queued', 'leased', :by FROM taken
    )
    SELECT * FROM taken ORDER BY turn, priority, run_after, id
    """  # noqa: S608 - constants
)
# Batches lock their rows in the order of the ids, so that two of them never wait for each other.
# A runner asks every two seconds whether its work is still wanted; a lease is written anew only when a third is gone.
HEARTBEAT = text(
    """
    WITH held AS (
      SELECT t.id, t.lease_until FROM task t
      JOIN unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS r(id, token) ON r.id = t.id
      WHERE t.state = 'leased' AND t.lease_token = r.token
    ), short AS (
      SELECT t.id FROM task t JOIN held ON held.id = t.id
      WHERE held.lease_until < now() + make_interval(secs => :seconds * 2.0 / 3) AND t.state = 'leased'
      ORDER BY t.id FOR UPDATE OF t
    ), kept AS (
      UPDATE task t SET lease_until = now() + make_interval(secs => :seconds) FROM short WHERE t.id = short.id
    )
    SELECT id FROM held
    """
)
FINISH = text(
    """
    WITH r AS (
      SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id bigint, token bigint, state text, reason text)
    ), held AS (
      SELECT t.id FROM task t JOIN r ON r.task_id = t.id
      WHERE t.state = 'leased' AND t.lease_token = r.token
      ORDER BY t.id FOR UPDATE OF t
    ), ended AS (
      UPDATE task t SET state = r.state, reason = r.reason, ended_at = now(), lease_until = NULL
      FROM held JOIN r ON r.task_id = held.id WHERE t.id = held.id
      RETURNING t.id, t.state, t.reason, t.leased_by
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason)
      SELECT id, 'leased', state, leased_by, reason FROM ended
    )
    SELECT id FROM ended
    """
)
# What both ways of coming back without a result (`fail`, `reap`) do to the rows in `held` (id, reason, token or not).
COME_BACK = f"""
    , back AS (
      UPDATE task t
      SET tries = t.tries + 1, reason = held.reason, lease_until = NULL, lease_token = NULL,
          state = CASE WHEN t.tries + 1 >= t.max_tries THEN 'dead' ELSE 'queued' END,
          ended_at = CASE WHEN t.tries + 1 >= t.max_tries THEN now() END,
          run_after = now() + (0.75 + 0.5 * random()) * make_interval(
            secs => least(:most, :base * power(2, least(t.tries, 20))))
      FROM held WHERE t.id = held.id
      RETURNING {COLUMNS}
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason)
      SELECT id, 'leased', state, leased_by, reason FROM back
    )
    SELECT * FROM back ORDER BY id
    """  # noqa: S608
FAIL = text(
    """
    WITH held AS (
      SELECT t.id, r.reason FROM task t
      JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(task_id bigint, token bigint, reason text) ON r.task_id = t.id
      WHERE t.state = 'leased' AND t.lease_token = r.token
      ORDER BY t.id FOR UPDATE OF t
    )
    """  # noqa: S608 - COLUMNS is a constant
    + COME_BACK
)
REAP = text(
    """
    WITH held AS (
      SELECT id, 'the lease ran out: ' || leased_by || ' did not answer since '
             || to_char(lease_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' AS reason
      FROM task WHERE state = 'leased' AND lease_until < now()
      ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    """  # noqa: S608 - COLUMNS is a constant
    + COME_BACK
)
RELEASE = text(
    """
    WITH held AS (
      SELECT id FROM task WHERE state = 'leased' AND leased_by = :by ORDER BY id FOR UPDATE
    ), back AS (
      UPDATE task t SET state = 'queued', lease_until = NULL, lease_token = NULL, run_after = now()
      FROM held WHERE t.id = held.id RETURNING t.id
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason)
      SELECT id, 'leased', 'queued', :by, 'given back at a clean stop' FROM back
    )
    SELECT id FROM back
    """
)
CANCEL = text(
    """
    WITH held AS (
      SELECT id, state FROM task
      WHERE id = ANY(CAST(:ids AS bigint[])) AND state IN ('queued', 'leased', 'paused')
      ORDER BY id FOR UPDATE
    ), ended AS (
      UPDATE task t SET state = 'cancelled', reason = :reason, ended_at = now(), lease_until = NULL, lease_token = NULL
      FROM held WHERE t.id = held.id RETURNING t.id, held.state AS was
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason) SELECT id, was, 'cancelled', :by, :reason FROM ended
    )
    SELECT id FROM ended
    """
)
# Of several ended tasks of one source the newest is taken, and none while another is open.
RETRY = text(
    f"""
    WITH newest AS (
      SELECT DISTINCT ON (coalesce(source_id, -id), kind) id FROM task
      WHERE id = ANY(CAST(:ids AS bigint[])) AND state IN ('failed', 'dead', 'cancelled')
      ORDER BY coalesce(source_id, -id), kind, id DESC
    ), held AS (
      SELECT t.id, t.state FROM task t JOIN newest USING (id)
      WHERE t.state IN ('failed', 'dead', 'cancelled') AND NOT EXISTS (
        SELECT FROM task o WHERE o.organisation_id = t.organisation_id AND o.source_id = t.source_id
          AND o.kind = t.kind AND o.state IN ('queued', 'leased', 'paused'))
      ORDER BY t.id FOR UPDATE OF t
    ), back AS (
      UPDATE task t SET state = 'queued', tries = 0, reason = '', run_after = now(), ended_at = NULL, leased_by = '',
          lease_token = NULL, turn = {turns.next_("t.kind", turns.lane("t.priority"), "t.organisation_id")}
      FROM held WHERE t.id = held.id RETURNING t.id, held.state AS was
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason) SELECT id, was, 'queued', :by, :reason FROM back
    )
    SELECT id FROM back
    """  # noqa: S608 - constants
)


def push(conn: Connection, batch: Sequence[NewTask], *, by: str = "scheduler") -> list[int]:
    """Queues tasks; gives the ids of those that are new, in the order of the batch.

    A task whose source has an open task of the same kind is left out.
    """
    if not batch:
        return []
    rows = msgspec.json.encode(batch).decode()
    return list(conn.execute(PUSH, {"rows": rows, "by": by}).scalars())


def claim(
    conn: Connection,
    kinds: Collection[Kind],
    by: str,
    most: int,
    *,
    scanners: Collection[str] | None = None,
    vantage: str | Collection[str] | None = None,
    lease_seconds: float = LEASE_SECONDS,
    ids: Collection[int] | None = None,
) -> list[Task]:
    """Takes at most `most` tasks for `by`, of the first kind first, and leases each under a new token; by turns.

    `scanners` None means whatever the scanner; `vantage` (one, or
    several) None means wherever; with `ids` only of these. Rows that
    somebody else is claiming at this moment are passed over, so no task is ever given twice.
    """
    taken: list[Task] = []
    for kind in kinds:
        if len(taken) >= most:
            break
        parameters = {
            "kind": kind,
            "by": by,
            "most": most - len(taken),
            "scanners": None if scanners is None else list(scanners),
            "vantages": [vantage] if isinstance(vantage, str) else None if vantage is None else list(vantage),
            "seconds": lease_seconds,
            "ids": None if ids is None else list(ids),
        }
        taken += [task_of(row) for row in conn.execute(CLAIM, parameters)]
    return taken


def heartbeat(
    conn: Connection, leases: Sequence[tuple[int, int]], *, lease_seconds: float = LEASE_SECONDS
) -> list[int]:
    """Prolongs leases, given as (task, token). Gives the tasks that are lost: ended, cancelled or somebody else's."""
    if not leases:
        return []
    ids, tokens = [lease[0] for lease in leases], [lease[1] for lease in leases]
    kept = set(conn.execute(HEARTBEAT, {"ids": ids, "tokens": tokens, "seconds": lease_seconds}).scalars())
    return [task_id for task_id in dict.fromkeys(ids) if task_id not in kept]


def finish_all(conn: Connection, endings: Iterable[Ending]) -> set[int]:
    """Ends claimed tasks; gives the ids that were taken. The others had lost their lease, and nothing is written."""
    listed = [msgspec.structs.replace(ending, reason=clean(ending.reason)) for ending in endings]
    for ending in listed:
        if ending.state not in ("done", "failed"):
            raise QueueError(f"A task can't be finished as {ending.state!r}; it is done or failed.")
    if not listed:
        return set()
    return set(conn.execute(FINISH, {"rows": msgspec.json.encode(listed).decode()}).scalars())


def finish(
    conn: Connection, task_id: int, token: int, state: Literal["done", "failed"] = "done", reason: str = ""
) -> bool:
    """Ends one claimed task for good; False when the lease is no longer the caller's."""
    return bool(finish_all(conn, [Ending(task_id, token, state, reason)]))


def fail(
    conn: Connection,
    failures: Iterable[tuple[int, int, str]],
    *,
    base_seconds: float = BACK_OFF_SECONDS,
    most_seconds: float = BACK_OFF_MOST_SECONDS,
) -> list[Returned]:
    """Gives back tasks that could not be done, as (task, token, reason): queued for later, or dead after `max_tries`.

    The wait doubles with each try, a quarter more or less. Those that lost their lease are left out of the answer.
    """
    rows = [{"task_id": task_id, "token": token, "reason": clean(reason)} for task_id, token, reason in failures]
    if not rows:
        return []
    parameters = {"rows": json.dumps(rows), "base": base_seconds, "most": most_seconds}
    return [_returned(row) for row in conn.execute(FAIL, parameters)]


def reap(conn: Connection, *, limit: int = 1000) -> list[Returned]:
    """Takes back the tasks whose lease ran out: queued again after a wait, or dead after `max_tries`."""
    parameters = {"limit": limit, "base": 1.0, "most": BACK_OFF_MOST_SECONDS}
    return [_returned(row) for row in conn.execute(REAP, parameters)]


def release(conn: Connection, by: str) -> list[int]:
    """Gives everything that `by` holds back to the queue at once, with no try lost: for a clean stop."""
    return list(conn.execute(RELEASE, {"by": by}).scalars())


def cancel(conn: Connection, ids: Collection[int], by: str, reason: str) -> list[int]:
    """Ends open tasks without a result; whoever works on one learns it from the next heartbeat. Gives their ids."""
    parameters = {"ids": list(ids), "by": by, "reason": clean(reason)}
    return list(conn.execute(CANCEL, parameters).scalars())


def retry(conn: Connection, ids: Collection[int], by: str, reason: str = "to be tried again") -> list[int]:
    """Queues failed, dead or cancelled tasks anew, unless their source has another open; gives the ids of those."""
    return list(conn.execute(RETRY, {"ids": list(ids), "by": by, "reason": clean(reason)}).scalars())


def clean(reason: str) -> str:
    """A reason as PostgreSQL can keep it (no NUL, no half a surrogate pair), cut with a mark where it is endless."""
    kept = reason.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    return kept if len(kept) <= REASON_LENGTH else kept[: REASON_LENGTH - 3] + "..."


def task_of(row: Row[Any]) -> Task:
    """A row that was selected with `COLUMNS`."""
    return Task(**{**row._mapping, "payload": payload.read(row.payload)})


def _returned(row: Row[Any]) -> Returned:
    task = task_of(row)
    return Returned(task, task.state)

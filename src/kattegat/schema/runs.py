"""What the ledger keeps of a change: the run with its plan, and a line of the journal for each step."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from kattegat.errors import KattegatError
from kattegat.schema import steps
from kattegat.schema.steps import Plan, Step

State = Literal["running", "done", "cancelling", "cancelled", "refused"]


class RunOpenError(KattegatError):
    """A change is under way, or was interrupted: it has to be resumed or cancelled first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        super().__init__(
            f"A change ({run.kind}, number {run.id}) was begun by {run.by_whom} on {run.host} at"
            f" {run.started_at:%Y-%m-%d %H:%M} UTC and has not ended: resume it or cancel it first."
        )


class RunDamagedError(KattegatError):
    """What the ledger keeps of a run is not what was put there."""

    def __init__(self, run_id: int, what: str) -> None:
        self.run_id = run_id
        super().__init__(f"The record of change {run_id} was altered ({what}): restore the backup taken before it.")


class NoSuchRunError(KattegatError):
    """There is no run of this number, or none that could be resumed."""


class Line(Struct, frozen=True):
    """A line of the journal. `number` counts from 1; `back` is true once the step is being undone."""

    number: int
    kind: str
    target: str
    words: str
    sha256: str
    state: Literal["pending", "running", "done", "undone"]
    back: bool
    started_at: datetime | None
    ended_at: datetime | None
    rows: int | None


class Run(Struct, frozen=True):
    """A change of release or schema as the ledger keeps it."""

    id: int
    kind: str
    from_release: str | None
    to_release: str | None
    from_revision: str | None
    to_revision: str | None
    state: State
    document: str
    sha256: str
    backup: str | None
    by_whom: str
    host: str
    started_at: datetime
    ended_at: datetime | None
    result: dict[str, Any] | None

    def plan(self) -> Plan:
        """The plan; raises `RunDamagedError` when it is not the one that was begun."""
        plan = steps.decode(self.document)
        if hashlib.sha256(self.document.encode()).hexdigest() != self.sha256:
            raise RunDamagedError(self.id, "its plan")
        return plan


def begin(
    connection: Connection,
    kind: str,
    plan: Plan,
    *,
    by_whom: str,
    host: str,
    releases: tuple[str | None, str | None] = (None, None),
    revisions: tuple[str | None, str | None] = (None, None),
    backup: str | None = None,
    result: dict[str, Any] | None = None,
) -> int:
    """Writes the plan and its journal, every step pending, and gives the run's number; changes nothing else.

    In the caller's transaction. Raises `RunOpenError` when there is one already.
    """
    document = plan.document().decode()
    values = {
        "kind": kind,
        "from_release": releases[0],
        "to_release": releases[1],
        "from_revision": revisions[0],
        "to_revision": revisions[1],
        "document": document,
        "sha256": plan.sha256(),
        "backup": backup,
        "by_whom": by_whom,
        "host": host,
        "result": None if result is None else msgspec.json.encode(result).decode(),
    }
    other = open_run(connection)
    if other is not None:
        raise RunOpenError(other)
    try:
        with connection.begin_nested():
            run_id = connection.execute(_INSERT_RUN, values).scalar_one()
    except IntegrityError as problem:
        # Two operators at the same moment: the index has let the first one in.
        other = open_run(connection)
        if other is None:
            raise
        raise RunOpenError(other) from problem
    lines = [
        {"run": run_id, "number": number, "kind": step.kind, "target": step.target, "words": step.words}
        | {"sha256": sha256(step)}
        for number, step in enumerate(plan.steps, 1)
    ]
    if lines:
        connection.execute(_INSERT_LINE, lines)
    return int(run_id)


def load(connection: Connection, run_id: int) -> Run:
    """The run of this number; raises `NoSuchRunError`."""
    row = connection.execute(_RUN, {"id": run_id}).first()
    if row is None:
        raise NoSuchRunError(f"There is no change number {run_id}; `kat history` lists those there are.")
    return msgspec.convert(dict(row._mapping), Run)


def open_run(connection: Connection) -> Run | None:
    """The run that has not ended, if there is one."""
    row = connection.execute(_OPEN_RUN).first()
    return None if row is None else msgspec.convert(dict(row._mapping), Run)


def lines(connection: Connection, run_id: int) -> list[Line]:
    """The journal of a run, first step first."""
    rows = connection.execute(_LINES, {"run": run_id})
    return [msgspec.convert(dict(row._mapping), Line) for row in rows]


def end(connection: Connection, run_id: int, result: dict[str, Any] | None = None) -> State:
    """Closes a run of which everything is done, or everything undone, with its result. In the caller's transaction."""
    run = load(connection, run_id)
    left = {line.state for line in lines(connection, run_id)}
    if run.state == "running" and left <= {"done"}:
        state: State = "done"
    elif run.state == "cancelling" and left <= {"pending", "undone"}:
        state = "cancelled"
    else:
        raise NoSuchRunError(f"Change {run_id} is not at its end: resume it or cancel it.")
    note(connection, run_id, result or {})
    connection.execute(
        text("UPDATE lifecycle.run SET state = :state, ended_at = clock_timestamp() WHERE id = :id"),
        {"state": state, "id": run_id},
    )
    return state


def note(connection: Connection, run_id: int, result: dict[str, Any]) -> None:
    """Adds to the result of a run. In the caller's transaction."""
    connection.execute(
        text(
            "UPDATE lifecycle.run SET result = coalesce(result, '{}'::jsonb) || CAST(:result AS jsonb) WHERE id = :id"
        ),
        {"result": msgspec.json.encode(result).decode(), "id": run_id},
    )


def sha256(step: Step) -> str:
    return hashlib.sha256(msgspec.json.encode(step, order="deterministic")).hexdigest()


_RUN = text(
    """
    SELECT id, kind, from_release, to_release, from_revision, to_revision, state, document, sha256, backup, by_whom,
           host, started_at, ended_at, result
    FROM lifecycle.run WHERE id = :id
    """
)
_OPEN_RUN = text(
    """
    SELECT id, kind, from_release, to_release, from_revision, to_revision, state, document, sha256, backup, by_whom,
           host, started_at, ended_at, result
    FROM lifecycle.run WHERE state IN ('running', 'cancelling')
    """
)
_INSERT_RUN = text(
    """
    INSERT INTO lifecycle.run (kind, from_release, to_release, from_revision, to_revision, document, sha256, backup,
                               by_whom, host, result)
    VALUES (:kind, :from_release, :to_release, :from_revision, :to_revision, :document, :sha256, :backup,
            :by_whom, :host, CAST(:result AS jsonb)) RETURNING id
    """
)
_INSERT_LINE = text(
    """
    INSERT INTO lifecycle.journal (run, number, kind, target, words, sha256)
    VALUES (:run, :number, :kind, :target, :words, :sha256)
    """
)
_LINES = text(
    """
    SELECT number, kind, target, words, sha256, state, back, started_at, ended_at, rows
    FROM lifecycle.journal WHERE run = :run ORDER BY number
    """
)

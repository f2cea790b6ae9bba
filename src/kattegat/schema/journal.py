"""Runs a plan step by step, so that whoever is killed in the middle can go on or go back.

Each step is one transaction that holds its own line of the journal: what the journal calls done is done, and what it
calls pending has left no trace. Two kinds of steps take longer than a transaction should: batches, repeated until one
changes nothing, and statements that refuse a transaction, which are looked at before they are run (again).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from msgspec import Struct
from psycopg import errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from kattegat.errors import KattegatError
from kattegat.schema import concurrent
from kattegat.schema.runs import Line, NoSuchRunError, RunDamagedError, lines, load, sha256
from kattegat.schema.steps import Step

# One session of a database runs its journal at a time. Its own key, since a database without a fence has a journal too.
LOCK = int.from_bytes(b"katjourn", "big")
LOCK_MILLISECONDS = 200  # what a reader may have to wait behind us
ALONE_MILLISECONDS = 20_000  # these wait for old transactions, and nobody waits behind them
PATIENCE_SECONDS = 60.0
RIVAL_SECONDS = 15.0  # the server takes some seconds to notice that the session of a killed process is gone
LEAST_TRIES = 4

# What a session may bring along from its role or database and would change the meaning of a plan's SQL.
SESSION = {
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "check_function_bodies": "off",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "client_min_messages": "warning",
    # A statement whose client was killed ends within a second in place of running to its end with its locks held.
    "client_connection_check_interval": "1000",
}

Moment = Literal["starts", "batch", "waits", "done", "undone"]


class RunBusyError(KattegatError):
    """Another session runs the journal now; `pid` is its server process."""

    def __init__(self, pid: int | None, who: str) -> None:
        self.pid = pid
        super().__init__(
            f"The change is being run by another session ({who}): wait for it to end, or end that session."
        )


class StepError(KattegatError):
    """A step that could not be done; the steps before it are, and it has left no trace."""

    def __init__(self, number: int, of: int, step: Step, reason: str) -> None:
        self.number = number
        self.step = step
        self.reason = reason
        super().__init__(
            f"Step {number} of {of} ({step.kind} {step.target}) failed: {reason.rstrip('.')}; the steps before it"
            " stand: resume the change when the cause is mended, or cancel it."
        )


class LockHeldError(StepError):
    """A lock that others did not give up in time; `holders` names them."""

    def __init__(self, number: int, of: int, step: Step, holders: list[str]) -> None:
        self.holders = holders
        who = "; ".join(holders) or "somebody who has let go since"
        super().__init__(number, of, step, f"no lock on {', '.join(step.tables) or step.target}, held by {who}")


class SessionLostError(KattegatError):
    """The server ended the session of the change, or itself; the journal says what is done."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The session of the change was lost ({reason.rstrip('.')}): resume the change, or cancel it.")


class Progress(Struct, frozen=True):
    """What `report` is told. `rows` of this step so far, `seconds` it has taken; `said` is who is waited for."""

    moment: Moment
    number: int
    of: int
    step: Step
    rows: int = 0
    seconds: float = 0.0
    said: str = ""

    @property
    def rows_per_second(self) -> float:
        """Rows a second since the step began."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


Report = Callable[[Progress], None]


def prepare(connection: Connection, run_id: int) -> None:
    """Makes this the session of the change. It stays so: its connection is invalidated after use, not pooled again."""
    with _transaction(connection):
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(_SETTINGS, {"names": list(SESSION), "texts": list(SESSION.values())})
        connection.execute(_OURS, {"run": str(run_id)})


def go(
    connection: Connection,
    run_id: int,
    *,
    report: Report = lambda _: None,
    until: int | None = None,
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Does what is pending of a run, or undoes what is done of one that is being cancelled. Does not end the run.

    `connection` must be outside a transaction and is for this alone. `until` is the last step to do (for a stop in
    between). `patience` is for how many seconds a lock is tried for. Raises `StepError`, `LockHeldError`,
    `RunBusyError`, `RunDamagedError`, `SessionLostError`; in each case the journal says what is done.
    """
    try:
        with _only_one(connection):
            prepare(connection, run_id)
            _go(connection, run_id, report, until, patience)
    except (errors.Error, DBAPIError) as problem:
        cause = problem.orig if isinstance(problem, DBAPIError) else problem
        if isinstance(cause, errors.OperationalError) and (not cause.sqlstate or _lost(cause)):
            raise SessionLostError(_said(cause)) from problem
        raise


def _go(connection: Connection, run_id: int, report: Report, until: int | None, patience: float) -> None:
    with _transaction(connection):
        run = load(connection, run_id)
        journal = lines(connection, run_id)
    plan = run.plan()
    if [line.sha256 for line in journal] != [sha256(step) for step in plan.steps]:
        raise RunDamagedError(run_id, "its journal")
    total = len(plan.steps)
    if run.state == "running":
        for line, step in zip(journal, plan.steps, strict=True):
            if line.state != "done" and (until is None or line.number <= until):
                _Doing(connection, run_id, line, total, step, report, patience, back=False).run()
    elif run.state == "cancelling":
        for line, step in zip(reversed(journal), plan.reverse().steps, strict=True):
            if line.state in ("done", "running"):
                _Doing(connection, run_id, line, total, step, report, patience, back=True).run()
    else:
        raise NoSuchRunError(f"Change {run_id} has ended ({run.state}): there is nothing to resume or cancel.")


def cancel(connection: Connection, run_id: int, *, report: Report = lambda _: None) -> None:
    """Turns round: undoes the steps that are done, the last one first. Killed in between, `go` continues with that."""
    with _transaction(connection):
        turned = connection.execute(
            text("UPDATE lifecycle.run SET state = 'cancelling' WHERE id = :id AND state IN ('running', 'cancelling')"),
            {"id": run_id},
        )
        if turned.rowcount != 1:
            raise NoSuchRunError(f"Change {run_id} has ended: there is nothing to cancel.")
    go(connection, run_id, report=report)


class _Doing:
    """One step, in the direction that `step` has: for the way back it is the reversed one."""

    def __init__(
        self,
        connection: Connection,
        run_id: int,
        line: Line,
        total: int,
        step: Step,
        report: Report,
        patience: float,
        *,
        back: bool,
    ) -> None:
        self.connection = connection
        self.key = {"run": run_id, "number": line.number}
        self.line = line
        self.total = total
        self.step = step
        self.report = report
        self.patience = patience
        self.back = back
        self.began = time.monotonic()

    def run(self) -> None:
        self._tell("starts")
        # A step undone in pieces, and killed meanwhile, has its first part behind it; so has one that was being done.
        half = self.line.state == "running" and self.line.back == self.back
        rows = (self.line.rows or 0) if half else 0
        if self.step.alone:
            self._patiently(lambda: self._mark("running"))
            for statement in self.step.do:
                self._patiently(partial(self._alone, statement))
            if self.step.batches is None:
                self._patiently(lambda: self._mark(self._end()))
        elif not half:
            rows = self._patiently(self._whole)
        if self.step.batches is not None:
            rows = self._batches(self.step.batches.do, rows)
        self._tell("undone" if self.back else "done", rows=rows)

    def _end(self) -> str:
        return "undone" if self.back else "done"

    def _whole(self) -> int:
        with self._step_transaction():
            rows = sum(self._execute(statement) for statement in self.step.do)
            self._mark("running" if self.step.batches else self._end(), rows)
        return rows

    def _batches(self, statement: str, rows: int) -> int:
        began, first = time.monotonic(), rows
        while True:
            found = self._patiently(partial(self._batch, statement, rows))
            rows += found
            if not found:
                return rows
            self.report(
                Progress("batch", self.line.number, self.total, self.step, rows - first, time.monotonic() - began)
            )

    def _batch(self, statement: str, before: int) -> int:
        with self._step_transaction():
            found = self._execute(statement)
            self._mark("running" if found else self._end(), before + found)
        return found

    def _alone(self, statement: str) -> None:
        driver = _driver(self.connection)
        driver.autocommit = True
        try:
            with driver.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = {ALONE_MILLISECONDS}".encode())
                concurrent.settle(cursor, statement)
        finally:
            # A session that has been lost has no mode to go back to.
            if not driver.closed:
                driver.autocommit = False

    @contextmanager
    def _step_transaction(self) -> Iterator[None]:
        with _transaction(self.connection):
            self.connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}"))
            yield

    def _execute(self, statement: str) -> int:
        # The driver's own cursor without parameters: the server gets the text that the plan showed, to the letter.
        with _driver(self.connection).cursor() as cursor:
            cursor.execute(statement.encode(), prepare=False)
            return max(cursor.rowcount, 0) if concurrent.writes(cursor.statusmessage) else 0

    def _mark(self, state: str, rows: int | None = None) -> None:
        if self.connection.in_transaction():
            self._write(state, rows)
        else:
            with _transaction(self.connection):
                self._write(state, rows)

    def _write(self, state: str, rows: int | None) -> None:
        found = self.connection.execute(_MARK, {**self.key, "state": state, "rows": rows, "back": self.back})
        if found.rowcount != 1:
            raise RunDamagedError(self.key["run"], f"line {self.line.number} of its journal")

    def _patiently(self, act: Callable[[], Any]) -> Any:
        """Does it again while somebody holds a lock, letting those behind us through in between."""
        end, tries = time.monotonic() + self.patience, 0
        while True:
            tries += 1
            try:
                return act()
            except (errors.Error, DBAPIError) as problem:
                cause = problem.orig if isinstance(problem, DBAPIError) else problem
                if not isinstance(cause, (errors.LockNotAvailable, errors.DeadlockDetected)):
                    if isinstance(cause, errors.Error) and cause.sqlstate and not _lost(cause):
                        raise StepError(self.line.number, self.total, self.step, _said(cause)) from problem
                    raise
                with _transaction(self.connection):
                    holders = concurrent.holders(self.connection, self.step.tables)
                if time.monotonic() > end and tries >= LEAST_TRIES:
                    raise LockHeldError(self.line.number, self.total, self.step, holders) from problem
                self._tell("waits", said="; ".join(holders))
                longest = min(LOCK_MILLISECONDS / 1000 * 2**tries, 3.0)
                time.sleep(random.uniform(LOCK_MILLISECONDS / 1000, longest))  # noqa: S311 - no secret

    def _tell(self, moment: Moment, *, rows: int = 0, said: str = "") -> None:
        seconds = time.monotonic() - self.began
        self.report(Progress(moment, self.line.number, self.total, self.step, rows, seconds, said))


def _lost(problem: errors.Error) -> bool:
    """Whether it is the session that ended, not the statement that failed: an administrator's command, a crash."""
    return (problem.sqlstate or "").startswith(("08", "57P"))


def _said(problem: errors.Error) -> str:
    detail = problem.diag.message_detail
    first = (problem.diag.message_primary or str(problem)).strip().splitlines() or [type(problem).__name__]
    return first[0] + (f" ({detail.rstrip('.')})" if detail else "")


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    transaction = connection.begin()
    try:
        yield
    except BaseException:
        # Of a lost session there is nothing to roll back, and trying would hide the reason.
        if not connection.invalidated and _driver(connection).closed:
            connection.invalidate()
        transaction.rollback()
        raise
    transaction.commit()


@contextmanager
def _only_one(connection: Connection) -> Iterator[None]:
    end = time.monotonic() + RIVAL_SECONDS
    while True:
        with _transaction(connection):
            if connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK}).scalar():
                break
            rival = connection.execute(_RIVAL, {"high": LOCK >> 32, "low": LOCK & 0xFFFFFFFF}).first()
        if time.monotonic() > end:
            said = "it has just gone" if rival is None else f"server process {rival.pid}, {rival.who}"
            raise RunBusyError(None if rival is None else rival.pid, said)
        time.sleep(0.25)
    try:
        yield
    finally:
        # A session that broke off has let go already.
        if not connection.invalidated and not _driver(connection).closed:
            with _transaction(connection):
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})


# Only those that this server has: transaction_timeout came with PostgreSQL 17.
_SETTINGS = text(
    """
    SELECT set_config(s.name, t.value, false)
    FROM unnest(CAST(:names AS text[]), CAST(:texts AS text[])) AS t (name, value) JOIN pg_settings AS s USING (name)
    """
)
_OURS = text(
    """
    SELECT set_config('kat.change', 'on', false), set_config('kat.change_of', :run, false),
           set_config('kat.epoch', CAST(last_value AS text), false) FROM lifecycle.epoch
    """
)
# A line goes one way while its step is done and the other way while it is undone; all else is somebody else's doing.
_MARK = text(
    """
    UPDATE lifecycle.journal
    SET state = :state, back = :back, rows = coalesce(:rows, rows),
        started_at = CASE WHEN state = 'running' AND back = :back THEN started_at ELSE transaction_timestamp() END,
        ended_at = CASE WHEN :state = 'running' THEN NULL ELSE clock_timestamp() END
    WHERE run = :run AND number = :number AND state IN ('pending', 'running', 'done')
      AND CASE WHEN :back THEN state <> 'pending' ELSE state <> 'done' AND NOT back END
    """
)
_RIVAL = text(
    """
    SELECT l.pid, concat_ws(' ', a.usename, nullif(a.application_name, ''), 'from',
                            coalesce(a.client_addr::text, 'here')) AS who
    FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database
          WHERE datname = current_database()) AND l.classid::bigint = :high AND l.objid::bigint = :low
    LIMIT 1
    """
)

"""A change of revision by plain Alembic: alone in the database, behind the fence, in one transaction, on record."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from alembic.runtime.migration import MigrationContext, RevisionStep
from msgspec import Struct
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import ProgrammingError

from kattegat.errors import KattegatError
from kattegat.schema import fence, runs, sqltext, stored
from kattegat.schema.operations import NotReversibleError
from kattegat.schema.steps import Plan
from kattegat.store import release, revisions
from kattegat.store.database import Database
from kattegat.store.migrate import settle
from kattegat.store.release import Release
from kattegat.store.tables import metadata

KIND = "alembic"
LIVE_SECONDS = 20.0
PATIENCE_SECONDS = 5.0

_PROCESSES = text(
    "SELECT role, host, pid, release FROM process WHERE seen_at > now() - make_interval(secs => :seconds)"
    " ORDER BY role, host, pid"
)
# Of another login's session everybody sees the name, and little else: its kind is NULL then.
_SESSIONS = text(
    """
    SELECT pid, usename, coalesce(application_name, '') AS application FROM pg_stat_activity
    WHERE datname = current_database() AND coalesce(backend_type, 'client backend') = 'client backend'
      AND usename = ANY (:logins) AND pid <> ALL (:own) ORDER BY pid
    """
)
_DONE = text(
    "UPDATE lifecycle.journal SET state = 'done', started_at = transaction_timestamp(), ended_at = clock_timestamp()"
    " WHERE run = :run"
)
_BEGAN = text("UPDATE lifecycle.run SET started_at = transaction_timestamp() WHERE id = :run")


class InUseError(KattegatError):
    """Processes use the database that is to be changed."""

    def __init__(self, who: Sequence[str]) -> None:
        self.who = tuple(who)
        more = f" and {len(who) - 4} more" if len(who) > 4 else ""
        super().__init__(
            f"This database is in use ({'; '.join(who[:4])}{more}): stop them, or type `kat upgrade` or"
            " `kat downgrade`, which see to that."
        )


class Found(Struct, frozen=True):
    """What is to be done: the command, the revision of the database, and the revisions on the way in order."""

    command: str
    at: str | None
    way: tuple[str, ...]
    rows: dict[str, stored.Stored]

    @classmethod
    def of(
        cls, connection: Connection, steps: Callable[[Any, Any], Any], context: MigrationContext, command: str
    ) -> Found:
        """Asks Alembic for the steps, and refuses what is no change of ours. Changes nothing."""
        heads = context.get_current_heads()
        found = [step for step in steps(heads, context) if isinstance(step, RevisionStep)]
        rows = {row.revision: row for row in stored.everything(connection)}
        if any(step.is_downgrade and step.revision.down_revision is None for step in found):
            raise NotReversibleError(revisions.BASE)
        return cls(command, heads[0] if heads else None, tuple(step.revision.revision for step in found), rows)


def own_sessions(engine: Engine) -> set[int]:
    """The server processes of every connection that the engine makes from now on; the set grows with them."""
    own: set[int] = set()

    @event.listens_for(engine, "connect")
    def made(driver: Any, _record: Any) -> None:
        own.add(driver.info.backend_pid)

    return own


@contextmanager
def fenced(database: Database, connection: Connection, own: Collection[int]) -> Iterator[None]:
    """Nobody else is connected, and nobody else writes, until the end; `own` are the sessions that don't count.

    Raises `InUseError`, or a `fence.FenceError`.
    """
    with connection.begin():
        closes = fence.present(connection)
        other = runs.open_run(connection) if closes else None
    if other is not None:
        raise runs.RunOpenError(other)
    _alone(database, connection, own)
    if not closes:
        yield
        return
    fence.close(connection)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            fence.open_(connection, [table.name for table in metadata.sorted_tables])


def written(connection: Connection, found: Found, at: str | None) -> None:
    """Puts the change on record, in its own transaction: the run with its plan, and the release."""
    if found.command == "upgrade":
        settle(connection)
    mine = release.this()
    target = found.rows.get(at or "")
    to = mine if at == mine.revision else Release(target.release if target else mine.release, at or "")
    was = release.recorded(connection)
    release.record(connection, to)
    plan = _plan(found)
    run = runs.begin(
        connection,
        KIND,
        plan,
        by_whom=_who(),
        host=socket.gethostname(),
        releases=(was.release if was is not None else None, to.release),
        revisions=(found.at, at),
    )
    connection.execute(_DONE, {"run": run})
    connection.execute(_BEGAN, {"run": run})
    runs.end(connection, run, {"revisions": list(found.way), "command": found.command})


def as_one_transaction(context: MigrationContext, connection: Connection) -> None:
    """Lets an `upgrade()` that builds an index concurrently run in a transaction: here nobody else can be held up."""
    shim: Any = context
    shim.autocommit_block = nullcontext
    if not event.contains(connection, "before_cursor_execute", _plain):
        event.listen(connection, "before_cursor_execute", _plain, retval=True)


def _plain(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> tuple[str, Any]:
    return sqltext.plain(statement), values


def _plan(found: Found) -> Plan:
    """What was run as far as it was a stored plan; an `upgrade()` that ran for the first time had none."""
    plans = []
    for revision in found.way:
        row = found.rows.get(revision)
        if row is not None and found.command == "downgrade":
            plans.append(row.plan())
        elif row is not None and row.back:
            plans.append(row.plan().reverse())
    return revisions.joined(plans) if plans else Plan(source="", target="")


def _alone(database: Database, connection: Connection, own: Collection[int]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        with connection.begin():
            who = [*_processes(connection), *_sessions(database, connection, own)]
        if not who:
            return
        if time.monotonic() > end:
            raise InUseError(who)
        time.sleep(0.1)


def _processes(connection: Connection) -> list[str]:
    try:
        with connection.begin_nested():
            rows = connection.execute(_PROCESSES, {"seconds": LIVE_SECONDS}).all()
    except ProgrammingError:
        # Another release may keep them elsewhere; their sessions are seen all the same.
        return []
    return [f"{row.role} on {row.host}, process {row.pid}, release {row.release}" for row in rows]


def _sessions(database: Database, connection: Connection, own: Collection[int]) -> list[str]:
    logins = ["kat_app", "kat_system"]
    if database.shared_login:
        logins.append(str(connection.execute(text("SELECT session_user")).scalar_one()))
    rows = connection.execute(_SESSIONS, {"logins": logins, "own": list(own)})
    return [f"session {row.pid} of {row.usename}{f' ({row.application})' if row.application else ''}" for row in rows]


def _who() -> str:
    try:
        return f"{getpass.getuser()} (plain Alembic)"
    except (KeyError, OSError):
        return f"user {os.getuid()} (plain Alembic)"

"""A change of release from beginning to end: looked at, shown, backed up, fenced, run, verified, opened.

Whoever is killed in between leaves a run in the ledger and a closed fence: `resume` and `cancel` start from these
alone, in whichever release they are typed.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import psycopg
from alembic.config import Config
from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle import accounts, backup, preflight, releases, way
from kattegat.lifecycle.preflight import RefusedError
from kattegat.lifecycle.situation import Kind, Situation
from kattegat.lifecycle.way import Way
from kattegat.schema import fence, journal, runs, shape, snapshot, stored
from kattegat.schema.journal import Progress
from kattegat.schema.runs import Run
from kattegat.settings import Settings
from kattegat.store import forms
from kattegat.store import release as this_code
from kattegat.store.database import Database, DatabaseUnreachableError

LEAVE_SECONDS = 6.0
OUTCOME = {"running": "done", "cancelling": "cancelled"}


class VerifyError(KattegatError):
    """After the last step the database is not what it should be; it stays closed."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        super().__init__(
            f"The steps are done, but not everything is as it should be ({differences[0]}{more}); the database stays"
            " closed: type `kat upgrade --cancel` to go back, or `kat upgrade --resume` once it is put right."
        )


class DeclinedError(KattegatError):
    """Whoever was asked said no."""


class NothingOpenError(UsageError):
    """There is no change to resume or cancel."""


class UnreadableError(KattegatError):
    """What a change has to look at can't be read."""


class ChangedMeanwhileError(KattegatError):
    """Between the look and the closing of the fence somebody changed the schema."""


class Wish(Struct, frozen=True):
    """What was typed. `accept` are SHA-256 of stored plans; with `everything` the values of every column are compared
    before and after, else those of tables up to `accounts.SMALL` bytes."""

    kind: Kind
    to: str | None = None
    dry_run: bool = False
    yes: bool = False
    backup: bool = True
    accept: tuple[str, ...] = ()
    everything: bool = False


class Talk(Protocol):
    """Who is told what happens, and asked."""

    def plan(self, found: Way, numbers: dict[str, int]) -> None:
        """The plan, before anything is done; `numbers` are the rows of the tables."""

    def dry(self, found: Way) -> None:
        """The SQL texts of the plan, in place of running them."""

    def say(self, sentence: str) -> None:
        """What happens now."""

    def step(self, progress: Progress) -> None:
        """A step goes on."""

    def part(self, what: str, done: int, total: int) -> None:
        """A backup goes on."""

    def ask(self, question: str) -> bool:
        """Whether to begin."""


class Outcome(Struct, frozen=True):
    """How a change ended. `seconds` from its begin, `closed` for how long nobody could write; None where unknown."""

    run: int
    kind: str
    state: str
    release: str | None
    revision: str | None
    seconds: float
    closed: float | None
    backup: str | None


def change(
    settings: Settings, database: Database, wish: Wish, talk: Talk, *, config: Config | None = None
) -> Outcome | None:
    """The whole procedure; None after a dry run.

    Raises `RefusedError` or another `KattegatError` of one sentence while nothing has been changed, `DeclinedError`,
    and of the journal `StepError`, `LockHeldError` or `SessionLostError`: then the run is open and can be resumed.
    """
    found, numbers = look(settings, database, wish, config=config)
    talk.plan(found, numbers)
    if wish.dry_run:
        talk.dry(found)
        return None
    made = _backup(settings, database, found, talk) if wish.backup else None
    if not wish.yes and not talk.ask(f"{found.kind.capitalize()} the database from {found.start} to {found.end}?"):
        raise DeclinedError("Nothing was changed.")
    with _session(database) as connection:
        with connection.begin():
            run_id = runs.begin(
                connection,
                found.kind,
                found.plan,
                by_whom=_who(),
                host=socket.gethostname(),
                releases=(found.start.release, found.end.release),
                revisions=(found.start.revision, found.end.revision),
                backup=made,
            )
        try:
            _close(database, connection, talk, resume=False)
        except KattegatError as problem:
            _refuse(connection, run_id, str(problem))
            raise
        try:
            _unchanged(connection, found)
        except KattegatError as problem:
            _refuse(connection, run_id, str(problem))
            fence.open_(connection, _fenced(connection))
            raise
        _count(connection, run_id, everything=wish.everything)
        return _finish(connection, run_id, talk)


def look(
    settings: Settings, database: Database, wish: Wish, *, config: Config | None = None
) -> tuple[Way, dict[str, int]]:
    """The plan, if nothing stands against it, and the estimated rows of each table. Reads only."""
    with _reading(database) as connection:
        # On the embedded server its administrator makes them.
        scratch = database.shared_login and (wish.backup or wish.kind == "upgrade")
        here = Situation(connection=connection, settings=settings, kind=wish.kind, scratch=scratch)
        for checks in (preflight.OF_SERVER, preflight.OF_LEDGER, preflight.OF_CHANGE):
            _refuse_for(preflight.problems(here, checks))
        where = way.ends(connection, wish.kind, wish.to, config=config)
        _refuse_for(preflight.problems(here, preflight.OF_DATABASE))
        numbers = {row[0]: int(row[1]) for row in connection.execute(_ROWS)}
    found = way.find(settings, database, wish.kind, where, accept=wish.accept, make_key=not wish.dry_run, config=config)
    with _reading(database) as connection:
        here = Situation(connection=connection, settings=settings, kind=wish.kind, plan=found.plan)
        _refuse_for(preflight.problems(here, preflight.OF_PLAN))
    return found, numbers


def resume(database: Database, talk: Talk) -> Outcome | None:
    """Goes on with the change that was interrupted, forward or back as it was going; None where only the fence was left
    closed. Raises `NothingOpenError`, and what `change` raises of the journal."""
    return _again(database, talk, back=False)


def cancel(database: Database, talk: Talk) -> Outcome | None:
    """Takes the change that was interrupted back; otherwise as `resume`."""
    return _again(database, talk, back=True)


def _again(database: Database, talk: Talk, *, back: bool) -> Outcome | None:
    with _session(database) as connection:
        with connection.begin():
            run = runs.open_run(connection) if fence.present(connection) else None
            closed = fence.present(connection) and not fence.state(connection).open
        if run is None and not closed:
            raise NothingOpenError("No change of this database was interrupted: there is nothing to resume or cancel.")
        _close(database, connection, talk, resume=True)
        if run is None:
            # Killed after its last line in the ledger and before the fence was opened.
            fence.open_(connection, _fenced(connection))
            return None
        if run.state == "running" and not run.result:
            # Killed before the rows were counted: no step has been done.
            _count(connection, run.id, everything=False)
        return _finish(connection, run.id, talk, back=back)


def _count(connection: Connection, run_id: int, *, everything: bool) -> None:
    """The rows before the first step, on record for whoever verifies; in the session of the change, whose settings
    decide how a value looks as text."""
    closed_at = time.time()
    journal.prepare(connection, run_id)
    with connection.begin():
        before = accounts.take(connection, everything=everything)
        runs.note(connection, run_id, {"closed_at": closed_at, "before": before})


def _finish(connection: Connection, run_id: int, talk: Talk, *, back: bool = False) -> Outcome:
    if back:
        talk.say("Taking back what was done.")
        journal.cancel(connection, run_id, report=talk.step)
    else:
        journal.go(connection, run_id, report=talk.step)
    with connection.begin():
        run = runs.load(connection, run_id)
    talk.say("Comparing the schema and the rows with what they should be.")
    outcome = OUTCOME[run.state]
    with connection.begin():
        differences = _verify(connection, run)
    if differences:
        raise VerifyError(differences)
    with connection.begin():
        runs.end(connection, run_id, {"seconds": time.time() - run.started_at.timestamp()})
        release = run.to_release if outcome == "done" else run.from_release
        revision = connection.execute(_REVISION).scalar()
        if revision is not None:
            this_code.record(connection, _record(connection, release, revision))
    fence.open_(connection, _fenced(connection))
    ended = time.time()
    closed_at = (run.result or {}).get("closed_at")
    return Outcome(
        run=run_id,
        kind=run.kind,
        state=outcome,
        release=release,
        revision=revision,
        seconds=ended - run.started_at.timestamp(),
        closed=None if closed_at is None else ended - float(closed_at),
        backup=run.backup,
    )


def _verify(connection: Connection, run: Run) -> list[str]:
    plan = run.plan()
    wanted = plan.target if run.state == "running" else plan.source
    have = snapshot.read(connection)
    found: list[str] = []
    if have.fingerprint() != wanted:
        known = _shape(connection, wanted)
        lines = shape.differences(have, known) if known is not None else []
        found += lines or ["the schema is not that of the target"]
    before = (run.result or {}).get("before")
    if before:
        found += accounts.compare(connection, before, plan)
    return found


def _shape(connection: Connection, fingerprint: str) -> shape.Snapshot | None:
    for row in stored.everything(connection):
        for one in (row.shape_before(), row.shape_after()):
            if one.fingerprint() == fingerprint:
                return one
    return None


def _record(connection: Connection, release: str | None, revision: str) -> this_code.Release:
    had = this_code.recorded(connection)
    if release is None:
        # A revision between two releases; it is known by its number.
        release = had.release if had is not None else this_code.this().release
    oldest = forms.oldest_reader(connection)
    if had is not None and had.oldest_reader and releases.number(had.oldest_reader) > releases.number(oldest):
        # A newer release knows of forms that this one has never heard of.
        oldest = had.oldest_reader
    return this_code.Release(release=release, revision=revision, oldest_reader=oldest)


def _unchanged(connection: Connection, found: Way) -> None:
    with connection.begin():
        have = snapshot.read(connection).fingerprint()
    if have != found.plan.source:
        raise ChangedMeanwhileError(
            f"The schema was changed by somebody else while the {found.kind} was being prepared: nothing was changed;"
            " type the same command again."
        )


def _close(database: Database, connection: Connection, talk: Talk, *, resume: bool) -> None:
    talk.say("Closing the database to writers; the processes of this install stop by themselves.")
    fence.close(connection, resume=resume, tell=talk.say)
    # Our own idle connections are no processes to wait for.
    database.engine("kat_app").dispose()
    database.engine("kat_system").dispose()
    end = time.monotonic() + LEAVE_SECONDS
    while True:
        with connection.begin():
            left = list(connection.execute(_LEFT))
        if not left or time.monotonic() > end:
            break
        time.sleep(0.2)
    for row in left:
        talk.say(f"Session {row.pid} of {row.usename} is still there; it can't write any more.")


def _fenced(connection: Connection) -> list[str]:
    """Every table but Alembic's, which plain Alembic writes in sessions that know no epoch."""
    with connection.begin():
        return list(connection.execute(_TABLES).scalars())


def _backup(settings: Settings, database: Database, found: Way, talk: Talk) -> str:
    talk.say("Making a backup.")
    made = backup.create(settings, database, label=f"before {found.kind} to {found.end}", progress=talk.part)
    talk.say(f"Proving the backup {made.name} by restoring it into a database of its own.")
    backup.verify(settings, database, made, progress=talk.part)
    return made.name


def _refuse(connection: Connection, run_id: int, why: str) -> None:
    with connection.begin():
        connection.execute(_REFUSED, {"id": run_id})
        runs.note(connection, run_id, {"refused": why})


def _refuse_for(problems: list[str]) -> None:
    if problems:
        raise RefusedError(problems)


def _who() -> str:
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return f"user {os.getuid()} (command line)"


@contextmanager
def _reading(database: Database) -> Iterator[Connection]:
    """A transaction of the owner that the server itself keeps from writing."""
    with _reachable():
        try:
            with database.engine("kat_owner").connect() as pooled:
                connection = pooled.execution_options(postgresql_readonly=True)
                with connection.begin():
                    yield connection
        except ProgrammingError as problem:
            said = str(problem.orig).strip().splitlines()[0].rstrip(".")
            raise UnreadableError(
                f"The database can't be looked at ({said}): put it right, or restore a backup."
            ) from problem


@contextmanager
def _session(database: Database) -> Iterator[Connection]:
    """A connection for a change alone: what is set in its session goes with it, and so do its locks."""
    with _reachable(), database.engine("kat_owner").connect() as connection:
        try:
            yield connection
        finally:
            if not connection.invalidated:
                connection.invalidate()


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (OperationalError, psycopg.OperationalError) as problem:
        cause = problem.orig if isinstance(problem, OperationalError) else problem
        said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise DatabaseUnreachableError(
            f"The database does not answer ({said}): start it, and type `kat upgrade --resume` if a change was under"
            " way."
        ) from problem


_ROWS = text(
    """
    SELECT concat(n.nspname, '.', c.relname), CAST(greatest(coalesce(sum(leaf.reltuples), c.reltuples), 0) AS bigint)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (SELECT p.reltuples FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid
                       WHERE t.isleaf AND p.oid <> c.oid AND p.reltuples > 0) AS leaf ON true
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    GROUP BY n.nspname, c.relname, c.reltuples
    """
)
_REVISION = text("SELECT version_num FROM public.alembic_version")
_LEFT = text(
    """
    SELECT pid, usename FROM pg_stat_activity
    WHERE datname = current_database() AND usename IN ('kat_app', 'kat_system') AND pid <> pg_backend_pid()
    """
)
_TABLES = text(
    """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND c.relname <> 'alembic_version' ORDER BY 1
    """
)
_REFUSED = text("UPDATE lifecycle.run SET state = 'refused', ended_at = clock_timestamp() WHERE id = :id")

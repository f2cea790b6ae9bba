"""The journal: done in order, undone in reverse, and after a kill at any moment one of the two ends can be reached."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import Connection, text

from kattegat.schema import concurrent, journal, ledger, runs
from kattegat.schema.steps import Batches, Plan, Step
from kattegat.store.database import Database

ROWS = 2500
PLAN = Plan(
    source="a" * 64,
    target="b" * 64,
    steps=(
        Step(
            kind="add column",
            target="public.thing.share",
            words="A column for shares, such as 100%.",
            do=("ALTER TABLE public.thing ADD COLUMN share text DEFAULT '100% :x'",),
            undo=("ALTER TABLE public.thing DROP COLUMN share",),
            lock="ACCESS EXCLUSIVE",
            tables=("public.thing",),
        ),
        Step(
            kind="fill",
            target="public.thing.twice",
            words="The double of each number.",
            do=("ALTER TABLE public.thing ADD COLUMN twice bigint",),
            undo=("ALTER TABLE public.thing DROP COLUMN twice",),
            tables=("public.thing",),
            rows=ROWS,
            batches=Batches(
                do="UPDATE public.thing SET twice = number * 2 WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.thing"
                " WHERE twice IS NULL LIMIT 1000))"
            ),
        ),
        Step(
            kind="create index",
            target="public.thing_twice",
            words="An index on the doubles, built beside the writers.",
            do=("CREATE UNIQUE INDEX CONCURRENTLY thing_twice ON public.thing USING btree (twice)",),
            undo=("DROP INDEX CONCURRENTLY public.thing_twice",),
            tables=("public.thing",),
            alone=True,
        ),
        Step(
            kind="rename column",
            target="public.thing.number",
            words="The number is called count.",
            do=("ALTER TABLE public.thing RENAME COLUMN number TO count",),
            undo=("ALTER TABLE public.thing RENAME COLUMN count TO number",),
            lock="ACCESS EXCLUSIVE",
            tables=("public.thing",),
        ),
    ),
)


@pytest.fixture
def things(database: Database) -> Database:
    """A database with a ledger and a table of our own."""
    with database.begin("kat_owner") as connection:
        connection.exec_driver_sql(ledger.TABLES)
        connection.execute(text("CREATE TABLE public.thing (id integer PRIMARY KEY, number integer NOT NULL)"))
        connection.execute(
            text("INSERT INTO public.thing SELECT n, n * 3 FROM generate_series(1, :n) AS n"), {"n": ROWS}
        )
    return database


def begin(database: Database, plan: Plan = PLAN) -> int:
    with database.begin("kat_owner") as connection:
        return runs.begin(connection, "upgrade", plan, by_whom="anna (command line)", host="here.example")


@contextmanager
def session(database: Database) -> Iterator[Connection]:
    """A connection that goes with the change."""
    with database.engine("kat_owner").connect() as connection:
        try:
            yield connection
        finally:
            connection.invalidate()


def shape(database: Database) -> str:
    """Columns, indexes and rows of our table, as one hash."""
    with psycopg.connect(database.conninfo("kat_owner")) as connection:
        columns = connection.execute(
            "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'public.thing'::regclass AND attnum > 0"
            " AND NOT attisdropped ORDER BY attname"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'public.thing'::regclass"
            " ORDER BY 1"
        ).fetchall()
        names = ", ".join(name for name, _ in columns)
        rows = connection.execute(f"SELECT {names} FROM public.thing ORDER BY id".encode()).fetchall()
    return hashlib.sha256(repr((columns, indexes, rows)).encode()).hexdigest()


def states(database: Database, run: int) -> list[str]:
    with database.begin("kat_owner") as connection:
        return [line.state for line in runs.lines(connection, run)]


def finish(database: Database, run: int, *, back: bool = False) -> str:
    """From a fresh session: on to the end, or back to the beginning."""
    with session(database) as connection:
        if back:
            journal.cancel(connection, run)
        else:
            journal.go(connection, run)
        with connection.begin():
            return runs.end(connection, run)


def test_steps_are_done_in_order_and_undone_in_reverse(things: Database) -> None:
    before = shape(things)
    run = begin(things)
    told: list[tuple[str, int]] = []
    with session(things) as connection:
        journal.go(connection, run, report=lambda p: told.append((p.moment, p.number)))
    assert [entry for entry in told if entry[0] in ("starts", "done")] == [
        (moment, number) for number in (1, 2, 3, 4) for moment in ("starts", "done")
    ]
    # 2,500 rows, at most 1,000 at once.
    assert told.count(("batch", 2)) == 3
    with things.begin("kat_owner") as connection:
        assert [(line.state, line.rows) for line in runs.lines(connection, run)][1] == ("done", ROWS)
        assert connection.execute(text("SELECT DISTINCT share FROM thing")).scalar() == "100% :x"
        assert connection.execute(text("SELECT count(*) FROM thing WHERE twice = count * 2")).scalar() == ROWS
    assert finish(things, run, back=True) == "cancelled"
    assert states(things, run) == ["undone"] * 4
    assert shape(things) == before


def test_a_run_that_is_done_is_not_resumed(things: Database) -> None:
    run = begin(things)
    assert finish(things, run) == "done"
    with session(things) as connection:
        with pytest.raises(runs.NoSuchRunError, match="has ended"):
            journal.go(connection, run)
        with pytest.raises(runs.NoSuchRunError, match="has ended"):
            journal.cancel(connection, run)


def test_a_second_operator_is_told_who_the_first_is(things: Database) -> None:
    run = begin(things)
    with pytest.raises(runs.RunOpenError, match=r"anna \(command line\) on here\.example at 20\d\d-") as told:
        begin(things)
    assert told.value.run.id == run


def test_a_run_that_is_not_at_its_end_cannot_be_closed(things: Database) -> None:
    run = begin(things)
    with session(things) as connection:
        journal.go(connection, run, until=2)
        with pytest.raises(runs.NoSuchRunError, match="not at its end"), connection.begin():
            runs.end(connection, run)
    assert states(things, run) == ["done", "done", "pending", "pending"]


def test_a_step_that_fails_leaves_no_trace_and_what_was_before_it_stands(things: Database) -> None:
    before = shape(things)
    broken = Step(
        kind="add constraint",
        target="public.thing.small",
        words="Numbers are small.",
        do=("CREATE TABLE public.trace ()", "ALTER TABLE public.thing ADD CONSTRAINT small CHECK (number < 10)"),
        undo=("ALTER TABLE public.thing DROP CONSTRAINT small", "DROP TABLE public.trace"),
    )
    run = begin(things, Plan(source="", target="", steps=(PLAN.steps[0], broken)))
    with session(things) as connection, pytest.raises(journal.StepError, match=r"Step 2 of 2 .*small") as failed:
        journal.go(connection, run)
    assert failed.value.number == 2
    assert states(things, run) == ["done", "pending"]
    with things.begin("kat_owner") as connection:
        assert connection.execute(text("SELECT to_regclass('public.trace')")).scalar() is None
        connection.execute(text("DELETE FROM thing WHERE number >= 10"))
    assert finish(things, run) == "done"
    with things.begin("kat_owner") as connection:
        assert connection.execute(text("SELECT to_regclass('public.trace')")).scalar() == "trace"
    assert before != shape(things)


def test_a_lock_is_tried_for_and_its_holder_named_and_readers_get_by(things: Database) -> None:
    run = begin(things)
    with psycopg.connect(things.conninfo("kat_owner"), application_name="long report") as reader:
        reader.execute("SELECT count(*) FROM public.thing")
        waits: list[str] = []
        with session(things) as connection, pytest.raises(journal.LockHeldError, match="long report") as held:
            journal.go(
                connection, run, report=lambda p: waits.append(p.said) if p.moment == "waits" else None, patience=0
            )
        assert f"server process {reader.info.backend_pid}" in held.value.holders[0]
        assert len(waits) == journal.LEAST_TRIES - 1
        assert states(things, run)[0] == "pending"
    assert finish(things, run) == "done"


def test_a_lock_given_up_meanwhile_is_taken(things: Database) -> None:
    run = begin(things)
    with psycopg.connect(things.conninfo("kat_owner")) as reader, session(things) as connection:
        reader.execute("SELECT count(*) FROM public.thing")
        waited = threading.Event()

        def report(progress: journal.Progress) -> None:
            if progress.moment == "waits":
                reader.rollback()
                waited.set()

        journal.go(connection, run, report=report)
    assert waited.is_set()
    assert states(things, run) == ["done"] * 4


def test_half_an_index_is_replaced(things: Database) -> None:
    with things.begin("kat_owner") as connection:
        connection.execute(text("UPDATE thing SET number = 6 WHERE id = 1"))  # as id 2 has
    run = begin(things)
    with session(things) as connection, pytest.raises(journal.StepError, match="could not create unique index"):
        journal.go(connection, run)
    assert states(things, run)[2] == "running"
    with things.begin("kat_owner") as connection:
        invalid = text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 'thing_twice'::regclass")
        assert connection.execute(invalid).scalar()
        connection.execute(text("UPDATE thing SET twice = 0 WHERE id = 1"))
    assert finish(things, run) == "done"
    with things.begin("kat_owner") as connection:
        assert not connection.execute(invalid).scalar()


def test_half_an_index_goes_when_the_change_is_cancelled(things: Database) -> None:
    with things.begin("kat_owner") as connection:
        connection.execute(text("UPDATE thing SET number = 6 WHERE id = 1"))
    before = shape(things)
    run = begin(things)
    with session(things) as connection, pytest.raises(journal.StepError):
        journal.go(connection, run)
    assert finish(things, run, back=True) == "cancelled"
    assert states(things, run) == ["undone", "undone", "undone", "pending"]
    assert shape(things) == before


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [("document", "replace(document, 'twice', 'thrice')", "its plan"), ("sha256", "repeat('0', 64)", "its plan")],
)
def test_a_plan_altered_in_the_ledger_is_not_run(things: Database, column: str, value: str, what: str) -> None:
    before = shape(things)
    run = begin(things)
    with things.begin("kat_owner") as connection:
        connection.execute(text(f"UPDATE lifecycle.run SET {column} = {value}"))
    with session(things) as connection, pytest.raises(runs.RunDamagedError, match=what):
        journal.go(connection, run)
    assert shape(things) == before


def test_a_journal_that_is_not_of_the_plan_is_not_run(things: Database) -> None:
    run = begin(things)
    with things.begin("kat_owner") as connection:
        connection.execute(text("DELETE FROM lifecycle.journal WHERE number = 1"))
    with session(things) as connection, pytest.raises(runs.RunDamagedError, match="its journal"):
        journal.go(connection, run)


def test_only_one_session_runs_the_journal(things: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RIVAL_SECONDS", 0.0)
    run = begin(things)
    with session(things) as first, session(things) as second:

        def report(_: journal.Progress) -> None:
            pid = first.connection.dbapi_connection.info.backend_pid
            with pytest.raises(journal.RunBusyError, match=f"server process {pid}"):
                journal.go(second, run)

        journal.go(first, run, report=report, until=1)
    assert states(things, run)[0] == "done"


def test_a_session_that_is_ended_is_told_as_such(things: Database) -> None:
    run = begin(things)
    with session(things) as connection:

        def report(progress: journal.Progress) -> None:
            if (progress.moment, progress.number) == ("batch", 2):
                pid = connection.connection.dbapi_connection.info.backend_pid
                with psycopg.connect(things.conninfo("kat_owner")) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

        with pytest.raises(journal.SessionLostError, match="resume"):
            journal.go(connection, run, report=report)
    assert states(things, run) == ["done", "running", "pending", "pending"]
    assert finish(things, run) == "done"


def test_what_a_session_brings_along_does_not_change_the_plan(things: Database) -> None:
    slow = Step(kind="probe", target="", words="Takes a while.", do=("SELECT pg_sleep(0.2)",), undo=())
    run = begin(things, Plan(source="", target="", steps=(*PLAN.steps, slow)))
    with session(things) as connection:
        with connection.begin():
            connection.execute(text("SET statement_timeout = 100"))
            connection.execute(text("SET search_path = pg_temp"))
        journal.go(connection, run)
        with connection.begin():
            found = connection.execute(
                text(
                    "SELECT current_setting('search_path'), current_setting('kat.change'),"
                    " current_setting('kat.change_of')"
                )
            ).one()
    assert tuple(found) == ("", "on", str(run))


# A process of its own that ends itself, as by `kill -9`, the moment it is told of such a step.
KILLED = textwrap.dedent(
    """
    import os, signal, sys
    sys.path.insert(0, sys.argv[5])
    from sqlalchemy import create_engine
    import psycopg
    from kattegat.schema import journal
    dsn, run, moment, number = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

    def report(progress):
        if (progress.moment, progress.number) == (moment, number):
            os.kill(os.getpid(), signal.SIGKILL)

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.connect() as connection:
        if sys.argv[6] == "back":
            journal.cancel(connection, run, report=report)
        else:
            journal.go(connection, run, report=report)
    """
)
MOMENTS = [
    ("starts", 1),
    ("done", 1),
    ("starts", 2),
    ("batch", 2),
    ("done", 2),
    ("starts", 3),
    ("done", 3),
    ("done", 4),
]
BACK = [("starts", 4), ("undone", 4), ("undone", 3), ("starts", 2), ("undone", 2), ("undone", 1)]


def killed(database: Database, run: int, moment: str, number: int, way: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, database.conninfo("kat_owner"), str(run), moment, str(number), os.curdir, way],
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("moment", "number"), MOMENTS)
def test_killed_at_any_step_it_goes_on_or_back(things: Database, moment: str, number: int) -> None:
    before = shape(things)
    run = begin(things)
    killed(things, run, moment, number, "on")
    assert finish(things, run, back=True) == "cancelled"
    assert shape(things) == before
    run = begin(things)
    killed(things, run, moment, number, "on")
    assert finish(things, run) == "done"
    with things.begin("kat_owner") as connection:
        assert connection.execute(text("SELECT count(*) FROM thing WHERE twice = count * 2")).scalar() == ROWS


@pytest.mark.parametrize(("moment", "number"), BACK)
def test_killed_while_it_goes_back_it_goes_back(things: Database, moment: str, number: int) -> None:
    before = shape(things)
    run = begin(things)
    with session(things) as connection:
        journal.go(connection, run)
    killed(things, run, moment, number, "back")
    with session(things) as connection:
        # As `--resume` does: a change that was being cancelled is cancelled on.
        journal.go(connection, run)
        with connection.begin():
            assert runs.end(connection, run) == "cancelled"
    assert shape(things) == before


@pytest.mark.parametrize(
    ("statement", "runs_again"),
    [
        ('CREATE INDEX CONCURRENTLY "Odd ""Name" ON ONLY public.thing (number)', True),
        ("create unique index concurrently if not exists odd on thing (id)", True),
        ("DROP INDEX CONCURRENTLY IF EXISTS public.nothing", True),
        ("VACUUM public.thing", True),
    ],
)
def test_statements_outside_a_transaction_bear_repetition(things: Database, statement: str, runs_again: bool) -> None:
    with psycopg.connect(things.conninfo("kat_owner"), autocommit=True) as connection, connection.cursor() as cursor:
        concurrent.settle(cursor, statement)
        before = shape(things)
        concurrent.settle(cursor, statement)
        assert (shape(things) == before) is runs_again

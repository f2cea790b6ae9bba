"""The scheduler's process: one leader at a time takes back lost leases, queues what is due and makes partitions."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from kattegat import logs
from kattegat.errors import KattegatError
from kattegat.scheduler import beat, blocklist, catchup, dispatch, history, pauses, permits, queue
from kattegat.settings import Settings
from kattegat.store import partition
from kattegat.store.database import Database, open_database
from kattegat.store.release import WrongReleaseError

ROLE = "scheduler"
TICK_SECONDS = 1.0
PARTITION_SECONDS = 86400.0
HISTORY_SECONDS = 10.0
KEEP_MONTHS = 13
"""Of finished tasks and their events; the tallies stay."""
LEADER = 0x6B61745F73636864
"""The key of the advisory lock that the leader holds ("kat_schd")."""

log = structlog.get_logger()


class Leader:
    """The advisory lock, held by a connection of its own for as long as that lives. PostgreSQL gives it to one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    def leads(self) -> bool:
        """Whether this process is the leader now; tries to become it. Raises when the database does not answer."""
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except SQLAlchemyError:
                self.resign()
                raise
            return True
        connection = self._database.engine("kat_system").connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            taken = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LEADER}).scalar())
        except SQLAlchemyError:
            connection.close()
            raise
        if not taken:
            connection.close()
            return False
        self._connection = connection
        return True

    def resign(self) -> None:
        """Lets another lead. The connection is closed for real, lest the pool keeps the lock with it."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LEADER})
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resign()


class Scheduler:
    """What the leader does at each tick; every part of it is a transaction of its own."""

    def __init__(
        self, database: Database, *, holds: int = dispatch.QUEUE_HOLDS, keep_months: int = KEEP_MONTHS
    ) -> None:
        self._database = database
        self._keep_months = keep_months
        self._holds = holds
        self._partitioned: float | None = None
        self._moved: float | None = None

    def tick(self) -> tuple[int, int]:
        """One round: (tasks taken back, scans queued)."""
        with self._database.begin("kat_system") as conn:
            returned = queue.reap(conn)
            dispatch.settle(conn, returned)
        with self._database.begin("kat_system") as conn:
            pauses.tick(conn)
            blocklist.tick(conn)
            permits.sweep(conn)
        with self._database.begin("kat_system") as conn:
            catchup.tick(conn)
            sent = dispatch.dispatch(conn, holds=self._holds)
        if self._moved is None or time.monotonic() - self._moved > HISTORY_SECONDS:
            self._move()
        # Last, since they are made months ahead and nothing waits for them.
        if self._partitioned is None or time.monotonic() - self._partitioned > PARTITION_SECONDS:
            with self._database.begin("kat_owner") as conn:
                partition.ensure(conn)
                history.forget(conn, self._keep_months)
            self._partitioned = time.monotonic()
        return len(returned), len(sent)

    def _move(self) -> None:
        """What has ended goes to the history; the next batch at once while there are more."""
        with self._database.begin("kat_system") as conn:
            months = history.months(conn)
        if not months:
            self._moved = time.monotonic()
            return
        with self._database.begin("kat_owner") as conn:
            history.partitions(conn, months)
        with self._database.begin("kat_system") as conn:
            moved = history.move(conn)
        self._moved = None if moved == history.BATCH else time.monotonic()


def serve(database: Database, stop: threading.Event, *, tick_seconds: float = TICK_SECONDS) -> None:
    """Runs until `stop` is set. A database that does not answer is waited for, one of another release is not."""
    scheduler = Scheduler(database)
    listed: int | None = None
    beaten = 0.0
    with Leader(database) as leader:
        while not stop.is_set():
            try:
                if listed is None:
                    with database.begin("kat_system") as conn:
                        listed = beat.start(conn, ROLE)
                if time.monotonic() - beaten > beat.BEAT_SECONDS:
                    with database.begin("kat_system") as conn:
                        beat.seen(conn, listed)
                    beaten = time.monotonic()
                if leader.leads():
                    scheduler.tick()
            except WrongReleaseError:
                raise
            except (SQLAlchemyError, KattegatError) as problem:
                log.error("the scheduler could not work", problem=str(problem).splitlines()[0])
            stop.wait(tick_seconds)
        if listed is not None:
            try:
                with database.begin("kat_system") as conn:
                    beat.stop(conn, listed)
            except (SQLAlchemyError, KattegatError) as problem:
                log.warning("the scheduler could not sign off", problem=str(problem).splitlines()[0])


def run(settings: Settings) -> None:
    """The process: until SIGTERM or SIGINT."""
    logs.to_stderr(settings.log, ROLE)
    database = open_database(settings)
    try:
        with (
            beat.stopped_by_signals() as stop,
            beat.right_release(database, stop.set, deadline=beat.give_up),
        ):
            serve(database, stop)
    finally:
        database.close()

"""The install that a command works on: its settings, database, plugins, and the organisation asked for."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import text

from kattegat import registry, settings
from kattegat.cli.supervise import Seat
from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle.backup import swap
from kattegat.registry import Registry
from kattegat.settings import Settings
from kattegat.store import migrate, server
from kattegat.store.database import Database, DatabaseUnreachableError, open_database
from kattegat.store.release import WATCH_SECONDS

DEFAULT_ORGANISATION = "default"
DATABASE_SECONDS = 60.0
LEAST_ROOM = 1024 * 1024

Result = TypeVar("Result")

ORGANISATION = text("SELECT id FROM organisation WHERE code = :code")
CODES = text("SELECT code FROM organisation ORDER BY code LIMIT 20")
LIVE = text("SELECT role, host, pid FROM process WHERE seen_at > now() - interval '20 seconds'")


class NoInstallError(KattegatError):
    """A command that reads, where nothing has been installed yet."""


class DiskFullError(KattegatError):
    """No room is left where the install keeps everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"The disk of {folder} is full: make room there and type the same command again; what is recorded is kept."
        )


class Install:
    """An open install. `started_server` tells whether this command started the embedded server."""

    def __init__(self, settings_: Settings, database: Database, *, started_server: bool) -> None:
        self.settings = settings_
        self.database = database
        self.started_server = started_server
        self._checked = 0.0

    @property
    def registry(self) -> Registry:
        """The installed plugins."""
        return registry.load()

    def organisation(self, code: str) -> int:
        """The number of an organisation; raises `UsageError` that lists those there are."""
        with self.database.begin("kat_system") as connection:
            number = connection.execute(ORGANISATION, {"code": code}).scalar()
            if number is None:
                codes = ", ".join(connection.execute(CODES).scalars()) or "none yet: kat scan makes the first"
                raise UsageError(f"There is no organisation {code!r}; there are: {codes}.")
        return int(number)

    def revive(self) -> None:
        """Starts the embedded server again if it has died; a given server is somebody else's to start."""
        if not self.settings.database_url and server.status(self.settings.data_dir).state != server.State.RUNNING:
            server.ensure(self.settings.data_dir)

    def patiently(self, step: Callable[[], Result], *, waiting: Callable[[], None] = lambda: None) -> Result:
        """Does a step that may be done twice; a database that goes away meanwhile is waited for, for a minute.

        What is recorded is safe: a server that comes back finds everybody where they were.
        """
        end = 0.0
        while True:
            self.check_room()
            try:
                return step()
            except DatabaseUnreachableError:
                self.check_room()
                end = end or time.monotonic() + DATABASE_SECONDS
                if time.monotonic() > end:
                    raise
            waiting()
            with suppress(KattegatError):
                self.revive()
            time.sleep(0.5)

    def check_release(self) -> None:
        """To be called often: raises `WrongReleaseError` when the database has gone to another release meanwhile."""
        if time.monotonic() - self._checked < WATCH_SECONDS:
            return
        with suppress(DatabaseUnreachableError):
            self.database.check()
        self._checked = time.monotonic()

    def check_room(self) -> None:
        """Raises `DiskFullError` when nothing more can be kept: no use in waiting for that to pass."""
        if shutil.disk_usage(self.settings.data_dir).free < LEAST_ROOM:
            raise DiskFullError(self.settings.data_dir)

    def live(self) -> set[str]:
        """The roles of the processes that have been heard from just now, and have not died since."""
        with self.database.begin("kat_system") as connection:
            rows = connection.execute(LIVE).all()
        here = socket.gethostname()
        return {row.role for row in rows if row.host != here or _alive(row.pid)}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def actor() -> str:
    """Who types, for the audit trail."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return f"user {os.getuid()} (command line)"


@contextmanager
def opened(
    *, make: bool = False, any_release: bool = False, progress: Callable[[str], None] | None = None
) -> Iterator[Install]:
    """The install of this environment. Only with `make` is a new one made; an older database is never migrated.

    With `any_release` the database is left as it is, whatever release it is for.

    A server that this command started is stopped again when nothing else of the install runs.
    """
    chosen = settings.load()
    started = False
    if not chosen.database_url:
        if not make and server.status(chosen.data_dir).state == server.State.ABSENT:
            raise NoInstallError(f"There is no install in {chosen.data_dir} yet: kat scan or kat up makes one.")
        started = server.status(chosen.data_dir).state != server.State.RUNNING
    database = open_database(chosen, progress=progress)
    install = Install(chosen, database, started_server=started)
    try:
        # A restore that was killed between the swap of the databases and that of the files is ended first.
        swap.settle(chosen, database)
        if not any_release:
            with _alone(chosen):
                install.patiently(lambda: migrate.prepare(database))
        yield install
    finally:
        # Whoever has the seat, or is heard from, needs the server that we happened to find down.
        seat = Seat.take(chosen) if started else None
        stop = seat is not None and not _in_use(install)
        database.close()
        if stop:
            server.stop(chosen.data_dir)
        if seat is not None:
            seat.leave()


@contextmanager
def _alone(chosen: Settings) -> Iterator[None]:
    """One command of this install at a time makes the schema; two that begin together would both find none."""
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(chosen.data_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _in_use(install: Install) -> bool:
    try:
        return install.database.changing() or bool(install.live())
    except KattegatError:
        return False

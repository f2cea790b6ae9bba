"""Connections: which server, as which role, for which organisations.

Three roles: `kat_owner` owns the tables and migrates, `kat_app` is held to the organisations named in its transaction
by row-level security, `kat_system` (queue, sweeps, ingest) passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from kattegat.errors import KattegatError
from kattegat.settings import Settings
from kattegat.store import server

Role = Literal["kat_owner", "kat_app", "kat_system"]
ROLES: tuple[Role, ...] = ("kat_owner", "kat_app", "kat_system")
DATABASE = "kattegat"
MINIMUM = 150000


class DatabaseUnreachableError(KattegatError):
    """No connection to PostgreSQL."""


class DatabaseTooOldError(KattegatError):
    """A PostgreSQL older than 15."""


class Database:
    """Where our tables are, and how each role gets there. Engines are made on first use and closed by `close`."""

    def __init__(self, conninfo: dict[Role, str], *, login: bool) -> None:
        """`conninfo` per role; with `login` False all roles share one login, which takes the role with SET ROLE."""
        self._conninfo = conninfo
        self._login = login
        self._engines: dict[Role, Engine] = {}

    @classmethod
    def embedded(cls, running: server.Running) -> Database:
        """The embedded server of this data directory."""
        return cls({role: running.dsn(role) for role in ROLES}, login=True)

    @classmethod
    def at(cls, url: str) -> Database:
        """A given server; the login in the URL must be a member of the three roles (or be able to create them)."""
        return cls(dict.fromkeys(ROLES, url), login=False)

    def conninfo(self, role: Role) -> str:
        """A libpq connection string or URL for the role."""
        return self._conninfo[role]

    @property
    def shared_login(self) -> bool:
        """Whether all roles come in through one login."""
        return not self._login

    def engine(self, role: Role) -> Engine:
        """A pooled engine for the role; every session is in UTC."""
        if role not in self._engines:
            conninfo = self._conninfo[role]
            engine = create_engine(
                "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), pool_size=8, pool_pre_ping=True
            )

            @event.listens_for(engine, "connect")
            def prepare(connection: Any, _record: Any) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SET TIME ZONE 'UTC'")
                    if not self._login:
                        cursor.execute(f"SET ROLE {role}")
                connection.commit()

            self._engines[role] = engine
        return self._engines[role]

    @contextmanager
    def begin(self, role: Role, organisations: Iterable[int] = ()) -> Iterator[Connection]:
        """A transaction as the role, seeing these organisations (for `kat_app`; unset means no rows)."""
        try:
            with self.engine(role).begin() as connection:
                if role == "kat_app":
                    see(connection, organisations)
                yield connection
        except OperationalError as problem:
            if problem.connection_invalidated or isinstance(problem.orig, psycopg.OperationalError):
                raise DatabaseUnreachableError(
                    f"The database does not answer ({_first_line(problem.orig)}); `kat doctor` says what to do."
                ) from problem
            raise

    def close(self) -> None:
        """Closes every connection."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()


def see(connection: Connection, organisations: Iterable[int]) -> None:
    """Limits this transaction of `kat_app` to the rows of these organisations."""
    listed = ",".join(str(int(organisation)) for organisation in organisations)
    connection.execute(text("SELECT set_config('kat.organisations', :listed, true)"), {"listed": listed})


def open_database(settings: Settings, *, progress: Any = None) -> Database:
    """The database of this install: the given one, or the embedded server, started if it does not run."""
    if settings.database_url:
        database = Database.at(settings.database_url)
        _check_version(database)
        return database
    return Database.embedded(server.ensure(settings.data_dir, progress=progress))


def _check_version(database: Database) -> None:
    try:
        with psycopg.connect(database.conninfo("kat_owner"), connect_timeout=10) as connection:
            version = connection.info.server_version
    except psycopg.OperationalError as problem:
        raise DatabaseUnreachableError(
            f"KAT_DATABASE_URL leads to no server that answers ({_first_line(problem)}); check the address and login."
        ) from problem
    if version < MINIMUM:
        raise DatabaseTooOldError(
            f"The server at KAT_DATABASE_URL is PostgreSQL {version // 10000}, and Kattegat needs 15 or newer."
        )


def _first_line(problem: BaseException | None) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__

"""Connections: which server, as which role, for which organisations.

Three roles: `kat_owner` owns the tables and migrates, `kat_app` is held to the organisations named in its transaction
by row-level security, `kat_system` (queue, sweeps, ingest) passes it.

A `Database` learns the epoch of the fence once, together with the check that the database is for this release, and says
it in every transaction: what a process writes after a change of release is refused by the database itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import OperationalError

from kattegat.errors import KattegatError
from kattegat.schema import fence
from kattegat.settings import Settings
from kattegat.store import release, server
from kattegat.store.release import WrongReleaseError

Role = Literal["kat_owner", "kat_app", "kat_system"]
ROLES: tuple[Role, ...] = ("kat_owner", "kat_app", "kat_system")
DATABASE = "kattegat"
REFUSAL = text("SELECT lifecycle.refusal(:epoch, :given)")
MINIMUM = 150000
ORGANISATIONS = "kat_organisations"
# By its text, since it is sent for every transaction: psycopg prepares it, and no layer above has to compile it.
SAY = "SELECT set_config('kat.epoch', %s, true), set_config('kat.organisations', %s, true)"
# A pooler may hand us a session that another of our roles has used.
SAY_ROLE = SAY + ", set_config('role', %s, true)"


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
        self._epoch: int | None = None

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
                        # A pooler hands each transaction to any server process, which knows none of our statements.
                        cursor.execute("SELECT pg_backend_pid()")
                        if cursor.fetchone() != (connection.info.backend_pid,):
                            connection.prepare_threshold = None
                connection.commit()

            @event.listens_for(engine, "begin")
            def say(connection: Connection) -> None:
                self._say(connection, role)

            @event.listens_for(engine, "handle_error")
            def translate(context: ExceptionContext) -> None:
                if getattr(context.original_exception, "sqlstate", None) == fence.WRONG:
                    raise WrongReleaseError(_first_line(context.original_exception)) from None

            self._engines[role] = engine
        return self._engines[role]

    def _say(self, connection: Connection, role: Role) -> None:
        """Tells the server at the begin of a transaction what it is allowed by: epoch and organisations."""
        options = connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT":
            return
        epoch = connection.info.get(fence.INFO)
        if epoch is None:
            try:
                epoch = self.learn(role)
            except WrongReleaseError:
                # The owner may look, and change the release; without an epoch it writes to no table.
                if role != "kat_owner":
                    raise
        values = ["" if epoch is None else str(epoch), options.get(ORGANISATIONS, "")]
        if not self._login:
            values.append(role)
        driver = connection.connection.driver_connection
        if driver is None:
            return
        driver.execute(SAY if self._login else SAY_ROLE, values)

    def learn(self, role: Role = "kat_system") -> int | None:
        """The epoch that this process writes with: learned once. None while the database is empty.

        Raises `WrongReleaseError` if the database is for another release, or its release is being changed.
        """
        if self._epoch is None:
            # The owner asks as itself: its login may be all that there is.
            with self._asking("kat_owner" if role == "kat_owner" else "kat_system") as connection:
                self._epoch = release.learn(connection)
        return self._epoch

    def check(self) -> None:
        """Raises `WrongReleaseError` if the release of the database is no longer the one that was learned.

        Writes nothing, and waits for no lock.
        """
        known = self.learn()
        if known is None:
            return
        with self._asking("kat_system") as connection:
            now = fence.epoch(connection)
            if now == known:
                return
            if now % 2:
                raise release.ChangeUnderWayError
            said = connection.execute(REFUSAL, {"epoch": now, "given": str(known)}).scalar_one()
        raise WrongReleaseError(said)

    def changing(self) -> bool:
        """Whether a change of release holds this database."""
        with self._asking("kat_system") as connection:
            return fence.present(connection) and fence.state(connection).change is not None

    @contextmanager
    def _asking(self, role: Role) -> Iterator[Connection]:
        """A connection that says no epoch, each statement with a snapshot of its own."""
        try:
            with self.engine(role).connect() as pooled:
                yield pooled.execution_options(isolation_level="AUTOCOMMIT")
        except OperationalError as problem:
            raise _unreachable(problem) from problem

    @contextmanager
    def begin(self, role: Role, organisations: Iterable[int] = ()) -> Iterator[Connection]:
        """A transaction as the role, seeing these organisations (for `kat_app`; unset means no rows)."""
        try:
            with self.engine(role).connect() as pooled:
                listed = _listed(organisations) if role == "kat_app" else ""
                connection = pooled.execution_options(**{ORGANISATIONS: listed})
                with connection.begin():
                    yield connection
        except psycopg.OperationalError as problem:
            # From what is said at the begin, which goes past SQLAlchemy.
            raise _unreachable(problem) from problem
        except OperationalError as problem:
            if problem.connection_invalidated or isinstance(problem.orig, psycopg.OperationalError):
                raise _unreachable(problem.orig) from problem
            raise

    def close(self) -> None:
        """Closes every connection."""
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()


def see(connection: Connection, organisations: Iterable[int]) -> None:
    """Limits this transaction of `kat_app` to the rows of these organisations."""
    connection.execute(
        text("SELECT set_config('kat.organisations', :listed, true)"), {"listed": _listed(organisations)}
    )


def _listed(organisations: Iterable[int]) -> str:
    return ",".join(str(int(organisation)) for organisation in organisations)


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


def _unreachable(problem: BaseException | None) -> DatabaseUnreachableError:
    said = _first_line(problem.orig if isinstance(problem, OperationalError) else problem)
    return DatabaseUnreachableError(f"The database does not answer ({said}); `kat doctor` says what to do.")


def _first_line(problem: BaseException | None) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__

"""How a backup gets at a server: as which login, with which rights, by which connection string."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from kattegat.lifecycle.backup.errors import BackupError
from kattegat.settings import Settings
from kattegat.store.cluster import ADMIN
from kattegat.store.database import Database, DatabaseUnreachableError

# Rows are compared as texts, so everything that shapes a text is the same on both sides.
SESSION = (
    "SET TIME ZONE 'UTC'",
    "SET datestyle TO 'ISO, YMD'",
    "SET intervalstyle TO 'postgres'",
    "SET bytea_output TO 'hex'",
    "SET extra_float_digits TO 1",
    "SET search_path TO pg_catalog",
    "SET statement_timeout TO 0",
    "SET lock_timeout TO 0",
    "SET idle_in_transaction_session_timeout TO 0",
)

LIBPQ = (
    *("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE"),
    *("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGCHANNELBINDING", "PGREQUIREAUTH"),
)


class Reach(msgspec.Struct, frozen=True):
    """A login on a server. `role` is taken on by every connection, `bound` tells that policies hold for it.

    `version` is the server's as a number (180006), `parts` the connection string in pieces, password included.
    """

    parts: dict[str, Any]
    database: str
    version: int
    role: str | None
    bound: bool
    embedded: bool

    def __repr__(self) -> str:
        return f"Reach(database={self.database!r}, version={self.version}, role={self.role!r})"

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.version // 10000

    def conninfo(self, database: str | None = None) -> str:
        """For `psycopg.connect`; holds the password."""
        return make_conninfo("", **(self.parts | {"dbname": database or self.database}))

    def for_tools(self, database: str) -> tuple[str, dict[str, str]]:
        """For `pg_dump -d`: without the password, which goes by the environment, where others can't see it.

        What our own connections take from libpq's environment (PGPASSWORD, PGSSLROOTCERT) the tools get too.
        """
        parts = {name: value for name, value in self.parts.items() if name != "password"}
        given = {} if self.embedded else {name: os.environ[name] for name in LIBPQ if name in os.environ}
        password = self.parts.get("password")
        return make_conninfo("", **(parts | {"dbname": database})), given | (
            {"PGPASSWORD": password} if password else {}
        )

    @contextmanager
    def connect(self, database: str | None = None, *, plain: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode; with `plain` as the login itself, for making and renaming databases."""
        try:
            connection = psycopg.connect(self.conninfo(database), autocommit=True, connect_timeout=20)
        except psycopg.OperationalError as problem:
            raise DatabaseUnreachableError(
                f"The database does not answer ({_line(problem)}); `kat doctor` says what to do."
            ) from problem
        with connection:
            self._prepare(connection, plain)
            yield connection

    @contextmanager
    def begin(self, database: str | None = None, *, snapshot: str | None = None) -> Iterator[Connection]:
        """A transaction that reads one state of the database, or the exported `snapshot`; it writes nothing."""
        conninfo = self.conninfo(database)
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo, connect_timeout=20), poolclass=NullPool
        )
        with engine.connect() as raw:
            self._prepare(raw.connection.driver_connection, False)
            raw.connection.commit()
            connection = raw.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                if snapshot is not None:
                    connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                yield connection

    def _prepare(self, connection: Any, plain: bool) -> None:
        with connection.cursor() as cursor:
            for statement in SESSION:
                cursor.execute(statement)
            if self.role is not None and not plain:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.role)))


def of(settings: Settings, database: Database) -> Reach:
    """The strongest login there is: the embedded server's own, or that of KAT_DATABASE_URL (as `kat_owner`, unless it
    passes row-level security by itself). Raises `DatabaseUnreachableError`, or `BackupError` for a missing password."""
    parts = conninfo_to_dict(database.conninfo("kat_owner"))
    if database.shared_login:
        name = str(parts.get("dbname") or parts.get("user") or "")
    else:
        name = str(parts["dbname"])
        try:
            password = (settings.data_dir / "secrets" / ADMIN).read_text().strip()
        except OSError as problem:
            raise BackupError(
                f"The password of the database's administrator can't be read ({problem.filename}:"
                f" {problem.strerror}): run as the owner of {settings.data_dir}."
            ) from None
        parts |= {"user": ADMIN, "password": password}
    found = Reach(parts, name, 0, None, False, not database.shared_login)
    with found.connect() as connection:
        strong, name = connection.execute(
            "SELECT rolsuper OR rolbypassrls, current_database() FROM pg_roles WHERE rolname = current_user"
        ).fetchone() or (False, name)
        version = connection.info.server_version
    return Reach(parts, name, version, None if strong else "kat_owner", not strong, not database.shared_login)


def unseen(connection: Connection) -> list[str]:
    """The tables of which a role that policies hold for would not see every row."""
    return list(
        connection.exec_driver_sql(
            """
            SELECT c.oid::regclass::text FROM pg_class c
            WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND row_security_active(c.oid)
              AND NOT EXISTS (SELECT FROM pg_policy p
                              WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
                                AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                                AND EXISTS (SELECT FROM unnest(p.polroles) r
                                            WHERE r = 0 OR pg_has_role(current_user, r, 'USAGE')))
            ORDER BY 1
            """
        ).scalars()
    )


def _line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__

"""A part's database as it is reached: by its own login or an administrator's, acting as the owner of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from msgspec import Struct
from psycopg import errors, sql
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat import recognise
from kattegat.lifecycle.openkat.environment import CannotConnectError, Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.recognise import At
from kattegat.schema import ledger

APPLICATION = "kat openkat"
_SECONDS = 10
_TABLES = """
    SELECT c.relname, pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""


class WrongPartError(KattegatError):
    """A DSN that leads to something else than the part it was given for."""

    def __init__(self, part: Part, where: Dsn, found: Part | None) -> None:
        self.part = part
        self.found = found
        what = f"is {recognise.TITLES[found]}'s" if found else f"has not the tables of {recognise.TITLES[part]}"
        super().__init__(f"The database {where} {what}; give the DSN of {recognise.TITLES[part]} for --{part}.")


class Place(Struct, frozen=True):
    """A part's database. `login` is whom we log in as, `owner` who owns the tables (and whom a superuser becomes for
    the work, so that what is made belongs to the right one)."""

    part: Part
    dsn: Dsn
    owner: str
    superuser: bool  # whether the login is one
    version: int  # of the server: 150018

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A session of the login itself, in autocommit mode: for what concerns the database as a whole."""
        return _connect(self.part, self.dsn)

    def connect_inside(self) -> psycopg.Connection[tuple[object, ...]]:
        """The same, also where the door is closed."""
        from kattegat.lifecycle.openkat import doors

        return doors.enter(self)

    def engine(self) -> Engine:
        """Sessions that act as the owner of the tables. Not pooled: each ends when it is closed."""

        from kattegat.lifecycle.openkat import doors

        def create() -> psycopg.Connection[tuple[object, ...]]:
            connection = doors.enter(self)
            if self.superuser:
                connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self.owner)))
            connection.autocommit = False
            return connection

        return create_engine("postgresql+psycopg://", creator=create, poolclass=NullPool)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """One session that acts as the owner, outside a transaction."""
        engine = self.engine()
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


class NoRightError(KattegatError):
    """A login that may not make the schemas in which a change keeps its record."""


def prepare(where: Place) -> None:
    """Makes the ledger, or what is missing of it, as the owner of the tables; raises `NoRightError`."""
    name, owner = sql.Identifier(where.dsn.database), sql.Identifier(where.owner)
    lacks = "SELECT NOT has_database_privilege(%s, current_database(), 'CREATE')"
    with where.connect_inside() as connection:
        row = connection.execute(lacks, [where.owner]).fetchone()
        lent = bool(row and row[0])
        if lent and not where.superuser:
            raise NoRightError(
                f"{where.owner} may not make a schema in the database of {where.part}: give a superuser's DSN with "
                "--admin."
            )
        try:
            if lent:
                connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(name, owner))
            with where.session() as session, session.begin():
                ledger.install(session)
        finally:
            if lent:
                connection.execute(sql.SQL("REVOKE CREATE ON DATABASE {} FROM {}").format(name, owner))


def find(part: Part, dsn: Dsn) -> Place:
    """The database that a DSN leads to; raises `CannotConnectError`, or `WrongPartError` where it is not the part's."""
    from kattegat.lifecycle.openkat import doors

    with doors.enter(Place(part, dsn, "", superuser=False, version=0)) as connection:
        tables: dict[str, str] = {str(name): str(owner) for name, owner in connection.execute(_TABLES).fetchall()}
        found = recognise.part_of(tables)
        if found != part:
            raise WrongPartError(part, dsn, found)
        shape = "django_migrations" if part == "rocky" else "alembic_version"
        is_super = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        return Place(
            part, dsn, tables[shape], superuser=bool(is_super and is_super[0]), version=connection.info.server_version
        )


def recorded(connection: Connection, part: Part) -> At:
    """Where the part is, by what its own version table says."""
    if part == "rocky":
        rows = connection.exec_driver_sql("SELECT app, name FROM public.django_migrations").all()
        applied: dict[str, set[str]] = {}
        for app, name in rows:
            applied.setdefault(app, set()).add(name)
        return recognise.at_migrations(applied)
    found = connection.exec_driver_sql("SELECT version_num FROM public.alembic_version").scalars()
    return recognise.at_revisions(part, found)


def _connect(part: str, dsn: Dsn) -> psycopg.Connection[tuple[object, ...]]:
    try:
        return psycopg.connect(dsn.conninfo(), autocommit=True, connect_timeout=_SECONDS, application_name=APPLICATION)
    except errors.OperationalError as problem:
        raise CannotConnectError(part, dsn, str(problem)) from None

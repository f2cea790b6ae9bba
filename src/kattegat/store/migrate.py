"""The schema's revisions: making an empty database, and saying which revision one is at. `kat up` never migrates."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection

from kattegat.errors import KattegatError
from kattegat.store import partition
from kattegat.store.database import ROLES, Database, DatabaseUnreachableError

INI = Path(__file__).parent / "alembic.ini"


class SchemaOlderError(KattegatError):
    """A database at an older revision than this release needs."""


class SchemaUnknownError(KattegatError):
    """A database at a revision that this release does not know."""


class RolesError(KattegatError):
    """A login on a given server that may not take or make our roles."""


MEMBER = "SELECT pg_has_role(current_user, %s, 'MEMBER')"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; with a connection, `env.py` uses that one."""
    made = Config(str(INI))
    made.attributes["connection"] = connection
    return made


def head() -> str:
    """The newest revision that this release knows."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    if found is None:
        raise SchemaUnknownError("This release has no migrations; reinstall it.")
    return found


def current(connection: Connection) -> str | None:
    """The revision of a database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def create_roles(database: Database) -> None:
    """Makes the three roles on a given server if they are missing, and makes the login a member of them.

    Raises `RolesError` when the login may not.
    """
    try:
        with psycopg.connect(database.conninfo("kat_owner")) as connection, connection.cursor() as cursor:
            for role in ROLES:
                if cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                    bypass = "BYPASSRLS" if role == "kat_system" else "NOBYPASSRLS"
                    cursor.execute(f"CREATE ROLE {role} NOLOGIN {bypass}".encode())
                if cursor.execute(MEMBER, (role,)).fetchone() != (True,):
                    cursor.execute(f"GRANT {role} TO CURRENT_USER".encode())
            name = connection.info.dbname
            cursor.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO kat_owner").format(sql.Identifier(name)))
            cursor.execute("GRANT USAGE, CREATE ON SCHEMA public TO kat_owner")
    except psycopg.errors.InsufficientPrivilege as problem:
        raise RolesError(
            "The login in KAT_DATABASE_URL needs to be a member of kat_owner, kat_app and kat_system, or to make"
            f" them ({str(problem).splitlines()[0]}): give it these roles, or use a superuser for the first start."
        ) from problem
    except psycopg.OperationalError as problem:
        raise DatabaseUnreachableError(
            f"The database does not answer ({str(problem).splitlines()[0]}); `kat doctor` says what to do."
        ) from problem


def prepare(database: Database) -> str:
    """Makes the schema in an empty database, and checks the revision of one in use. Gives the revision.

    Raises `SchemaOlderError` or `SchemaUnknownError` with what to type; nothing is changed then.
    """
    if database.shared_login:
        create_roles(database)
    with database.begin("kat_owner") as connection:
        found = current(connection)
    wanted = head()
    if found is None:
        with database.begin("kat_owner") as connection:
            command.upgrade(config(connection), "head")
    elif found != wanted:
        known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
        if found in known:
            raise SchemaOlderError(
                f"The database is at revision {found} and this release needs {wanted}: take a backup, then run"
                " `python -m alembic -c src/kattegat/store/alembic.ini upgrade head`."
            )
        raise SchemaUnknownError(
            f"The database is at revision {found}, which this release (revision {wanted}) does not know:"
            " start the release that wrote it."
        )
    with database.begin("kat_owner") as connection:
        partition.ensure(connection)
    return wanted

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

from kattegat import settings
from kattegat.errors import KattegatError
from kattegat.schema import fence, ledger, runs, stored
from kattegat.schema.stored import PlanKey
from kattegat.store import partition, release
from kattegat.store.database import ROLES, Database, DatabaseUnreachableError
from kattegat.store.release import ChangeUnderWayError, WrongReleaseError
from kattegat.store.tables import metadata

INI = Path(__file__).parent / "alembic.ini"
PLAN_KEY = "plan-key"


class SchemaOlderError(WrongReleaseError):
    """A database at an older revision than this release needs."""

    def __init__(self, revision: str, wanted: str) -> None:
        self.revision = revision
        self.wanted = wanted
        super().__init__(
            f"The database is at revision {revision} and this release needs {wanted}: type `kat upgrade`, which takes"
            " a backup first, or start the release that the database is for."
        )


class SchemaNewerError(WrongReleaseError):
    """A database that a newer release uses, with the way back to this one stored in it."""

    def __init__(self, revision: str, newer: str, wanted: str) -> None:
        self.revision = revision
        self.release = newer
        self.wanted = wanted
        mine = release.this().release
        super().__init__(
            f"This database is used by release {newer}, revision {revision}: install release {newer}, or type"
            f" `kat downgrade`, which takes it back to this release {mine}, revision {wanted}."
        )


class SchemaUnknownError(WrongReleaseError):
    """A database at a revision that this release does not know, and of which nothing is stored."""

    def __init__(self, revision: str, wanted: str) -> None:
        self.revision = revision
        self.wanted = wanted
        super().__init__(
            f"The database is at revision {revision}, which this release (revision {wanted}) does not know, and no way"
            " back is stored in it: start the release that wrote it, or restore a backup."
        )


class NoRevisionsError(KattegatError):
    """An installation without its revisions."""


class RolesError(KattegatError):
    """A login on a given server that may not take or make our roles."""


MEMBER = "SELECT pg_has_role(current_user, %s, 'MEMBER')"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; with a connection, `env.py` uses that one, in the transaction that the caller began.

    Further attributes are `plan_key` (a `PlanKey` or a function that gives one), `accept` (SHA-256 sums of plans to run
    though the key has not signed them), and `record` (False for a database that will not live to go back).
    """
    made = Config(str(INI))
    made.attributes["connection"] = connection
    return made


def copied(given: Config, connection: Connection) -> Config:
    """The same configuration for another connection."""
    made = Config(given.config_file_name or str(INI))
    places = given.get_main_option("version_locations")
    if places:
        made.set_main_option("version_locations", places)
    made.attributes.update(given.attributes)
    made.attributes["connection"] = connection
    return made


def head(given: Config | None = None) -> str:
    """The newest revision that this release knows."""
    found = ScriptDirectory.from_config(given or config()).get_current_head()
    if found is None:
        raise NoRevisionsError("This release has no migrations; reinstall it.")
    return found


def current(connection: Connection) -> str | None:
    """The revision of a database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def key_path(chosen: settings.Settings | None = None) -> Path:
    """Where the key lies that signs this install's plans."""
    return (chosen or settings.load()).data_dir / PLAN_KEY


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


def prepare(database: Database, *, plan_key: Path | None = None, given: Config | None = None) -> str:
    """Makes the schema in an empty database, and checks the revision of one in use. Gives the revision.

    `plan_key` is the file of the key that signs the ways back (made if missing), by default that of this environment's
    data directory. Raises `SchemaOlderError`, `SchemaNewerError`, `SchemaUnknownError` or `ChangeUnderWayError` with
    what to type; nothing is changed then.
    """
    if database.shared_login:
        create_roles(database)
    chosen = given or config()
    wanted = head(chosen)
    with database.begin("kat_owner") as connection:
        found = current(connection)
        if found is not None:
            check(connection, found, wanted, chosen)
    with database.begin("kat_owner") as connection:
        if found is None:
            make(connection, plan_key or key_path(), chosen)
        settle(connection)
    return wanted


def check(connection: Connection, found: str, wanted: str, chosen: Config) -> None:
    """Raises the sentence for a database that this release can't use as it is."""
    if ledger.present(connection) and (fence.epoch(connection) % 2 or runs.open_run(connection) is not None):
        raise ChangeUnderWayError
    if found == wanted:
        return
    if found in {script.revision for script in ScriptDirectory.from_config(chosen).walk_revisions()}:
        raise SchemaOlderError(found, wanted)
    raise unknown(connection, found, wanted)


def unknown(connection: Connection, found: str, wanted: str) -> WrongReleaseError:
    """The error for a database at a revision that this release has no file of."""
    row = next((row for row in stored.everything(connection) if row.revision == found), None)
    if row is None:
        return SchemaUnknownError(found, wanted)
    recorded = release.recorded(connection)
    newer = recorded.release if recorded is not None and recorded.revision == found else row.release
    return SchemaNewerError(found, newer, wanted)


def make(connection: Connection, plan_key: Path, chosen: Config | None = None) -> None:
    """Runs every revision in an empty database and stores their ways back, in the caller's transaction."""
    ledger.install(connection)
    own = copied(chosen or config(), connection)
    own.attributes.setdefault("plan_key", lambda: PlanKey.open(plan_key))
    command.upgrade(own, "head")


def settle(connection: Connection) -> None:
    """What every start makes sure of: ledger, partitions, the fence, and the release on record."""
    if not ledger.present(connection):
        ledger.install(connection)
    partition.ensure(connection)
    fence.install(connection, [table.name for table in metadata.sorted_tables])
    if release.recorded(connection) is None:
        release.record(connection, release.this())

"""Alembic's environment: the caller's connection in the caller's transaction, or the install's own as `kat_owner`.

On its own connection a change of revision is one transaction behind the closed fence: all of it, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from kattegat.errors import KattegatError
from kattegat.schema import ledger, operations, stored
from kattegat.schema.stored import PlanKey, Stored
from kattegat.settings import load
from kattegat.store import change, migrate, release, revisions, server
from kattegat.store.database import Database, open_database
from kattegat.store.tables import PARTITIONED, metadata

# What a command's function of steps is called in Alembic, and what is safe on a newer database.
COMMANDS = {
    "display_version": "current",
    "show_current": "show",
    "_display_current_history": "history",
    "do_stamp": "stamp",
    "retrieve_migrations": "revision",
}
READING = ("current", "show", "history")
SAFE = (*READING, "downgrade")
PARKED = re.compile(r"_p[0-9]+")


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Partitions are made at run time, and what is parked or ours is no part of any release's schema: no drift."""
    if kind == "schema":
        return name not in ("lifecycle", "parked")
    if kind == "table" and name is not None:
        return not any(name.startswith(f"{table}_2") for table in PARTITIONED)
    if kind == "column" and name is not None:
        return not PARKED.fullmatch(name)
    return parents.get("schema_name") not in ("lifecycle", "parked")


def configure(**kw: Any) -> None:
    """Configures Alembic, with what our operations read."""
    given = context.config.attributes
    key: Any = given.get("plan_key") or (lambda: PlanKey.open(migrate.key_path()))
    accepted = frozenset(given.get("accept") or ())
    if context.config.cmd_opts is not None:
        said = context.get_x_argument(as_dictionary=True).get("accept-plan")
        accepted |= frozenset(str(said).split(",")) if said else frozenset()
    context.configure(
        target_metadata=metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
        plan_key=key,
        accept_plans=accepted,
        **kw,
    )


def steps_function() -> Callable[[Any, Any], Any]:
    """What the command gave Alembic to find its steps; only after `configure`."""
    found: Callable[[Any, Any], Any] = context.get_context().opts["fn"]
    return found


def asked() -> str:
    """The command: `current`, `upgrade`, `downgrade`, ..."""
    if context.config.cmd_opts is not None:
        return str(context.config.cmd_opts.cmd[0].__name__)
    name = steps_function().__name__
    return COMMANDS.get(name, name)


def know(connection: Connection, rows: list[Stored]) -> None:
    """Makes the stored revisions known to Alembic, and stops what would harm a newer database."""
    own = revisions.names(context.script)
    # What is taken back is there to be read about; for all else the head is where the database's line ends.
    revisions.offer(context.script, [row for row in rows if not row.back or asked() in ("history", "show")])
    at = migrate.current(connection)
    if at is None or at in own:
        return
    if asked() not in SAFE or (at not in revisions.names(context.script) and asked() not in ("history", "show")):
        raise migrate.unknown(connection, at, own[-1] if own else "(none)")


def in_transaction(connection: Connection) -> None:
    """Runs the command in the transaction that the caller has begun."""
    configure(connection=connection)
    if asked() in ("upgrade", "downgrade") and not ledger.present(connection):
        ledger.install(connection)
    know(connection, stored.everything(connection))
    if asked() == "upgrade":
        change.as_one_transaction(context.get_context(), connection)
        if context.config.attributes.get("record", True):
            wrapped = operations.recorded(steps_function(), release=release.this().release)
            configure(connection=connection, fn=wrapped)
            change.as_one_transaction(context.get_context(), connection)
    context.run_migrations()


def on_our_own(database: Database) -> None:
    """Runs the command on a connection of its own."""
    own = change.own_sessions(database.engine("kat_owner"))
    with database.engine("kat_owner").connect() as connection:
        with connection.begin():
            configure(connection=connection)
            know(connection, stored.everything(connection))
            if asked() not in ("upgrade", "downgrade"):
                context.run_migrations()
                return
            found = change.Found.of(connection, steps_function(), context.get_context(), asked())
        if not found.way:
            return
        if database.shared_login and found.at is None:
            migrate.create_roles(database)
        with change.fenced(database, connection, own), connection.begin():
            in_transaction(connection)
            change.written(connection, found, migrate.current(connection))


def offline(database: Database | None) -> None:
    """Prints SQL and changes nothing. The database is only read, for what is stored in it."""
    rows: list[Stored] = []
    configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    if asked() == "upgrade":
        raise CommandError(
            "The SQL of an upgrade is not all of it, since the way back has to be stored with it: `kat upgrade"
            " --dry-run` prints both."
        )
    if database is not None:
        with database.engine("kat_owner").connect() as connection:
            rows = stored.everything(connection)
            know(connection, rows)
    configure(
        dialect_name="postgresql",
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        version_table_schema="public",
        stored_plans={row.revision: row for row in rows},
    )
    with context.begin_transaction():
        context.run_migrations()


def without_a_database() -> None:
    """Runs what needs none, where there is none: `history` of a fresh checkout, `revision`."""
    configure(dialect_name="postgresql", as_sql=True)
    context.run_migrations()


def opened() -> Database | None:
    """The database of this environment's install; None where there is none and the command needs none."""
    chosen = load()
    name = str(context.config.cmd_opts.cmd[0].__name__) if context.config.cmd_opts is not None else ""
    needless = name in ("history", "revision", "merge") or context.is_offline_mode()
    if needless and not chosen.database_url and server.status(chosen.data_dir).state == server.State.ABSENT:
        return None
    return open_database(chosen)


def serve() -> None:
    """Runs the asked-for command."""
    given = context.config.attributes.get("connection")
    if given is not None:
        in_transaction(given)
        return
    database = opened()
    try:
        if context.is_offline_mode():
            offline(database)
        elif database is None:
            without_a_database()
        else:
            on_our_own(database)
    finally:
        if database is not None:
            database.close()


try:
    serve()
except KattegatError as problem:
    # Alembic's own command line prints these as one line; every other error as a traceback.
    if context.config.cmd_opts is None:
        raise
    raise CommandError(str(problem)) from problem
except DBAPIError as problem:
    if context.config.cmd_opts is None:
        raise
    first = str(problem.orig).strip().splitlines()[0]
    raise CommandError(f"PostgreSQL refused ({first.rstrip('.')}); nothing was changed.") from problem

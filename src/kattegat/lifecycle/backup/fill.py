"""Filling a new database from a backup, and comparing it with what the backup says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

from kattegat.lifecycle.backup import contents, reach, tools
from kattegat.lifecycle.backup.errors import BackupError, DamagedError, DifferentError
from kattegat.lifecycle.backup.manifest import Backup
from kattegat.schema import scratch, shape
from kattegat.schema import snapshot as shapes
from kattegat.store.database import ROLES

Progress = Callable[[str, int, int], None]


def fill(way: reach.Reach, found: tools.Tools, backup: Backup, database: str, jobs: int, progress: Progress) -> None:
    """Restores the dump into an empty database; raises `ToolError`."""
    expected = max(backup.manifest.database_size, 1)
    with way.connect(database, plain=True) as connection:
        if not way.embedded:
            # What is restored belongs to kat_owner, who makes it in a schema that belongs to the login.
            name = sql.Identifier(database)
            connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO kat_owner").format(name))
            connection.execute("GRANT USAGE, CREATE ON SCHEMA public TO kat_owner")
        looked = [0.0]

        def tick() -> None:
            if time.monotonic() - looked[0] < 1:
                return
            looked[0] = time.monotonic()
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            progress("restore", min(int(row[0]) if row else 0, expected - 1), expected)

        tools.restore(found, way, backup.path / "database", database, jobs, tick)
    progress("restore", expected, expected)


def compare(way: reach.Reach, backup: Backup, database: str, jobs: int, progress: Progress) -> int:
    """Compares shape, rows, contents and sequences with the manifest; gives the number of rows.

    Raises `DifferentError` with all that differs, or `DamagedError` for a snapshot that can't be read.
    """
    told = backup.manifest
    try:
        want = shape.decode((backup.path / "snapshot.json").read_bytes())
    except (OSError, ValueError) as problem:
        raise DamagedError(backup.path, "snapshot.json", f"can't be read ({problem})") from None
    if told.server_version // 10000 != way.major:
        # Another major version prints expressions differently.
        want = scratch.normalise(way.conninfo(), want)
    with way.begin(database) as connection:
        found = contents.tables(connection)
        wrong = shape.differences(shapes.read(connection), want)
        have = contents.sequences(connection)
    expected = max(sum(table.size for table in found), 1)
    reading = contents.Reading(way, found, None, jobs, database)
    rows = reading.result(lambda: progress("compare", reading.done, expected))
    progress("compare", expected, expected)
    wrong += contents.differences(told.tables, rows)
    # A sequence is no part of the moment: it is dumped a little later, and may have given more numbers by then.
    wrong += [
        f"the sequence {name} is at {have.get(name)} and was at {last}"
        for name, last in told.sequences.items()
        if have.get(name, last - 1) < last
    ]
    if wrong:
        raise DifferentError(backup.path, wrong)
    return sum(table.rows for table in rows.values())


def new_database(way: reach.Reach, name: str) -> None:
    """An empty database like the one in use, its roles made where they are missing; raises `BackupError`."""
    new = sql.Identifier(name)
    try:
        with way.connect(plain=True) as connection:
            if not way.embedded:
                _roles(connection)
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(new, _locale(connection)))
            if way.embedded:
                connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO kat_owner").format(new))
                connection.execute(
                    sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO kat_app, kat_system").format(new)
                )
                connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(new))
    except psycopg.errors.InsufficientPrivilege as problem:
        raise BackupError(
            f"No database can be made to restore into ({_line(problem)}): give the login in KAT_DATABASE_URL the right"
            " CREATEDB, and for the first time CREATEROLE."
        ) from problem
    except psycopg.errors.DiskFull as problem:
        raise BackupError(
            f"No database can be made to restore into ({_line(problem)}): make room on the server's disk."
        ) from problem


def drop_database(way: reach.Reach, name: str) -> None:
    """Drops a database of ours, whoever is connected to it."""
    with way.connect(plain=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _roles(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for role in ROLES:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            bypass = "BYPASSRLS" if role == "kat_system" else "NOBYPASSRLS"
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN {}").format(sql.Identifier(role), sql.SQL(bypass)))
        if connection.execute("SELECT pg_has_role(current_user, %s, 'MEMBER')", (role,)).fetchone() != (True,):
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))


def _locale(connection: psycopg.Connection[tuple[object, ...]]) -> sql.Composable:
    """The encoding and collation of the database in use: text has to sort as it did."""
    row = connection.execute(
        "SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text,"
        " coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') FROM pg_database d"
        " WHERE datname = current_database()"
    ).fetchone()
    if row is None:
        return sql.SQL("")
    *first, provider, locale = (str(value) for value in row)
    words = sql.SQL("ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(*(sql.Literal(value) for value in first))
    named = {"i": "LOCALE_PROVIDER icu ICU_LOCALE {}", "b": "LOCALE_PROVIDER builtin BUILTIN_LOCALE {}"}
    more = (
        sql.SQL(named[provider]).format(sql.Literal(locale)) if provider in named else sql.SQL("LOCALE_PROVIDER libc")
    )
    return sql.SQL(" ").join([words, more])


def _line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0].rstrip(".") if str(problem).strip() else type(problem).__name__

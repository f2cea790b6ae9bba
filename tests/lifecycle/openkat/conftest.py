"""Databases as OpenKAT has them: each part's owned by a login of its own, made from the facts with our own DDL."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from kattegat.lifecycle.openkat import environment, facts, recognise
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.schema import ddl
from kattegat.store import server as embedded

_numbers = itertools.count(1)

MakePart = Callable[..., Dsn]


def migrations(release: str) -> list[tuple[str, str]]:
    """What `django_migrations` holds after a release has migrated, other apps' rows included."""
    own = recognise.migrations_of(release)
    known = facts.catalogue("rocky").migrations
    return [
        (app, name) for app, names in known.items() for name in names if app not in _OWN or name in own.get(app, ())
    ]


_OWN = ("account", "crisis_room", "fmea", "tools")


@pytest.fixture
def admin(server: embedded.Running) -> Dsn:
    """A superuser's login on the test server."""
    return environment.dsn(server.dsn("kat_admin", "postgres"))


@pytest.fixture
def make_part(admin: Dsn) -> Iterator[MakePart]:
    """Call it with a part and a revision (for Rocky a release) for a database of it; gives the DSN of its own login."""
    made: list[tuple[str, str]] = []
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:

        def make(part: Part, revision: str) -> Dsn:
            name = f"ok_{part}_{os.getpid()}_{next(_numbers)}"
            made.append((name, f"{name}_app"))
            role, database = sql.Identifier(f"{name}_app"), sql.Identifier(name)
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'sesame'").format(role))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            dsn = admin.with_(user=f"{name}_app", password="sesame", dbname=name)
            schema = facts.revision_of("rocky", revision) if part == "rocky" else revision
            with psycopg.connect(admin.with_(dbname=name).conninfo(), autocommit=True) as inside:
                inside.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role))
            with psycopg.connect(dsn.conninfo()) as inside:
                for statement in ddl.build(facts.shape(part, schema)):
                    inside.execute(statement.encode())
                if part == "rocky":
                    rows = migrations(revision)
                    inside.cursor().executemany(
                        "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())", rows
                    )
                else:
                    inside.execute("INSERT INTO alembic_version VALUES (%s)", [revision])
            return dsn

        yield make
        for name, role in made:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))

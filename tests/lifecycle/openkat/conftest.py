"""Databases as OpenKAT has them: each part's owned by a login of its own, made from the facts with our own DDL."""

from __future__ import annotations

import itertools
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Json, Jsonb

from kattegat.lifecycle.openkat import environment, facts, recognise
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.schema import ddl
from kattegat.schema.shape import Snapshot
from kattegat.store import server as embedded

_numbers = itertools.count(1)

MakePart = Callable[..., Dsn]


def migrations(release: str) -> list[tuple[str, str]]:
    """What `django_migrations` holds after a release has migrated, other apps' rows included."""
    own = recognise.migrations_of(release)
    known = facts.catalogue("rocky").migrations
    return [
        (app, name)
        for app, names in known.items()
        for name in names
        if app not in facts.OWN_APPS or name in own.get(app, ())
    ]


@pytest.fixture
def admin(server: embedded.Running) -> Dsn:
    """A superuser's login on the test server."""
    return environment.dsn(server.dsn("kat_admin", "postgres"))


@pytest.fixture
def make_part(admin: Dsn) -> Iterator[MakePart]:
    """Call it with a part and a revision (for Rocky a release) for a database of it; gives the DSN of its own login."""
    made: list[tuple[str, str]] = []
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:

        def make(part: Part, revision: str, rows: int = 0) -> Dsn:
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
                    inside.cursor().executemany(
                        "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())",
                        migrations(revision),
                    )
                else:
                    inside.execute("INSERT INTO alembic_version VALUES (%s)", [revision])
                if rows:
                    fill_rows(inside, facts.shape(part, schema), rows)
            return dsn

        yield make
        for name, role in made:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


# -- boundary rows ----------------------------------------------------------------------------------------------------

_LONG = "é" * 3000
_DATA = [
    {"id": "x", "organization": "org-a", "boefje": {"id": "nmap"}, "input_ooi": "IPAddressV4|internet|1.2.3.4"},
    {"raw_data": {"boefje_meta": {"organization": "org-b"}}, "normalizer": {"id": "kat_nmap_normalize"}},
    {"organisation_id": "org-c", "report_recipe_id": "r"},
    {},
    {"b": 1, "a": [None, True, {"x": "\\ ' \" { } %s {public.tasks}"}], "organization": None},
    ["no object"],
]


def _texts(limit: int | None) -> list[str]:
    tops = ["", "plain", 'it\'s \\ "quoted" %s {x} $1', " é漢\t\n", "A|1"]
    top = limit or 3000
    return [*(text[:top] for text in tops), _LONG[:top]]


def _values(type_: str, name: str, table: str) -> list[object]:
    base = type_.removesuffix("[]")
    if type_.endswith("[]"):
        limit = int(base.partition("(")[2].rstrip(")") or 0) or None
        return [[], ["boefje/nmap-1234", "nmap", "text/plain"], [text for text in _texts(limit) if text], [""]]
    if name in ("values", "settings") and base.startswith("character varying"):
        return ['{"TOP": "1"}', "{}", '{"A": "é", "B": "' + "x" * 60 + '"}', '{"N": 5, "L": ["a"]}']
    if base in ("json", "jsonb"):
        return [Jsonb(one) if base == "jsonb" else Json(one) for one in _DATA]
    if base.startswith("character varying") or base == "text":
        limit = int(base.partition("(")[2].rstrip(")") or 0) or None
        if name == "scheduler_id":
            return ["boefje-org-a", "boefje", "normalizer-org-b", "report", "normalizer", "report-org-c", "odd"]
        if name == "organisation":
            return ["org-a", "org-b", "", "org-c"]
        if name in ("boefje_id", "boefje_name"):
            return ["nmap", *_texts(limit)]
        if name in ("plugin_id",):
            return [*(one[: limit or 64] for one in ("nmap", "kat_dns_normalize", "dns-records", "é" * 64)), ""]
        if name == "type":
            return ["boefje", "normalizer", "report"]
        return list(_texts(limit))
    moments = [datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC), datetime.now(UTC)]
    plain: dict[str, list[object]] = {
        "uuid": [],
        "boolean": [True, False],
        "integer": [0, 1, -(2**31), 2**31 - 1],
        "smallint": [0, 1, 2**15 - 1],
        "bigint": [0, 1, -(2**63), 2**63 - 1],
        "timestamp with time zone": list(moments),
        "bytea": [b"", b"\0\xff"],
        "date": [moments[0].date()],
        "inet": ["127.0.0.1"],
        "double precision": [0.1, -1e300],
    }
    return plain[base]


_PROPER: dict[str, dict[str, list[object]]] = {
    "public.boefje": {"schema": [Json({"properties": {"TOP": {}, "B": {}}}), Json({}), Json([1])]},
    "public.crisis_room_dashboarditem": {"position": list(range(40))},
}


def _in_order(shape: Snapshot) -> list[str]:
    left, done = set(shape.tables), []
    while left:
        ready = sorted(
            table
            for table in left
            if all(
                key.references in (*done, table)
                for key in shape.tables[table].constraints.values()
                if key.kind == "foreign key"
            )
        )
        done += ready
        left -= set(ready)
    return done


def fill_rows(connection: psycopg.Connection[Any], shape: Snapshot, rounds: int = 7) -> None:
    """Rows at the edges of what each column holds: NULL, empty, as long as allowed, odd characters, every label."""
    for table in _in_order(shape):
        if table in ("public.alembic_version", "public.django_migrations"):
            continue
        held = shape.tables[table]
        keys = {name: key for key in held.constraints.values() if key.kind == "foreign key" for name in key.columns}
        for number in range(rounds):
            row: dict[str, object] = {}
            for place, (name, column) in enumerate(sorted(held.columns.items())):
                if column.identity or (column.default or "").startswith("nextval"):
                    continue
                if not column.not_null and (number + place) % 5 == 4:
                    row[name] = None
                elif name in keys:
                    key = keys[name]
                    parent = connection.execute(
                        sql.SQL("SELECT {} FROM {} ORDER BY 1 OFFSET {} LIMIT 1").format(
                            sql.Identifier(key.referenced[0]),
                            sql.Identifier(*(key.references or "").split(".", 1)),
                            sql.Literal(number % 3),
                        )
                    ).fetchone()
                    row[name] = parent[0] if parent else None
                elif column.type == "uuid":
                    row[name] = uuid.UUID(int=zlib.crc32(f"{table}{name}{number}".encode()))
                elif column.type.removesuffix("[]") in shape.enums:
                    labels = shape.enums[column.type].labels
                    row[name] = labels[number % len(labels)]
                else:
                    known = _PROPER.get(table, {}).get(name) or _values(column.type, name, table)
                    row[name] = known[(number + place) % len(known)]
            if "data" in row and "organisation" in row:
                row["data"] = Jsonb({"organization": row["organisation"]})
            _insert(connection, table, row)


def _insert(connection: psycopg.Connection[Any], table: str, row: dict[str, object]) -> None:
    names = [name for name in row if name is not None]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(*table.split(".", 1)),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(sql.Placeholder() * len(names)),
    )
    try:
        with connection.transaction():
            connection.execute(statement, [row[name] for name in names])
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation):
        return  # that edge belongs to another row already


def contents(connection: psycopg.Connection[Any], shape: Snapshot) -> dict[str, list[str]]:
    """Every row of every table as text, columns by name; parked columns left out."""
    found = {}
    for table, held in sorted(shape.tables.items()):
        listed = sql.SQL(", ").join(
            sql.SQL("{}, {}::text").format(sql.Literal(name), sql.Identifier(name)) for name in sorted(held.columns)
        )
        query = sql.SQL("SELECT jsonb_build_object({})::text FROM {} ORDER BY 1").format(
            listed, sql.Identifier(*table.split(".", 1))
        )
        found[table] = [str(row[0]) for row in connection.execute(query).fetchall()]
    return found


@pytest.fixture(name="contents", scope="session")
def contents_fixture() -> Callable[..., dict[str, list[str]]]:
    """`contents`, for tests."""
    return contents

"""A change of shape really made: two schemas, rows, the way there, writes of the other release, the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, text

from kattegat.schema import ddl, ledger, planner, shape, snapshot
from kattegat.schema.hints import Hints
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan


def execute(connection: Connection, statements: Iterable[str]) -> None:
    """Each statement as it is."""
    for sql in statements:
        try:
            connection.exec_driver_sql(sql.replace("%", "%%"))
        except Exception as problem:
            raise AssertionError(f"{problem}\n--- in\n{sql}") from problem


def unprepared(connection: Connection) -> None:
    """The same question is put again and again while the columns' types change, which no prepared statement bears."""
    driver: Any = connection.connection.driver_connection
    driver.prepare_threshold = None


def as_change(connection: Connection) -> None:
    """The session settings of a change of release, which is made by the owner: no superuser."""
    execute(connection, ["SET ROLE kat_owner", "SET search_path = ''", "SET kat.change = 'on'", "SET TimeZone = 'UTC'"])


def as_release(connection: Connection) -> None:
    """Those of a process of a release."""
    execute(connection, ["RESET ROLE", "RESET search_path", "SET kat.change = 'off'"])


def go(connection: Connection, plan: Plan) -> None:
    """Runs every step."""
    as_change(connection)
    for step in plan.steps:
        execute(connection, step.do)
    as_release(connection)


def planned(connection: Connection, target: Snapshot, hints: Hints | None = None) -> Plan:
    """The plan from what the database is, with what is parked in it."""
    made = planner.plan(
        snapshot.read(connection),
        target,
        parked=ledger.entries(connection),
        hints=hints,
        first_id=ledger.next_id(connection),
    )
    ledger.reserve(connection, made.next_id)
    return made


def same(connection: Connection, wanted: Snapshot) -> None:
    """Fails with the differences where the database is not of this shape."""
    have = snapshot.read(connection)
    if have != wanted:
        raise AssertionError("\n".join(shape.differences(have, wanted)) or f"{have}\n{wanted}")


def rows(connection: Connection, tables: Mapping[str, shape.Table]) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, each value in its text form, in an order of their own."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table, its in sorted(tables.items()):
        columns = ", ".join(f"{ddl.ident(name)}::text AS {ddl.ident(name)}" for name in sorted(its.columns)) or "1"
        result = connection.execute(text(f"SELECT {columns} FROM {ddl.name(table)}".replace(":", "\\:")))
        found[table] = sorted((dict(row._mapping) for row in result), key=lambda row: repr(sorted(row.items())))
    return found


def partition(connection: Connection, s: Snapshot) -> None:
    """Gives each partitioned table its partitions: one for a year, and one for what is left."""
    for table in sorted(name for name, its in s.tables.items() if its.partition):
        short = table.partition(".")[2]
        words = f"CREATE TABLE public.{ddl.ident(short + '_2026')} PARTITION OF {ddl.name(table)}"
        rest = f"CREATE TABLE public.{ddl.ident(short + '_rest')} PARTITION OF {ddl.name(table)} DEFAULT"
        year = f"{words} FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
        execute(connection, ["SET ROLE kat_owner", year, rest, "RESET ROLE"])

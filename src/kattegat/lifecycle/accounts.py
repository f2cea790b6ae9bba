"""Rows before and after a change: none may be missing, and no value that no step was about may differ.

A table and a column keep their numbers in the catalogue (oid, attnum) when they are renamed, moved or parked, so they
are found again whatever a change does to their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from kattegat.schema.steps import Plan

SMALL = 64 * 1024**2  # bytes of a table up to which its values are compared without being asked
# A statement that may write values: SQL, or a call of one of the functions that set aside and bring back.
_WRITES = re.compile(r"\b(UPDATE|INSERT|DELETE|MERGE)\b|\bparked\.\w+\s*\(", re.IGNORECASE)


class Column(Struct, frozen=True):
    """A column; `sum` is that of the hashes of its values as text, which no order of rows changes."""

    name: str
    type: str
    sum: str


class Account(Struct, frozen=True):
    """A table: its name as SQL writes it, its rows, and its columns by attnum, where they were read."""

    oid: int
    name: str
    rows: int
    columns: dict[int, Column]


class Accounts(Struct, frozen=True):
    """All tables, and how many rows are set aside by the name that their table had then."""

    tables: list[Account]
    aside: dict[str, int]


def take(connection: Connection, *, everything: bool) -> dict[str, Any]:
    """The accounts of all tables in `public` and `parked`, as JSON; the values of large ones only with `everything`."""
    tables = [
        _account(connection, row.oid, row.name, values=everything or row.size <= SMALL)
        for row in connection.execute(_TABLES)
    ]
    found: dict[str, Any] = msgspec.to_builtins(Accounts(tables=tables, aside=_aside(connection)), str_keys=True)
    return found


def compare(connection: Connection, before: dict[str, Any], plan: Plan) -> list[str]:
    """What does not add up now, one line each: rows in a table and set aside from it together stay the same."""
    told = msgspec.convert(before, Accounts, str_keys=True, strict=False)
    now = {row.oid: row.name for row in connection.execute(_TABLES)}
    aside = _aside(connection)
    found: list[str] = []
    for was in told.tables:
        name = now.get(was.oid)
        if name is None:
            found.append(f"table {was.name} is gone")
            continue
        here = _account(connection, was.oid, name, values=bool(was.columns))
        # Of a table that was renamed, rows are set aside under either name.
        one = sum(told.aside.get(each, 0) for each in {was.name, name})
        other = sum(aside.get(each, 0) for each in {was.name, name})
        if was.rows + one != here.rows + other:
            found.append(f"table {name} has {here.rows} rows and {other} set aside, and had {was.rows} and {one}")
        elif was.rows == here.rows and one == other:
            found += _values(was, here, plan)
    return found


def _values(was: Account, here: Account, plan: Plan) -> Iterator[str]:
    for number, column in was.columns.items():
        other = here.columns.get(number)
        if other is None:
            if not _meant(plan, was.name, column.name):
                yield f"column {was.name}.{column.name} is gone"
        elif other.type == column.type and other.sum != column.sum and not _meant(plan, was.name, column.name):
            yield f"column {here.name}.{other.name} has other values than before"


def _meant(plan: Plan, table: str, column: str) -> bool:
    """Whether a step writes, changes or drops this column."""
    table = table.replace('"', "")
    word = re.compile(rf"(?<![\w$]){re.escape(column)}(?![\w$])")
    for step in plan.steps:
        if step.target == f"{table}.{column}":
            return True
        if table not in step.tables and not step.target.startswith(table):
            continue
        statements = [*step.do, *step.undo]
        if step.batches is not None:
            statements += [step.batches.do, step.batches.undo or ""]
        if any(_WRITES.search(sql) and word.search(sql) for sql in statements):
            return True
    return False


def _account(connection: Connection, oid: int, name: str, *, values: bool) -> Account:
    columns = list(connection.execute(_COLUMNS, {"oid": oid})) if values else []
    sums = "".join(
        f", coalesce(sum(hashtextextended({column.quoted}::text, 0)::numeric), 0) + count({column.quoted})"
        for column in columns
    )
    row = connection.exec_driver_sql(f"SELECT count(*){sums} FROM {name}".replace("%", "%%")).one()  # noqa: S608
    return Account(
        oid=oid,
        name=name,
        rows=int(row[0]),
        columns={
            column.attnum: Column(name=column.attname, type=column.type, sum=str(value))
            for column, value in zip(columns, row[1:], strict=True)
        },
    )


def _aside(connection: Connection) -> dict[str, int]:
    return {row[0]: int(row[1]) for row in connection.execute(_ASIDE)}


# Partitions are counted with their table. What the ledger itself keeps is no row of anybody's.
_TABLES = text(
    """
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name,
           coalesce((SELECT sum(pg_table_size(t.relid)) FROM pg_partition_tree(c.oid) t), pg_table_size(c.oid)) AS size
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname = 'public' OR n.nspname = 'parked' AND c.relname NOT IN ('entry', 'touched', 'quarantine'))
      AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'alembic_version'
    ORDER BY c.oid
    """
)
_COLUMNS = text(
    """
    SELECT attnum, attname, quote_ident(attname) AS quoted, format_type(atttypid, atttypmod) AS type
    FROM pg_attribute WHERE attrelid = :oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
    """
)
_ASIDE = text(
    "SELECT table_name, count(*) FROM parked.quarantine WHERE column_name IS NULL AND state <> 'returned' GROUP BY 1"
)

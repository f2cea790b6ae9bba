"""How many rows tables hold, and what is in them: to show that a change lost none.

A fingerprint is made of every row's text form (`ROW(a::text, b::text)::text`, columns by name) under fixed settings of
the session, so it does not depend on the order of rows or columns, on the client's settings, or on a type that prints
alike (integer and bigint, varchar(8) and text). It is the sum modulo 2^64 of `hashtextextended` with each of two seeds:
128 bits, and a row that is there twice counts twice. Two unlike contents of the same size give the same fingerprint by
chance once in about 10^38; against somebody who looks for such contents it is no proof. The hash is the same in
PostgreSQL 15 to 18 on machines of the same byte order. A row whose text is longer than 1 GB is an error of the server.

The role must see every row: row-level security filters here as everywhere.
"""

# ruff: noqa: S608 - every name is quoted by `ddl`

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from kattegat.schema.catalog import ask, settled
from kattegat.schema.ddl import ident, literal, name
from kattegat.schema.shape import Snapshot

_SEEDS = (0x6B617474, 0x65676174)
# Many tables in one statement are one look at the database; more than this would only make a long plan.
_AT_ONCE = 50


class Contents(Struct, frozen=True):
    """How many rows, and the fingerprint of their values in 32 hex digits."""

    rows: int
    digest: str


class Position(Struct, frozen=True):
    """Where a sequence stands: the last value, and whether it was given out (or is the next one to be)."""

    value: int
    given: bool


def counts(connection: Connection, tables: Iterable[str]) -> dict[str, int]:
    """The exact number of rows of each table (`public.task`), partitions included; one scan each."""
    selects = [f"SELECT {literal(one)}, count(*) FROM {name(one)}" for one in tables]
    return {str(row[0]): int(row[1]) for row in _union(connection, selects)}


def fingerprints(
    connection: Connection,
    shape: Snapshot,
    *,
    tables: Iterable[str] | None = None,
    leave_out: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Contents]:
    """What each table of the shape holds (or each of `tables`), in the columns that the shape names; one scan each.

    `leave_out` names columns per table that don't count. Parked columns are no part of a shape, so they never do.
    """
    out = leave_out or {}
    found: dict[str, Contents] = {}
    with settled(connection):
        for table in sorted(shape.tables if tables is None else tables):
            columns = sorted(set(shape.tables[table].columns) - set(out.get(table, ())))
            row = connection.exec_driver_sql(_fingerprint(table, columns).replace("%", "%%")).one()
            digest = "".join(f"{int(part) % 2**64:016x}" for part in row[1:])
            found[table] = Contents(rows=int(row[0]), digest=digest)
    return found


def _fingerprint(table: str, columns: Sequence[str]) -> str:
    values = ", ".join(f"x.{ident(one)}::text" for one in columns)
    sums = ", ".join(f"coalesce(sum(hashtextextended(r, {seed})), 0)" for seed in _SEEDS)
    # OFFSET keeps the planner from writing the row out once for each seed. A hash follows its text's collation.
    inner = f'SELECT ROW({values})::text COLLATE "C" AS r FROM {name(table)} AS x OFFSET 0'
    return f"SELECT count(*), {sums} FROM ({inner}) AS s"


_IDENTITIES = """
SELECT n.nspname || '.' || t.relname || '.' || a.attname AS column, sn.nspname || '.' || s.relname AS sequence
FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace
    JOIN pg_depend d ON d.classid = CAST('pg_class' AS regclass) AND d.objid = s.oid AND d.deptype = 'i'
    JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE s.relkind = 'S' AND n.nspname = ANY (:schemas)
"""


def sequences(connection: Connection, shape: Snapshot) -> dict[str, Position]:
    """Where each sequence of the shape stands, by name; each identity column's own by column (`public.task.id`)."""
    identities = {
        f"{table}.{key}"
        for table, one in shape.tables.items()
        for key, column in one.columns.items()
        if column.identity
    }
    schemas = tuple({one.partition(".")[0] for one in shape.tables})
    names = {one: one for one in shape.sequences}
    names |= {row.column: row.sequence for row in ask(connection, _IDENTITIES, schemas) if row.column in identities}
    selects = [f"SELECT {literal(key)}, last_value, is_called FROM {name(one)}" for key, one in sorted(names.items())]
    return {str(row[0]): Position(int(row[1]), bool(row[2])) for row in _union(connection, selects)}


def _union(connection: Connection, selects: Sequence[str]) -> Iterator[Any]:
    for start in range(0, len(selects), _AT_ONCE):
        statement = " UNION ALL ".join(selects[start : start + _AT_ONCE])
        yield from connection.exec_driver_sql(statement.replace("%", "%%"))

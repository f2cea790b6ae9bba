"""What is in a database, what another release writes into it, and whether every value is accounted for afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import fill
import psycopg
from psycopg import sql
from sqlalchemy import create_engine

from kattegat.schema import snapshot
from kattegat.schema.hints import Hints
from kattegat.schema.shape import Snapshot, Table
from kattegat.store import revisions

# Where a release's own code reads more than the type says: what it would write there itself, as far as it goes.
VALUES = {
    # A process that was heard from just now, or will be, is in the way of a change by plain Alembic.
    "public.process.seen_at": ("2001-02-03T04:05:06.789012+00:00", "2002-02-03T04:05:06+00:00"),
    "public.runner.tools": ("{}", '{"nmap": "7.94 ü 🐚"}'),
    "public.runner.labels": ("[]", '["a label", "ü 🐚"]'),
    "public.runner.scope": ("{}",),
    "public.task.payload": ("{}", '{"requested_by": "100% \\"ü 🐚\\"", "more": {"b": [1, null, true]}}'),
    "public.task_history.payload": ("{}", '{"requested_by": "100% \\"ü 🐚\\"", "more": {"b": [1, null, true]}}'),
}

Row = dict[str, str | None]
Key = tuple[str | None, ...]
Rows = dict[str, dict[Key, Row]]


@dataclass(frozen=True)
class State:
    """Everything a release sees: shape, rows by key (each value as text), and where its sequences are."""

    shape: Snapshot
    rows: Rows
    sequences: Mapping[str, str]

    def differs(self, other: State) -> list[str]:
        """A line for each thing that differs; none when both are equal."""
        found = [f"the schema of {self.shape.fingerprint()} and {other.shape.fingerprint()}"]
        lines = [] if self.shape == other.shape else found
        for table in sorted(self.rows.keys() | other.rows.keys()):
            mine, theirs = self.rows.get(table, {}), other.rows.get(table, {})
            for key in mine.keys() | theirs.keys():
                if mine.get(key) != theirs.get(key):
                    lines.append(f"{table} {key}: {mine.get(key)} | {theirs.get(key)}"[:1200])
        lines += [
            f"sequence of {name}: {self.sequences.get(name)} | {other.sequences.get(name)}"
            for name in sorted(self.sequences.keys() | other.sequences.keys())
            if self.sequences.get(name) != other.sequences.get(name)
        ]
        return lines


def shape_of(dsn: str) -> Snapshot:
    """The shape of a database."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    try:
        with engine.connect() as connection:
            return snapshot.read(connection)
    finally:
        engine.dispose()


def filled(dsn: str) -> dict[str, int]:
    """Rows for every table, every column used, added to those there are; gives how many by table."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    try:
        with engine.begin() as connection:
            return fill.fill(connection, snapshot.read(connection), values=VALUES)
    finally:
        engine.dispose()


def key_columns(table: Table) -> list[str]:
    """The columns of the primary key; of a table without one, all of them."""
    for constraint in table.constraints.values():
        if constraint.kind == "primary key":
            return list(constraint.columns)
    return sorted(table.columns)


def state(dsn: str) -> State:
    """Reads everything, as a superuser: policies hide nothing."""
    shape = shape_of(dsn)
    rows: Rows = {}
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in shape.tables.items():
            if name.endswith(".alembic_version"):
                continue
            columns = sorted(table.columns)
            listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(one)) for one in columns)
            query = sql.SQL("SELECT {} FROM {} ORDER BY ctid").format(listed, sql.Identifier(*name.split(".", 1)))
            keyed: dict[Key, Row] = {}
            for values in connection.execute(query).fetchall():
                row = dict(zip(columns, values, strict=True))
                key = tuple(row[one] for one in key_columns(table))
                while key in keyed:
                    key = (*key, "again")
                keyed[key] = row
            rows[name] = keyed
        sequences = {}
        for name, column in _identities(shape):
            query = sql.SQL("SELECT pg_get_serial_sequence({}, {})").format(quoted(name), column)
            found = connection.execute(query).fetchone()
            if found and found[0]:
                place = sql.SQL(str(found[0]))
                at = connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(place)).fetchone()
                sequences[f"{name}.{column}"] = str(at)
        for name in shape.sequences:
            place = sql.SQL(quoted(name))
            at = connection.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(place)).fetchone()
            sequences[name] = str(at)
    return State(shape, rows, sequences)


def quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split(".", 1))


def _identities(shape: Snapshot) -> Iterator[tuple[str, str]]:
    for name, table in shape.tables.items():
        for column, one in table.columns.items():
            if one.identity:
                yield name, column


# -- what another release does there --------------------------------------------------------------------------------


def write(dsn: str, there: State) -> dict[str, int]:
    """Inserts into, updates and deletes from every table that allows it; every column is changed in some row.

    Gives how many rows were inserted, values changed and rows deleted.
    """
    done = {"insert": 0, "update": 0, "delete": 0}
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT set_config('kat.epoch', last_value::text, false) FROM lifecycle.epoch")
        for name, table in there.shape.tables.items():
            if name not in there.rows:
                continue
            rows = sorted(there.rows[name].items(), key=str)
            fixed = {
                column for one in table.constraints.values() if one.kind == "foreign key" for column in one.columns
            }
            free = [
                column
                for column, one in sorted(table.columns.items())
                if column not in key_columns(table) and column not in fixed and not one.generated and not one.identity
            ]
            for number, column in enumerate(free):
                for _, row in _turned(rows, number):
                    if _update(connection, name, table, there.shape, column, row):
                        done["update"] += 1
                        break
            # The last two; whether what refers to them goes too is the schema's business.
            done["delete"] += sum(_delete(connection, name, table, row) for _, row in rows[-2:])
    done["insert"] = sum(filled(dsn).values())
    return done


def _turned(rows: list[tuple[Key, Row]], number: int) -> list[tuple[Key, Row]]:
    place = number % len(rows) if rows else 0
    return rows[place:] + rows[:place]


def _update(
    connection: psycopg.Connection[Any], name: str, table: Table, shape: Snapshot, column: str, row: Row
) -> bool:
    for value in VALUES.get(f"{name}.{column}") or fill._candidates(column, table.columns[column], table, shape):
        if value == row[column]:
            continue
        statement = f'UPDATE {quoted(name)} SET "{column}" = CAST(%s::text AS {table.columns[column].type}) WHERE '
        if _tried(connection, statement + _where(table, row), [value, *_key_values(table, row)]):
            return True
    return False


def _delete(connection: psycopg.Connection[Any], name: str, table: Table, row: Row) -> bool:
    return _tried(connection, f"DELETE FROM {quoted(name)} WHERE " + _where(table, row), _key_values(table, row))


def _where(table: Table, row: Row) -> str:
    return " AND ".join(f'"{column}"::text IS NOT DISTINCT FROM %s' for column in key_columns(table))


def _key_values(table: Table, row: Row) -> list[str | None]:
    return [row[column] for column in key_columns(table)]


def _tried(connection: psycopg.Connection[Any], statement: str, values: list[str | None]) -> bool:
    try:
        with connection.transaction():
            return connection.execute(statement.encode(), values).rowcount > 0
    except (psycopg.errors.IntegrityError, psycopg.errors.DataError, psycopg.errors.RaiseException):
        return False


# -- what became of it --------------------------------------------------------------------------------


@dataclass
class Names:
    """What tables and columns of one release are called in another; what is not there has no name."""

    tables: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def between(cls, older: Snapshot, newer: Snapshot, way: tuple[str, str]) -> Names:
        """From the newer shape's names to the older's, as the hints of the revisions in between rename them."""
        chain = list(revisions.files().items())
        order = [name for name, _ in chain]
        passed = chain[order.index(way[0]) + 1 : order.index(way[1]) + 1]
        hints = [getattr(script.module, "hints", None) or Hints() for _, script in reversed(passed)]
        names = cls()
        for table, shape in newer.tables.items():
            called = {column: column for column in shape.columns}
            now = table
            for hint in hints:
                now = hint.tables.get(now, now)
                called = {column: hint.columns.get(f"{now}.{other}", other) for column, other in called.items()}
            if now in older.tables:
                names.tables[table] = now
                names.columns[table] = {c: o for c, o in called.items() if o in older.tables[now].columns}
        return names

    def inverted(self) -> Names:
        """The other way."""
        return Names(
            {other: table for table, other in self.tables.items()},
            {self.tables[t]: {o: c for c, o in columns.items()} for t, columns in self.columns.items()},
        )


@dataclass
class Records:
    """What schema `parked` says: (table or "", act, contents) of rows touched, (column or None, contents) held."""

    touched: list[tuple[str, dict[str, Any]]]
    held: list[tuple[str, str | None, dict[str, Any], str]]

    @classmethod
    def read(cls, dsn: str) -> Records:
        """Everything on record."""
        with psycopg.connect(dsn) as connection:
            touched = connection.execute("SELECT act::text, contents FROM parked.touched WHERE contents IS NOT NULL")
            held = connection.execute("SELECT table_name, column_name, contents, state FROM parked.quarantine")
            return cls([tuple(one) for one in touched], [tuple(one) for one in held])

    def told(self, key: Row, lost: Mapping[str, str | None]) -> bool:
        """Whether a row of this key was seen to be changed or deleted, with all of the lost values in it."""
        wanted = [value for value in lost.values() if value is not None]
        return any(
            all(_same(contents.get(column), value) for column, value in key.items())
            and all(any(_same(one, value) for one in contents.values()) for value in wanted)
            for _, contents in self.touched
        )

    def aside(self, key: Row) -> bool:
        """Whether a row of this key was set aside."""
        return any(
            column is None and all(_same(contents.get(name), value) for name, value in key.items())
            for _, column, contents, _ in self.held
        )

    def value_aside(self, columns: set[str], value: str | None) -> bool:
        """Whether this value of one of these columns was set aside."""
        return any(column in columns and value in contents.values() for _, column, contents, _ in self.held)


def _same(found: object, value: str | None) -> bool:
    # What was parked is on record as text; the rest of the row as JSON, which writes some types otherwise.
    if found is None or value is None:
        return found is None and value is None
    if isinstance(found, bool):
        return value == str(found).lower()
    return isinstance(found, dict | list) or str(found) == value


@dataclass(frozen=True)
class Story:
    """A database before, as it came to the other release and as that one left it, and after; `names` are those of the
    other release for what the first one knows."""

    before: State
    came: State
    left: State
    after: State
    names: Names


def unaccounted(story: Story, records: Records) -> list[str]:
    """A line for each value that is neither equal, nor written by the other release, nor on record."""
    lines: list[str] = []
    for table, shape in story.before.shape.tables.items():
        if table not in story.before.rows:
            continue
        there = story.names.tables.get(table)
        called = story.names.columns.get(table, {})
        lines += [f"{table} {line}" for line in _table(story, records, table, shape, there, called)]
    return lines


def _table(
    story: Story, records: Records, table: str, shape: Table, there: str | None, called: Mapping[str, str]
) -> Iterator[str]:
    was, now = story.before.rows[table], story.after.rows[table]
    keys = key_columns(shape)
    same_key = there is not None and [called.get(c) for c in keys] == key_columns(story.came.shape.tables[there])
    came = story.came.rows[there] if there is not None and same_key else {}
    left = story.left.rows[there] if there is not None and same_key else {}
    own = [column for column, one in shape.columns.items() if column not in called and not one.generated]
    for key, row in was.items():
        named = {column: row[column] for column in keys}
        if key in now:
            for column, one in shape.columns.items():
                if now[key][column] != row[column] and one.generated is None:
                    why = _why(records, column, called, named, row, now[key], came.get(key), left.get(key))
                    if why:
                        yield f"{key}: {column} was {row[column]!r}, is {now[key][column]!r}: {why}"[:900]
        elif records.aside(named):
            continue
        elif key not in came or key in left:
            yield f"{key} is gone, and nothing says why"
        elif own and not records.told(named, {column: row[column] for column in own}):
            yield f"{key} was deleted by the other release, and what it had in {', '.join(own)} is not on record"
    for key in now.keys() - was.keys():
        if key not in left:
            yield f"{key} came from nowhere: {now[key]}"[:900]
    for key, row in left.items():
        here = now.get(key)
        if here is None:
            if not records.aside(
                {called_there: row[called_there] for called_there in key_columns(story.left.shape.tables[there or ""])}
            ):
                yield f"{key} was left there, and is neither here nor set aside"
            continue
        for column, other in called.items():
            if here[column] == row[other] or shape.columns[column].generated is not None:
                continue
            if key in came and came[key][other] == row[other] and key in was and was[key][column] == here[column]:
                continue  # what stood in its place there was not touched
            if not records.value_aside({column, other}, row[other]):
                yield f"{key}: {column} was left as {row[other]!r}, and is {here[column]!r}"[:900]


def _why(
    records: Records,
    column: str,
    called: Mapping[str, str],
    named: Row,
    was: Row,
    now: Row,
    came: Row | None,
    left: Row | None,
) -> str:
    """Nothing, where the change of a value is accounted for; else what is wrong."""
    if left is None:
        return "the row was not there"
    if came is None:
        return "" if records.aside(named) else "the row was not there when the other release came"
    if column in called:
        if came[called[column]] != left[called[column]] or records.value_aside({column, called[column]}, was[column]):
            return ""
        return "the other release did not change it"
    if came == left:
        return "the other release did not change the row"
    return "" if records.told(named, {column: was[column]}) else "what was parked of it is not on record"


def written(one: State, other: State) -> dict[str, int]:
    """How many rows of each table differ: what a release has done between two looks."""
    return {
        table: sum(
            one.rows[table].get(key) != other.rows[table].get(key)
            for key in itertools.chain(one.rows[table], other.rows[table].keys() - one.rows[table].keys())
        )
        for table in one.rows
    }

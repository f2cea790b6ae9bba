"""Columns: parked and brought back, made; their defaults, identities and computed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kattegat.schema import ddl
from kattegat.schema.draft import REWRITE, Draft, either, note, returned
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Column, Snapshot
from kattegat.schema.values import fill
from kattegat.schema.watch import end_watch, start_watch, touched, watches_inserts


def park(draft: Draft, table: str, columns: Mapping[str, Column]) -> None:
    """Parks columns that the target does not know, in one step with the watch over their rows."""
    named = {column: draft.ids[f"{table}.{column}"] for column in columns}
    watch = draft.id()
    listed = ", ".join(columns)
    draft.add(
        "park columns",
        table,
        f"{listed} of {table}: every value is kept under another name, out of the way of an older release",
        park_sql(draft, table, columns, named, watch),
        back_sql(draft, table, columns, named, [watch], back=True),
        undo_words=f"{listed} of {table}: every value comes back; rows changed meanwhile are reported",
        tables=[table],
        loss="parked",
    )


def make(draft: Draft, table: str, name: str, shape: Column) -> None:
    """Adds a column of the target; once it has been parked on the way back, it is brought back instead. NOT NULL comes
    later, with the values."""
    entry = draft.ids[f"{table}.{name}"]
    watch = draft.id()
    columns = {name: shape}
    plain = msgspec.structs.replace(shape, not_null=bool(shape.identity))
    count = draft.rows(table)
    rewrites = bool(shape.identity) or (shape.default is not None and "(" in shape.default)
    back = back_sql(draft, table, columns, {name: entry}, [watch], back=False)
    draft.add(
        "make column",
        f"{table}.{name}",
        f"{name} of {table} is made",
        [either(entry, back, [ddl.add_column(table, name, plain)])],
        park_sql(draft, table, columns, {name: entry}, watch),
        undo_words=f"{name} of {table} is parked: every value is kept",
        tables=[table],
        rewrite=rewrites,
        scans=count / REWRITE if rewrites else 0.0,
        rows=count if rewrites else 0,
        loss="made",
    )


def bring_back(draft: Draft, table: str, name: str, before: Entry, shape: Column) -> None:
    """Brings back a column that an earlier change has parked, as it was then but for NOT NULL."""
    watch = draft.id()
    columns, named = {name: shape}, {name: before.id}
    former = draft.watches(table, f"_p{before.id}")
    others = [
        sql
        for seen in former
        if (left := [c for c in seen.shape["columns"] if c != f"_p{before.id}"])  # type: ignore[attr-defined]
        for sql in start_watch(draft, table, draft.id(), left, inserts=True)
    ]
    draft.add(
        "bring back column",
        f"{table}.{name}",
        f"{name} of {table} comes back with its values; rows changed meanwhile are reported",
        [*back_sql(draft, table, columns, named, [*(seen.id for seen in former), watch], back=False), *others],
        park_sql(draft, table, columns, named, watch),
        undo_words=f"{name} of {table} is parked: every value is kept",
        tables=[table],
    )


def park_sql(
    draft: Draft,
    table: str,
    columns: Mapping[str, Column],
    named: Mapping[str, int],
    watch: int,
) -> list[str]:
    """SQL that parks columns; their NOT NULL has gone already, or was never there."""
    place = ddl.name(table)
    done: list[str] = []
    for name, shape in columns.items():
        entry = named[name]
        if shape.default is not None:
            done.append(ddl.set_default(table, name, None))
        done.append(f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(name)} TO {ddl.ident(f'_p{entry}')}")
        done.append(note(entry, "column", f"{table}.{name}", f"{table}._p{entry}", shape))
    parked = [f"_p{named[name]}" for name in columns]
    inserts = any(watches_inserts(shape) for shape in columns.values())
    return [*done, *start_watch(draft, table, watch, parked, inserts=inserts)]


def back_sql(
    draft: Draft,
    table: str,
    columns: Mapping[str, Column],
    named: Mapping[str, int],
    watches: Sequence[int],
    *,
    back: bool,
) -> list[str]:
    """SQL that brings parked columns back: values of rows that were made or changed meanwhile follow the hints."""
    place = ddl.name(table)
    done: list[str] = []
    late: list[str] = []
    for name, shape in columns.items():
        entry = named[name]
        done.append(f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(f'_p{entry}')} TO {ddl.ident(name)}")
        if shape.default is not None:
            done.append(ddl.set_default(table, name, shape.default))
            if watches_inserts(shape):
                condition = touched(draft, table, watches, "I") + f" AND t.{ddl.ident(name)} IS NULL"
                late.append(fill(draft, table, name, condition, shape.default))
        refresh = draft.hints.refresh.get(f"{table}.{name}")
        if refresh is not None:
            changed = " OR ".join(_changed(draft, table, each, back=back) for each in refresh.when)
            late.append(
                fill(
                    draft,
                    table,
                    name,
                    touched(draft, table, watches, "U", changed),
                    draft.column_sql(table, refresh.sql, back=back),
                )
            )
        if back:
            # A right taken from the whole table meanwhile was taken from its parked columns too.
            done += rights(draft.source, table, name)
        done.append(returned(entry))
    return [*done, *late, *(sql for watch in watches for sql in end_watch(table, watch))]


def _changed(draft: Draft, table: str, name: str, *, back: bool) -> str:
    """A condition over alias t and its record w: the other release has given this column another value."""
    now = f"t.{draft.column_sql(table, '{' + name + '}', back=back)}"
    differs = f"pg_catalog.to_jsonb({now}) IS DISTINCT FROM (w.contents OPERATOR(pg_catalog.->) {ddl.literal(name)})"
    place = (draft.target if back else draft.source).tables.get(table)
    column = place.columns.get(name) if place is not None else None
    if column is None or not column.not_null:
        return differs
    # Empty where it may not be: a value given on the way there, which has been taken back since nobody changed it.
    return f"({now} IS NOT NULL AND {differs})"


def rights(snapshot: Snapshot, table: str, name: str) -> list[str]:
    """SQL that grants the rights on a column alone."""
    shape = snapshot.tables[table]
    bare = msgspec.structs.replace(shape, column_grants={})
    only = msgspec.structs.replace(
        shape, column_grants={name: shape.column_grants[name]} if name in shape.column_grants else {}
    )
    return ddl.table_grants(table, bare, only)


def change_default(draft: Draft, table: str, name: str, mine: str | None, theirs: str | None) -> None:
    """Sets or drops a default; no row changes."""
    words = f"the default of {name} of {table} becomes {theirs if theirs is not None else 'none'}"
    back = f"the default of {name} of {table} becomes {mine if mine is not None else 'none'}"
    draft.add(
        "change default",
        f"{table}.{name}",
        words,
        [ddl.set_default(table, name, theirs)],
        [ddl.set_default(table, name, mine)],
        undo_words=back,
        tables=[table],
    )


def change_identity(draft: Draft, table: str, name: str, mine: Column, theirs: Column) -> None:
    """Adds, drops or changes an identity; where its numbers had got to is kept."""
    place, column = ddl.name(table), ddl.ident(name)
    alter = f"ALTER TABLE {place} ALTER COLUMN {column}"
    entry = draft.id()

    def sequence() -> str:
        return f"pg_catalog.pg_get_serial_sequence({ddl.literal(place)}, {ddl.literal(name)})::regclass"

    def add(shape: Column) -> list[str]:
        top = f"(SELECT pg_catalog.max({column}) FROM {place})"  # noqa: S608
        kept = f"(SELECT (shape->>'last')::bigint FROM parked.entry WHERE id = {entry})"  # noqa: S608
        return [
            f"{alter} ADD GENERATED {shape.identity.upper()} AS IDENTITY",
            f"SELECT pg_catalog.setval({sequence()}, greatest({top}, {kept}, 1), greatest({top}, {kept}) IS NOT NULL)",
            returned(entry),
        ]

    def drop() -> list[str]:
        shape = f"pg_catalog.jsonb_build_object('last', pg_catalog.pg_sequence_last_value({sequence()}))"
        where = ddl.literal(f"{table}.{name}")
        return [
            f"SELECT parked.note({entry}, 'identity', {where}, {where}, {shape})",
            f"{alter} DROP IDENTITY",
        ]

    if mine.identity and theirs.identity:
        do = [f"{alter} SET GENERATED {theirs.identity.upper()}"]
        undo = [f"{alter} SET GENERATED {mine.identity.upper()}"]
    elif theirs.identity:
        do, undo = add(theirs), drop()
    else:
        do, undo = drop(), add(mine)
    words = f"{name} of {table} {'numbers its rows by itself' if theirs.identity else 'is numbered by who writes'}"
    back = f"{name} of {table} {'numbers its rows by itself' if mine.identity else 'is numbered by who writes'}"
    draft.add("change identity", f"{table}.{name}", words, do, undo, undo_words=back, tables=[table])


def drop_generated(draft: Draft, table: str, name: str, shape: Column) -> None:
    """A generated column holds nothing of its own: it is dropped, and computed again on the way back."""
    count = draft.rows(table)
    make, drop = _computed(draft, table, name, shape)
    draft.add(
        "drop generated column",
        f"{table}.{name}",
        f"{name} of {table} is taken off: it is computed from other columns",
        drop,
        [*make, *rights(draft.source, table, name)],
        undo_words=f"{name} of {table} is computed again",
        tables=[table],
        undo_scans=count / REWRITE,
        loss="derived",
    )


def add_generated(draft: Draft, table: str, name: str, shape: Column) -> None:
    """Adds a generated column."""
    count = draft.rows(table)
    make, drop = _computed(draft, table, name, shape)
    draft.add(
        "make generated column",
        f"{table}.{name}",
        f"{name} of {table} is computed from other columns",
        [*make, *rights(draft.target, table, name)],
        drop,
        undo_words=f"{name} of {table} is taken off again",
        tables=[table],
        rewrite=True,
        scans=count / REWRITE,
        rows=count,
        loss="set-aside" if shape.not_null else "made",
    )


def _computed(draft: Draft, table: str, name: str, shape: Column) -> tuple[list[str], list[str]]:
    """SQL that adds a generated column, and SQL that drops it; rows for which it may not be empty and is are set aside."""
    drop = f"ALTER TABLE {ddl.name(table)} DROP COLUMN {ddl.ident(name)}"
    if not shape.not_null:
        return [ddl.add_column(table, name, shape)], [drop]
    entry = draft.id()
    make = [
        ddl.add_column(table, name, msgspec.structs.replace(shape, not_null=False)),
        draft.set_aside(entry, table, f"t.{ddl.ident(name)} IS NULL", f"has no value in {name}"),
        f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} SET NOT NULL",
    ]
    return make, [drop, f"SELECT parked.take_back({entry})"]

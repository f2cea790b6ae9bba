"""NOT NULL, on and off: rows without a value are given one, or are set aside."""

from __future__ import annotations

from kattegat.schema import ddl
from kattegat.schema.draft import READ, Draft
from kattegat.schema.shape import Column
from kattegat.schema.values import fill, place


def allow_null(draft: Draft, table: str, name: str, shape: Column, *, parked: bool) -> None:
    """Drops NOT NULL. On the way back, rows that got no value meanwhile are given one, or are set aside."""
    entry = draft.id()
    drop = f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} DROP NOT NULL"
    # Values given to rows of a parked column are not taken again: it had none for them to return to.
    again = [] if parked else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    draft.add(
        "allow null",
        f"{table}.{name}",
        f"{name} of {table} may be empty",
        [drop, *again],
        # Of a column that stays, this runs while what the target made is still in its place.
        [*_give(draft, entry, table, name, shape, recorded=not parked, back=parked), _set_not_null(table, name)],
        undo_words=f"{name} of {table} may not be empty any more",
        tables=[table],
        undo_scans=2 * draft.rows(table) / READ,
    )


def forbid_null(draft: Draft, table: str, name: str, shape: Column, *, made: bool) -> None:
    """Sets NOT NULL; rows without a value are given one, or are set aside."""
    entry = draft.id()
    count = draft.rows(table)
    give = _give(draft, entry, table, name, shape, recorded=not made, back=False)
    if made and shape.default is None and f"{table}.{name}" not in draft.hints.fill and draft.may_have_rows(table):
        draft.questions[f"{table}.{name}"] = f"what its rows shall hold in {name} ({shape.type}, never empty)"
    back = [] if made else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    words = f"{name} of {table} may not be empty; rows that have no value are given one or set aside"
    undo_words = f"{name} of {table} may be empty again"
    drop = f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} DROP NOT NULL"
    draft.add(
        "give values",
        f"{table}.{name}",
        words,
        give,
        back,
        undo_words=f"values given to {name} of {table} are taken back",
        lock="SHARE ROW EXCLUSIVE",
        tables=[table],
        scans=count / READ,
        rows=count,
        loss="set-aside",
    )
    draft.add(
        "forbid null",
        f"{table}.{name}",
        f"{name} of {table} may not be empty",
        [_set_not_null(table, name)],
        [drop],
        undo_words=undo_words,
        tables=[table],
        scans=count / READ,
        rows=count,
    )


def _set_not_null(table: str, name: str) -> str:
    return f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} SET NOT NULL"


def _give(draft: Draft, entry: int, table: str, name: str, shape: Column, *, recorded: bool, back: bool) -> list[str]:
    """SQL that leaves no row without a value in a column."""
    condition = f"t.{ddl.ident(name)} IS NULL"
    hint = draft.hints.fill.get(f"{table}.{name}")
    value = draft.column_sql(table, hint, back=back) if hint is not None else shape.default
    if value is None:
        return [draft.set_aside(entry, table, condition, f"has no value in {name}")]
    key = draft.key(table)
    if recorded and key and name not in key:
        if hint is None and "(" in value:
            value = _same_again(draft, entry, table, name, shape, value)
        return [place(draft, entry, table, name, condition, value, f"{name} may not be empty")]
    if recorded:
        return [draft.set_aside(entry, table, condition, f"has no value in {name}")]
    return [fill(draft, table, name, condition, value)]


def _same_again(draft: Draft, entry: int, table: str, name: str, shape: Column, default: str) -> str:
    """What a row was given the last time this way was gone, or else the default: a clock or sequence gives another."""
    key = draft.key(table)
    names = ", ".join(ddl.literal(each) for each in key)
    texts = ", ".join(f"t.{ddl.ident(each)}::pg_catalog.text" for each in key)
    row = f"pg_catalog.jsonb_object(ARRAY[{names}]::pg_catalog.text[], ARRAY[{texts}]::pg_catalog.text[])"
    return (
        f"coalesce((SELECT q.placed::{shape.type} FROM parked.quarantine AS q WHERE q.entry = {entry}"  # noqa: S608
        f" AND q.state = 'returned' AND q.column_name = {ddl.literal(name)}"
        f" AND pg_catalog.md5(q.key::text) = pg_catalog.md5({row}::text) ORDER BY q.id DESC LIMIT 1), {default})"
    )

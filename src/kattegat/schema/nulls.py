"""NOT NULL, on and off: rows without a value are given one, or are set aside."""

from __future__ import annotations

from kattegat.schema import ddl
from kattegat.schema.draft import READ, Draft
from kattegat.schema.shape import Column
from kattegat.schema.values import fill, place


def allow_null(draft: Draft, table: str, name: str, shape: Column, *, parked: bool) -> None:
    """Drops NOT NULL. On the way back, rows that got no value meanwhile are given one, or are set aside."""
    entry = draft.id()
    place, column = ddl.name(table), ddl.ident(name)
    drop = f"ALTER TABLE {place} ALTER COLUMN {column} DROP NOT NULL"
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
    place, column = ddl.name(table), ddl.ident(name)
    give = _give(draft, entry, table, name, shape, recorded=not made, back=False)
    if made and shape.default is None and f"{table}.{name}" not in draft.hints.fill and draft.may_have_rows(table):
        draft.questions[f"{table}.{name}"] = f"what its rows shall hold in {name} ({shape.type}, never empty)"
    back = [] if made else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    words = f"{name} of {table} may not be empty; rows that have no value are given one or set aside"
    undo_words = f"{name} of {table} may be empty again"
    drop = f"ALTER TABLE {place} ALTER COLUMN {column} DROP NOT NULL"
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
        return [place(table, key, name, condition, value, f"{name} may not be empty", entry)]
    if recorded:
        return [draft.set_aside(entry, table, condition, f"has no value in {name}")]
    return [fill(table, name, condition, value)]

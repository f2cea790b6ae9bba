"""NOT NULL, on and off: rows without a value are given one, or are set aside."""

from __future__ import annotations

from kattegat.schema import ddl
from kattegat.schema.draft import READ, Draft, where_constraint
from kattegat.schema.shape import Column
from kattegat.schema.values import fill, place

# From so many rows on, or where nobody knows how many, readers are not kept waiting while every row is looked at.
LARGE = 50_000


def allow_null(draft: Draft, table: str, name: str, shape: Column, *, parked: bool) -> None:
    """Drops NOT NULL. On the way back, rows that got no value meanwhile are given one, or are set aside."""
    entry = draft.id()
    count = draft.rows(table)
    drop = f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} DROP NOT NULL"
    # Values given to rows of a parked column are not taken again: it had none for them to return to.
    again = [] if parked else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    give = _give(draft, entry, table, name, shape, recorded=not parked, back=True)
    words, undo_words = f"{name} of {table} may be empty", f"{name} of {table} may not be empty any more"
    path = f"{table}.{name}"
    if not _is_large(draft, table):
        draft.add("allow null", path, words, [drop, *again], [*give, _set_not_null(table, name)],
                  undo_words=undo_words, tables=[table], undo_scans=2 * count / READ)  # fmt: skip
        return
    prove, look, forbid = _proven(entry, table, name)
    unproven = f"ALTER TABLE {ddl.name(table)} DROP CONSTRAINT IF EXISTS {_check(entry)}"
    # What comes first here is the end of the way back; broken off in between, each finds nothing to do.
    draft.add("allow null later", path, f"{name} of {table} is still never empty", [], forbid,
              undo_words=undo_words, tables=[table])  # fmt: skip
    draft.add("look for nulls", path, f"on the way back every row of {table} will be looked at for {name}", [], [look],
              undo_words=f"every row of {table} is looked at for {name}; readers and writers go on",
              lock="SHARE UPDATE EXCLUSIVE", tables=[table], undo_scans=count / READ)  # fmt: skip
    draft.add("allow null", path, words, [drop, unproven, *again], [*give, prove],
              undo_words=f"rows of {table} that have no {name} are given one or set aside", tables=[table],
              undo_scans=count / READ)  # fmt: skip


def forbid_null(draft: Draft, table: str, name: str, shape: Column, *, made: bool) -> None:
    """Sets NOT NULL; rows without a value are given one, or are set aside."""
    entry = draft.id()
    count = draft.rows(table)
    path = f"{table}.{name}"
    give = _give(draft, entry, table, name, shape, recorded=not made, back=False)
    if made and shape.default is None and path not in draft.hints.fill and draft.may_have_rows(table):
        draft.questions[path] = f"what its rows shall hold in {name} ({shape.type}, never empty)"
    back = [] if made else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    words = f"{name} of {table} may not be empty; rows that have no value are given one or set aside"
    drop = f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} DROP NOT NULL"
    draft.add("give values", path, words, give, back,
              undo_words=f"values given to {name} of {table} are taken back", lock="SHARE ROW EXCLUSIVE",
              tables=[table], scans=count / READ, rows=count, loss="set-aside")  # fmt: skip
    words, undo_words = f"{name} of {table} may not be empty", f"{name} of {table} may be empty again"
    if not _is_large(draft, table):
        draft.add("forbid null", path, words, [_set_not_null(table, name)], [drop], undo_words=undo_words,
                  tables=[table], scans=count / READ, rows=count)  # fmt: skip
        return
    prove, look, forbid = _proven(entry, table, name)
    there = f"ALTER TABLE {ddl.name(table)} DROP CONSTRAINT IF EXISTS {_check(entry)}"
    draft.add("ask for values", path, f"new rows of {table} need a {name}", [prove], [there],
              undo_words=f"new rows of {table} need no {name}", tables=[table])  # fmt: skip
    draft.add("look for nulls", path, f"every row of {table} is looked at for {name}; readers and writers go on",
              [look], [], undo_words=f"nothing is to be done for {path}", lock="SHARE UPDATE EXCLUSIVE",
              tables=[table], scans=count / READ, rows=count)  # fmt: skip
    draft.add("forbid null", path, words, forbid, [drop], undo_words=undo_words, tables=[table])


def _is_large(draft: Draft, table: str) -> bool:
    return draft.rows(table) >= LARGE or (draft.may_have_rows(table) and not draft.rows(table))


def _check(entry: int) -> str:
    return f"_kat_full_{entry}"


def _proven(entry: int, table: str, name: str) -> tuple[str, str, list[str]]:
    """SQL that lets SET NOT NULL look at no row: a check, the proof of it, and NOT NULL in its place."""
    place = f"ALTER TABLE {ddl.name(table)}"
    return (
        f"{place} ADD CONSTRAINT {_check(entry)} CHECK ({ddl.ident(name)} IS NOT NULL) NOT VALID",
        where_constraint(table, _check(entry), True, f"{place} VALIDATE CONSTRAINT {_check(entry)}"),
        [_set_not_null(table, name), f"{place} DROP CONSTRAINT IF EXISTS {_check(entry)}"],
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

"""Values given where there are none, and values put in the place of others, which are kept."""

from __future__ import annotations

from collections.abc import Mapping

from kattegat.schema import ddl
from kattegat.schema.draft import READ, WRITE, Draft
from kattegat.schema.shape import Column


def fill(draft: Draft, table: str, name: str, condition: str, value: str) -> str:
    """SQL that gives a value to the rows (alias t) that a condition finds; they had none."""
    draft.moved.add(table)
    arguments = (ddl.name(table), name, condition, value)
    return f"SELECT parked.fill({', '.join(ddl.literal(each) for each in arguments)})"


def place(draft: Draft, entry: int, table: str, name: str, condition: str, value: str, why: str) -> str:
    """SQL that puts a value in the place of others, which are kept by the key of their rows (alias t)."""
    draft.moved.add(table)
    key = draft.key(table)
    keys = "ARRAY[" + ", ".join(ddl.literal(each) for each in key) + "]::text[]"
    texts = [ddl.literal(each) for each in (ddl.name(table), name, condition, value, why)]
    return f"SELECT parked.place({entry}, {texts[0]}, {keys}, {', '.join(texts[1:])})"


def place_values(draft: Draft, table: str, name: str, column: Column, values: Mapping[str, str]) -> None:
    """Puts values in the place of those that the target does not allow, as the hints say; the way back brings them."""
    entry = draft.id()
    key = draft.key(table)
    value = f"t.{ddl.ident(name)}::text"
    cases = " ".join(f"WHEN {ddl.literal(old)} THEN {ddl.literal(new)}" for old, new in sorted(values.items()))
    condition = f"{value} IN ({', '.join(ddl.literal(old) for old in sorted(values))})"
    why = f"{name} has no such value in the other release"
    if key and name not in key:
        do = [place(draft, entry, table, name, condition, f"(CASE {value} {cases} END)::{column.type}", why)]
    else:
        do = [draft.set_aside(entry, table, condition, why)]
    listed = ", ".join(f"{old} becomes {new}" for old, new in sorted(values.items()))
    draft.add(
        "place values",
        f"{table}.{name}",
        f"{name} of {table}: {listed}; the real values are kept",
        do,
        [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"],
        undo_words=f"{name} of {table}: the real values come back where nobody has changed them",
        lock="SHARE ROW EXCLUSIVE",
        tables=[table],
        scans=draft.rows(table) / READ,
        undo_scans=draft.rows(table) / WRITE / 100,
        rows=draft.rows(table),
        loss="set-aside",
    )

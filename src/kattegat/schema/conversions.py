"""A column's type changes: what the other type can't hold exactly is kept, each way."""

from __future__ import annotations

from kattegat.schema import ddl
from kattegat.schema.draft import READ, REWRITE, Draft
from kattegat.schema.shape import Column
from kattegat.schema.values import place

_INTEGERS = {"smallint": (-(2**15), 2**15 - 1), "integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
_NUMBERS = (*_INTEGERS, "numeric", "real", "double precision")
_TEXTS = ("text", "character varying", "character")
_TIMES = ("date", "timestamp without time zone", "timestamp with time zone")
_EXACT = {
    ("real", "double precision"),
    ("smallint", "double precision"),
    ("integer", "double precision"),
    ("jsonb", "json"),
    ("cidr", "inet"),
    # Sessions of a change are in UTC.
    ("timestamp without time zone", "timestamp with time zone"),
    ("timestamp with time zone", "timestamp without time zone"),
}
_FAMILIES = (_NUMBERS, _TEXTS, _TIMES, ("json", "jsonb"), ("inet", "cidr"))


def alter_type(draft: Draft, table: str, name: str, mine: Column, theirs: Column) -> None:
    """Changes a column's type; values that the new one can't hold exactly are kept, each way."""
    there, back = draft.id(), draft.id()
    count = draft.rows(table)
    seconds = count / REWRITE + count / READ
    to, fro = _cast(name, mine, theirs), _cast(name, theirs, mine)
    draft.add(
        "change type",
        f"{table}.{name}",
        f"{name} of {table} becomes {theirs.type} (was {mine.type}); values that do not fit exactly are kept beside it",
        [
            *hold_misfits(draft, there, table, name, mine, theirs),
            f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} TYPE {_typed(theirs)} USING {to}",
            f"SELECT parked.restore({back})",
            f"SELECT parked.take_back({back})",
        ],
        [
            *hold_misfits(draft, back, table, name, theirs, mine),
            f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} TYPE {_typed(mine)} USING {fro}",
            f"SELECT parked.restore({there})",
            f"SELECT parked.take_back({there})",
        ],
        undo_words=f"{name} of {table} becomes {mine.type} again, with the values it had where nobody changed them",
        tables=[table],
        rewrite=not _only_wider(mine, theirs),
        scans=0.0 if _only_wider(mine, theirs) else seconds,
        undo_scans=0.0 if _only_wider(theirs, mine) else seconds,
        rows=0 if _only_wider(mine, theirs) else count,
        loss="kept" if exact(mine, theirs) else "set-aside",
    )


def _typed(column: Column) -> str:
    return column.type + (f" COLLATE {ddl.name(column.collation)}" if column.collation else "")


def _base(type_: str) -> tuple[str, str]:
    """`character varying(64)` -> (`character varying`, `64`)."""
    head, bracket, rest = type_.partition("(")
    if not bracket:
        return type_, ""
    inside, _, tail = rest.partition(")")
    return (head + tail).strip(), inside


def _direct(mine: Column, theirs: Column) -> bool:
    one, other = _base(mine.type)[0], _base(theirs.type)[0]
    return (
        one == other
        or {one, other} == {"integer", "boolean"}
        or any(one in family and other in family for family in _FAMILIES)
    )


def _cast(name: str, mine: Column, theirs: Column, alias: str = "") -> str:
    column = f"{alias}{ddl.ident(name)}"
    if _direct(mine, theirs) or theirs.type == "text":
        return f"{column}::{theirs.type}"
    return f"{column}::text::{theirs.type}"


def exact(mine: Column, theirs: Column) -> bool:
    """Whether every value of the one type is a value of the other, and comes back the same."""
    (one, limit), (other, bound) = _base(mine.type), _base(theirs.type)
    if one in _INTEGERS and other in _INTEGERS:
        return _INTEGERS[one][1] <= _INTEGERS[other][1]
    if one in _INTEGERS and other == "numeric":
        return not bound
    if one in ("text", "character varying") and other in ("text", "character varying"):
        return not bound or (bool(limit) and int(limit) <= int(bound))
    if (one, other) in _EXACT:
        return True
    if one == other == "numeric" and not bound:
        return not limit
    return mine.type == theirs.type


def _only_wider(mine: Column, theirs: Column) -> bool:
    """Whether the change is one of the catalogue alone."""
    texts = ("text", "character varying")
    same = _base(mine.type)[0] in texts and _base(theirs.type)[0] in texts and mine.collation == theirs.collation
    return same and exact(mine, theirs)


def hold_misfits(draft: Draft, entry: int, table: str, name: str, mine: Column, theirs: Column) -> list[str]:
    """SQL that keeps the values which a type can't hold, and puts what it can in their place."""
    if exact(mine, theirs):
        return []
    column = f"t.{ddl.ident(name)}"
    key = draft.key(table)
    why = f"{name} does not fit into {theirs.type}"
    (one, _), (other, _) = _base(mine.type), _base(theirs.type)
    done: list[str] = []
    if one in _NUMBERS and other in _INTEGERS:
        low, high = _INTEGERS[other]
        outside = f"NOT ({column}::numeric BETWEEN {low} AND {high})"
        done.append(draft.set_aside(entry, table, outside, why))
    elif not (one in _TEXTS and other in _TEXTS) and not (one in _TIMES and other in _TIMES and _TIMES.index(one) > 0):
        # There and back: of a value that only gets there, nothing could be told on the way back.
        chain = [mine.type, theirs.type, mine.type]
        if not _direct(mine, theirs):
            chain = ["text", theirs.type, "text", mine.type]
        listed = ", ".join(ddl.literal(each) for each in chain)
        misfit = f"NOT parked.passes({column}::text, ARRAY[{listed}]::text[])"
        done.append(draft.set_aside(entry, table, misfit, why))
    there = _cast(name, mine, theirs, "t.")
    again = f"({there})::{mine.type}" if _direct(mine, theirs) else f"({there})::text::{mine.type}"
    differs = f"({again})::text IS DISTINCT FROM {column}::text"
    if key and name not in key:
        done.append(place(draft, entry, table, name, differs, again, why))
    else:
        done.append(draft.set_aside(entry, table, differs, why))
    return done

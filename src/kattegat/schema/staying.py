"""Which of a table's constraints, indexes, triggers and policies can stay on while it changes."""

from __future__ import annotations

import msgspec

from kattegat.schema import ddl
from kattegat.schema.comparison import Comparison
from kattegat.schema.dependents import mentions
from kattegat.schema.shape import Constraint, Index, Table


def stay(diff: Comparison, table: str) -> Table:
    """What of a table's constraints, indexes, triggers and policies stays as it is."""
    mine = diff.mine.tables[table]
    theirs = diff.theirs.tables.get(table, mine)
    leaves = table in diff.leaving
    touched = diff.touched()

    def steady(used: tuple[str, ...], uses: tuple[str, ...], text: str) -> bool:
        return (
            not diff.affected[table] & set(used)
            and not set(uses) & (touched - {table})
            and not mentions(text, diff.changed_types)
        )

    constraints = {
        name: shape
        for name, shape in mine.constraints.items()
        if theirs.constraints.get(name) == shape
        # One that rows may break already would not let them be moved; on and off again is the catalogue's alone.
        and (shape.valid or diff.mine == diff.theirs)
        and steady(shape.columns, shape.uses, shape.definition)
        and _reference_stays(diff, shape)
    }
    if leaves:
        constraints = {name: shape for name, shape in constraints.items() if shape.kind != "foreign key"}
    return Table(
        columns={},
        constraints=constraints,
        indexes={
            name: shape
            for name, shape in mine.indexes.items()
            if theirs.indexes.get(name) == shape and steady(shape.columns, shape.uses, shape.definition)
        },
        triggers={
            name: shape
            for name, shape in mine.triggers.items()
            if theirs.triggers.get(name) == shape and steady(shape.columns, (shape.function,), shape.definition)
        },
        policies={
            name: shape
            for name, shape in mine.policies.items()
            if theirs.policies.get(name) == shape and steady(shape.columns, shape.uses, f"{shape.using} {shape.check}")
        },
    )


def _reference_stays(diff: Comparison, shape: Constraint) -> bool:
    """A foreign key hangs on the key that it refers to."""
    if shape.kind != "foreign key":
        return True
    other = shape.references or ""
    if other not in diff.common or diff.affected[other] & set(shape.referenced):
        return False
    mine, theirs = diff.mine.tables[other], diff.theirs.tables[other]
    keys = [
        (n, c, theirs.constraints.get(n)) for n, c in mine.constraints.items() if c.kind in ("primary key", "unique")
    ]
    for key, held, wanted in keys:
        if set(held.columns) == set(shape.referenced) and (wanted == held or twin(diff, other, key, held)):
            return True
    uniques = [(i, theirs.indexes.get(n)) for n, i in mine.indexes.items() if i.unique]
    return any(set(i.columns) == set(shape.referenced) and i == wanted for i, wanted in uniques)


def twin(diff: Comparison, table: str, name: str, shape: Constraint) -> str | None:
    """The name under which the target has this very constraint, where the source's is free to be renamed."""
    if table not in diff.common or diff.affected[table] & set(shape.columns):
        return None
    mine, theirs = diff.mine.tables[table].constraints, diff.theirs.tables[table].constraints
    if name in theirs or not shape.valid or not _reference_stays(diff, shape):
        return None
    if set(shape.uses) & diff.touched() or mentions(shape.definition, diff.changed_types):
        return None
    twins = sorted(n for n, c in mine.items() if c == shape and n not in theirs)
    others = sorted(n for n, c in theirs.items() if c == shape and n not in mine)
    return dict(zip(twins, others, strict=False)).get(name)


def twin_index(diff: Comparison, table: str, name: str, shape: Index) -> str | None:
    """The same for an index."""
    if table not in diff.common or diff.affected[table] & set(shape.columns):
        return None
    mine, theirs = diff.mine.tables[table].indexes, diff.theirs.tables[table].indexes
    if name in theirs or set(shape.uses) & diff.touched() or mentions(shape.definition, diff.changed_types):
        return None

    def plain(index: str, each: Index) -> Index:
        return msgspec.structs.replace(each, definition=ddl.renamed_index(each.definition, index, ""))

    twins = sorted(n for n, i in mine.items() if plain(n, i) == plain(name, shape) and n not in theirs)
    others = sorted(n for n, i in theirs.items() if plain(n, i) == plain(name, shape) and n not in mine)
    return dict(zip(twins, others, strict=False)).get(name)

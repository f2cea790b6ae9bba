"""The first half of a plan: names change, what hangs on things comes off, what the target does not know is parked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from kattegat.schema import columns, ddl, dependents, nulls, relations, sequences
from kattegat.schema.comparison import Comparison, functions_in_order
from kattegat.schema.dependents import mentions
from kattegat.schema.draft import Draft, away, home, note, returned
from kattegat.schema.renaming import split
from kattegat.schema.shape import Column, Table
from kattegat.schema.staying import stay, twin, twin_index


def rename(draft: Draft) -> None:
    """Renames what the hints say; everything that follows speaks of the new names."""
    for old, new in draft.hints.tables.items():
        if new not in draft.source.tables:
            continue
        there, back = (
            [f"ALTER TABLE {ddl.name(one)} RENAME TO {ddl.ident(other.partition('.')[2])}"]
            for one, other in ((old, new), (new, old))
        )
        draft.add(
            "rename table",
            old,
            f"{old} is renamed to {new}",
            there,
            back,
            undo_words=f"{new} is renamed to {old}",
            tables=[old],
        )
    for path, new in draft.hints.columns.items():
        table, old = split(path, draft.source.tables)
        if table not in draft.source.tables or new not in draft.source.tables[table].columns:
            continue
        place = ddl.name(table)
        there, back = (
            [f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(one)} TO {ddl.ident(other)}"]
            for one, other in ((old, new), (new, old))
        )
        draft.add(
            "rename column",
            path,
            f"{old} of {table} is renamed to {new}",
            there,
            back,
            undo_words=f"{new} of {table} is renamed to {old}",
            tables=[table],
        )


def views(draft: Draft, diff: Comparison) -> set[str]:
    """Takes off the views that change or whose columns do; gives those that stay on."""
    mine, theirs = diff.mine.views, diff.theirs.views
    touched = diff.touched()
    going = {
        name
        for name, shape in mine.items()
        if theirs.get(name) != shape or set(shape.uses) & touched or mentions(shape.definition, diff.changed_types)
    }
    while more := {name for name, shape in mine.items() if name not in going and set(shape.uses) & going}:
        going |= more
    for name in reversed(dependents.in_order(mine, going)):
        draft.add(
            "take off view",
            name,
            f"the view {name} is taken off",
            [ddl.drop_view(name, mine[name])],
            dependents.make_view(name, mine[name]),
            undo_words=f"the view {name} is put on",
        )
    return mine.keys() - going


def hanging(draft: Draft, diff: Comparison) -> dict[str, Table]:
    """Takes off constraints, indexes, triggers and policies that change or whose columns do; gives those that stay."""
    stays = {table: stay(diff, table) for table in (*diff.common, *diff.leaving)}
    # First those that rows may break already: while they are on, no such row could be put back.
    for table, kept in stays.items():
        for name, shape in sorted(diff.mine.tables[table].constraints.items()):
            if not shape.valid and name not in kept.constraints and not twin(diff, table, name, shape):
                dependents.take_off_constraint(draft, table, name, shape)
    for kinds in (("foreign key",), ("check", "exclude", "unique", "primary key")):
        for table, kept in stays.items():
            for name, shape in sorted(diff.mine.tables[table].constraints.items()):
                if (
                    shape.valid
                    and shape.kind in kinds
                    and name not in kept.constraints
                    and not twin(diff, table, name, shape)
                ):
                    dependents.take_off_constraint(draft, table, name, shape)
        if kinds == ("foreign key",):
            _rest_off(draft, diff, stays)
    return stays


def _rest_off(draft: Draft, diff: Comparison, stays: dict[str, Table]) -> None:
    for table, kept in stays.items():
        shape = diff.mine.tables[table]
        for name, trigger in sorted(shape.triggers.items()):
            if name not in kept.triggers:
                dependents.take_off_trigger(draft, table, name, trigger)
        for name, policy in sorted(shape.policies.items()):
            if name not in kept.policies:
                dependents.take_off_policy(draft, table, name, policy)
        for name, index in sorted(shape.indexes.items()):
            if name not in kept.indexes and not twin_index(diff, table, name, index):
                dependents.take_off_index(draft, table, name, index)


def rename_keys(draft: Draft, diff: Comparison, on: Mapping[str, Table]) -> None:
    """Gives constraints and indexes that stay the names which the target has for them."""
    taken = {ddl.beside(table, name) for table in on for name in (*on[table].constraints, *on[table].indexes)}
    chosen: list[tuple[Callable[..., None], str, str, str]] = []
    for table in diff.common:
        mine, kept = diff.mine.tables[table], on[table]
        for name, shape in sorted(mine.constraints.items()):
            new = None if name in kept.constraints else twin(diff, table, name, shape)
            if new:
                chosen.append((dependents.rename_constraint, table, name, new))
                kept.constraints[new] = shape
        for name, index in sorted(mine.indexes.items()):
            new = None if name in kept.indexes else twin_index(diff, table, name, index)
            if new:
                chosen.append((dependents.rename_index, table, name, new))
                kept.indexes[new] = index
    taken |= {ddl.beside(table, name) for _, table, name, _ in chosen}
    late: list[tuple[Callable[..., None], str, str, str]] = []
    for rename_one, table, name, new in chosen:
        if ddl.beside(table, new) in taken:
            # Another has the name still, and gets a new one itself.
            between = f"_kat_{draft.id()}"
            rename_one(draft, table, name, between)
            late.append((rename_one, table, between, new))
        else:
            rename_one(draft, table, name, new)
    for rename_one, table, name, new in late:
        rename_one(draft, table, name, new)


def functions(draft: Draft, diff: Comparison) -> None:
    """Takes off functions that change their signature, and the defaults and generated columns in the way."""
    for table in (*diff.common, *diff.leaving):
        for name, shape in sorted(diff.mine.tables[table].columns.items()):
            if shape.default is not None and shape.generated is None and diff.default_goes(table, name):
                columns.change_default(draft, table, name, shape.default, None)
        for name, shape in sorted(diff.mine.tables[table].columns.items()):
            if shape.generated is not None and name in diff.affected[table]:
                columns.drop_generated(draft, table, name, shape)
    for name in reversed(functions_in_order(diff.mine.functions, list(diff.gone_functions))):
        shape_ = diff.mine.functions[name]
        draft.add(
            "take off function",
            name,
            f"the function {name} is taken off",
            [ddl.drop_function(name, shape_)],
            dependents.make_function(name, shape_),
            undo_words=f"the function {name} is put on",
        )


def leave(draft: Draft, diff: Comparison, on: Mapping[str, Table]) -> None:
    """Parks the tables and columns of the source alone; `on` is what is still on them."""
    for name, sequence in sorted(diff.mine.sequences.items()):
        wanted = diff.theirs.sequences.get(name)
        if wanted is None or wanted.owned_by != sequence.owned_by:
            sequences.free_sequence(draft, name, sequence)
    _park_functions(draft, diff)
    for table in diff.leaving:
        relations.park_table(draft, table, _bare(diff, table, on[table]))
    for table in diff.common:
        mine = diff.mine.tables[table].columns
        parked = {name: _parked_shape(diff, table, name) for name in sorted(mine) if f"{table}.{name}" in draft.there}
        for name in parked:
            if mine[name].not_null and not mine[name].identity:
                nulls.allow_null(draft, table, name, mine[name], parked=True)
        if parked:
            columns.park(draft, table, parked)


def _park_functions(draft: Draft, diff: Comparison) -> None:
    """Before any table goes: one may be the type of an argument."""
    for name in sorted(diff.mine.functions.keys() - diff.theirs.functions.keys() - diff.gone_functions):
        shape = diff.mine.functions[name]
        entry = draft.id()
        bare, arguments = name[: name.rindex("(")], name[name.rindex("(") :]
        final = f"f{entry}"
        there = away("ROUTINE", bare, entry, final, arguments)
        there.append(note(entry, "function", name, f"parked.{final}{arguments}", shape))
        back = [*home("ROUTINE", bare, entry, final, arguments), returned(entry)]
        draft.add(
            "park function",
            name,
            f"the function {name} is parked",
            there,
            back,
            undo_words=f"the function {name} comes back",
            loss="parked",
        )


def _parked_shape(diff: Comparison, table: str, name: str) -> Column:
    """A column as it is when it is parked: its default may have gone before."""
    shape = diff.mine.tables[table].columns[name]
    return msgspec.structs.replace(shape, default=None) if diff.default_goes(table, name) else shape


def _bare(diff: Comparison, table: str, on: Table) -> Table:
    return msgspec.structs.replace(
        diff.mine.tables[table],
        constraints=on.constraints,
        indexes=on.indexes,
        triggers=on.triggers,
        policies=on.policies,
        forced=False,
    )

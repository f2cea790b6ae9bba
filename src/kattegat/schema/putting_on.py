"""The second half of a plan: what the target knows is made or comes back, values follow, what hangs on it is put on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from kattegat.schema import columns, ddl, dependents, nulls, relations, sequences
from kattegat.schema.comparison import Comparison, definition, functions_in_order, grows, is_of, types_in_order
from kattegat.schema.conversions import alter_type
from kattegat.schema.dependents import mentions
from kattegat.schema.draft import Draft, data_step
from kattegat.schema.renaming import split
from kattegat.schema.shape import Snapshot, Table
from kattegat.schema.values import place_values


def make(draft: Draft, diff: Comparison) -> None:
    """Makes the schemas, types, sequences, functions, tables and columns of the target alone, or brings them back."""
    for schema in sorted(_schemas(diff.theirs) - _schemas(diff.mine)):
        draft.add(
            "make schema",
            schema,
            f"the schema {schema} is made",
            [f"CREATE SCHEMA IF NOT EXISTS {ddl.ident(schema)}"],
            [],
            undo_words=f"the schema {schema} stays",
        )
    fresh = diff.wanted_types.keys() - diff.types.keys()
    # On the way back it is forbidden again once the column has its type and the default fits.
    for table, name, mine, theirs in diff.both():
        if mine.not_null and not theirs.not_null and not mine.identity:
            nulls.allow_null(draft, table, name, mine, parked=False)
    for table, name, mine, theirs in diff.both():
        if diff.leaves_its_type(mine, theirs):
            alter_type(draft, table, name, mine, theirs)
    # One order for both: a new type may be made of one that changes, and the other way round.
    for type_ in types_in_order(diff.wanted_types, fresh | set(diff.changed_types)):
        if type_ in fresh:
            relations.make_type(draft, type_, diff.wanted_types[type_])
            continue
        held = [
            (table, name, mine)
            for table, name, mine, theirs in diff.both()
            if is_of(mine.type, type_) and not diff.leaves_its_type(mine, theirs)
        ]
        relations.exchange_type(draft, type_, diff.types[type_], diff.wanted_types[type_], held)
    for name in sorted(diff.theirs.sequences.keys() - diff.mine.sequences.keys()):
        sequences.make_sequence(draft, name, diff.theirs.sequences[name])
    waiting = _functions(diff, early=True)
    for name in waiting:
        _put_function(draft, diff, name)
    for table in diff.coming:
        relations.make_table(draft, table, _coming(diff, table))
    for table in diff.common:
        wanted = diff.theirs.tables[table].columns
        for name in sorted(name for name in wanted if diff.is_made(table, name)):
            columns.make(draft, table, name, wanted[name])
    for table in diff.coming:
        _catch_up(draft, diff, table)


def _schemas(snapshot: Snapshot) -> set[str]:
    everything = (*snapshot.tables, *snapshot.sequences, *snapshot.enums, *snapshot.domains, *snapshot.views)
    return {ddl.schema_of(name) for name in (*everything, *snapshot.functions)}


def _coming(diff: Comparison, table: str) -> Table:
    """A table to be made; one that has been parked comes back in the shape that it had."""
    shape = diff.theirs.tables[table]
    plain = {name: column for name, column in shape.columns.items() if column.generated is None}
    return msgspec.structs.replace(shape, columns=plain)


def _catch_up(draft: Draft, diff: Comparison, table: str) -> None:
    """Generated columns of a table that is made: they may read any other column."""
    for name, shape in sorted(diff.theirs.tables[table].columns.items()):
        if shape.generated is not None:
            columns.add_generated(draft, table, name, shape)


def _functions(diff: Comparison, *, early: bool) -> list[str]:
    """Functions to make or replace; those that read tables or columns which are only coming wait for these."""
    mine, theirs = diff.mine.functions, diff.theirs.functions
    chosen = [
        name
        for name, shape in theirs.items()
        if name not in mine or name in diff.gone_functions or definition(mine[name]) != definition(shape)
    ]
    tables = diff.theirs.tables
    late: set[str] = set()
    while True:
        more = {
            name
            for name in chosen
            if name not in late
            and (
                set(theirs[name].uses) & (late | tables.keys() | diff.theirs.views.keys())
                or any(use.rpartition(".")[0] in tables for use in theirs[name].uses)
                or mentions(f"{name} {theirs[name].returns}", diff.coming)
                or mentions(f"{name} {theirs[name].returns}", diff.changed_types)
            )
        }
        if not more:
            break
        late |= more
    return functions_in_order(theirs, [name for name in chosen if (name in late) != early])


def _put_function(draft: Draft, diff: Comparison, name: str) -> None:
    mine, shape = diff.mine.functions.get(name), diff.theirs.functions[name]
    make = dependents.make_function(name, shape)
    if mine is not None and name not in diff.gone_functions:
        words = f"the function {name} is replaced"
        rights = ddl.grants(name, shape.kind, mine.grants, shape.grants)
        back = ddl.grants(name, shape.kind, shape.grants, mine.grants)
        draft.add(
            "replace function",
            name,
            words,
            [*ddl.create_function(shape), *rights],
            [*ddl.create_function(mine), *back],
            undo_words=f"the function {name} is replaced by the former",
        )
        return
    draft.add(
        "put on function",
        name,
        f"the function {name} is put on",
        make,
        [ddl.drop_function(name, shape)],
        undo_words=f"the function {name} is taken off",
    )


def alter(draft: Draft, diff: Comparison) -> None:
    """Changes the types of columns."""
    for table, name, mine, theirs in diff.both():
        if mine.identity and (not theirs.identity or mine.type != theirs.type) and not grows(mine, theirs):
            plain = msgspec.structs.replace(theirs, identity="")
            columns.change_identity(draft, table, name, mine, plain)
    for table, name, mine, theirs in diff.both():
        changes = (mine.type, mine.collation) != (theirs.type, theirs.collation)
        if changes and not diff.leaves_its_type(mine, theirs):
            alter_type(draft, table, name, mine, theirs)


def values(draft: Draft, diff: Comparison) -> None:
    """Gives the values that the target needs: data steps, NOT NULL, defaults, identities, generated columns."""
    for step in draft.hints.after:
        data_step(draft, step, parked=True)
    for path, values in sorted(draft.hints.place.items()):
        table, name = split(path, diff.theirs.tables)
        if table in diff.common and name in diff.theirs.tables[table].columns:
            place_values(draft, table, name, diff.theirs.tables[table].columns[name], values)
    for table in diff.common:
        for name, shape in sorted(diff.theirs.tables[table].columns.items()):
            if diff.is_made(table, name) and shape.not_null and not shape.identity:
                nulls.forbid_null(draft, table, name, shape, made=True)
    for table, name, mine, theirs in diff.both():
        if theirs.not_null and not mine.not_null:
            nulls.forbid_null(draft, table, name, theirs, made=False)
    for table, name, mine, theirs in diff.still_computed():
        if theirs.not_null and not mine.not_null:
            nulls.forbid_null(draft, table, name, theirs, made=False)
        elif mine.not_null and not theirs.not_null:
            nulls.allow_null(draft, table, name, mine, parked=False)
    for table, name, mine, theirs in diff.both():
        former = None if diff.default_goes(table, name) and mine.default is not None else mine.default
        if former != theirs.default:
            columns.change_default(draft, table, name, former, theirs.default)
        if mine.identity and not theirs.identity and mine.not_null and not theirs.not_null:
            nulls.allow_null(draft, table, name, mine, parked=False)
        gone = mine.identity and (not theirs.identity or mine.type != theirs.type) and not grows(mine, theirs)
        held = msgspec.structs.replace(mine, identity="" if gone else mine.identity)
        if theirs.identity != held.identity:
            columns.change_identity(draft, table, name, held, theirs)
    for table in diff.common:
        for name, shape in sorted(diff.theirs.tables[table].columns.items()):
            if diff.is_remade(table, name):
                columns.add_generated(draft, table, name, shape)


def hanging(draft: Draft, diff: Comparison, on: Mapping[str, Table]) -> None:
    """Puts on the constraints and indexes of the target that are not on."""
    for name in _functions(diff, early=False):
        _put_function(draft, diff, name)
    tables = [*diff.common, *diff.coming]
    for kinds in (("check",), ("primary key", "unique", "exclude")):
        for table in tables:
            for name, shape in sorted(diff.theirs.tables[table].constraints.items()):
                if shape.valid and shape.kind in kinds and not _is_on(on, table, name):
                    dependents.put_on_constraint(draft, table, name, shape)
    for table in tables:
        for name, index in sorted(diff.theirs.tables[table].indexes.items()):
            if table not in on or name not in on[table].indexes:
                dependents.put_on_index(draft, table, name, index)
    # Those that rows may break already come last: while they are on, no such row could be put back.
    for valid in (True, False):
        for table in tables:
            for name, shape in sorted(diff.theirs.tables[table].constraints.items()):
                now = shape.valid == valid and (shape.kind == "foreign key" or not valid)
                if now and not _is_on(on, table, name):
                    dependents.put_on_constraint(draft, table, name, shape)


def _is_on(on: Mapping[str, Table], table: str, name: str) -> bool:
    return table in on and name in on[table].constraints


def last(draft: Draft, diff: Comparison, on: Mapping[str, Table], kept_views: Collection[str]) -> None:
    """What nothing else needs, and what others see: leftovers parked, rights, policies, triggers, views."""
    for name in sorted(diff.mine.sequences.keys() - diff.theirs.sequences.keys()):
        sequences.park_sequence(draft, name, diff.mine.sequences[name])
    for name in reversed(types_in_order(diff.types, diff.types.keys() - diff.wanted_types.keys())):
        relations.park_type(draft, name, diff.types[name])
    for name in sorted(diff.theirs.sequences):
        mine, theirs = diff.mine.sequences.get(name), diff.theirs.sequences[name]
        if mine is not None:
            sequences.alter_sequence(draft, name, mine, theirs)
        if mine is None or mine.owned_by != theirs.owned_by:
            sequences.own_sequence(draft, name, theirs)
    for table in [*diff.common, *diff.coming]:
        made = diff.theirs.tables[table]
        kept = on.get(table)
        for name, policy in sorted(made.policies.items()):
            if kept is None or name not in kept.policies:
                dependents.put_on_policy(draft, table, name, policy)
        for name, trigger in sorted(made.triggers.items()):
            if kept is None or name not in kept.triggers:
                dependents.put_on_trigger(draft, table, name, trigger)
    for table in diff.common:
        remade = [name for name in diff.theirs.tables[table].columns if diff.is_remade(table, name)]
        relations.alter_table(draft, table, diff.mine.tables[table], diff.theirs.tables[table], remade)
    for table in diff.coming:
        whole = diff.theirs.tables[table]
        if whole.row_security or whole.forced:
            open_ = msgspec.structs.replace(whole, row_security=False, forced=False)
            relations.alter_table(draft, table, open_, whole)
    for name in dependents.in_order(diff.theirs.views, diff.theirs.views.keys() - kept_views):
        view = diff.theirs.views[name]
        draft.add(
            "put on view",
            name,
            f"the view {name} is put on",
            dependents.make_view(name, view),
            [ddl.drop_view(name, view)],
            undo_words=f"the view {name} is taken off",
            loss="derived",
        )
    _owners(draft, diff)


def _owners(draft: Draft, diff: Comparison) -> None:
    for kind, mine, theirs in (
        ("type", diff.mine.enums, diff.theirs.enums),
        ("domain", diff.mine.domains, diff.theirs.domains),
        ("sequence", diff.mine.sequences, diff.theirs.sequences),
    ):
        for name in sorted(mine.keys() & theirs.keys()):
            one, other = mine[name].owner, theirs[name].owner
            if one != other and name not in diff.changed_types and one and other:
                draft.add(
                    "change owner",
                    name,
                    f"{name} belongs to {other}",
                    [ddl.set_owner(name, kind, other)],
                    [ddl.set_owner(name, kind, one)],
                )
    for name in sorted(diff.mine.functions.keys() & diff.theirs.functions.keys() - diff.gone_functions):
        former, wanted = diff.mine.functions[name], diff.theirs.functions[name]
        replaced = definition(former) != definition(wanted)
        there = [] if replaced else ddl.grants(name, wanted.kind, former.grants, wanted.grants)
        back = [] if replaced else ddl.grants(name, wanted.kind, wanted.grants, former.grants)
        if former.owner != wanted.owner and former.owner and wanted.owner:
            there.append(ddl.set_owner(name, wanted.kind, wanted.owner))
            back.append(ddl.set_owner(name, wanted.kind, former.owner))
        if there:
            draft.add("change rights", name, f"owner or rights of {name} change", there, back)

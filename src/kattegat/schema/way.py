"""The phases of a plan, in order."""

from __future__ import annotations

import msgspec

from kattegat.schema import columns, ddl, putting_on, relations, sequences, taking_off
from kattegat.schema.comparison import Comparison, types_in_order
from kattegat.schema.draft import Draft, data_step
from kattegat.schema.shape import Column, Domain, Enum, Sequence, Table


def go(draft: Draft) -> None:
    """Drafts every step."""
    taking_off.rename(draft)
    begin = _bring_back(draft)
    diff = Comparison(draft.source, draft.target)
    draft.reasons += diff.reasons()
    if draft.reasons:
        return
    _name(draft, diff)
    diff.find_affected()
    kept_views = taking_off.views(draft, diff)
    on = taking_off.hanging(draft, diff)
    taking_off.functions(draft, diff)
    for step in draft.hints.before:
        data_step(draft, step, parked=False)
    taking_off.leave(draft, diff, on)
    taking_off.rename_keys(draft, diff, on)
    putting_on.make(draft, diff)
    putting_on.alter(draft, diff)
    putting_on.values(draft, diff)
    putting_on.hanging(draft, diff, on)
    _see_all_rows(draft, diff, begin)
    putting_on.last(draft, diff, on, kept_views)


def _bring_back(draft: Draft) -> int:
    """What an earlier change has parked and the target knows comes back as it was; from there on it is the source's.

    Gives where in the steps the tables are back, and nothing has moved yet."""
    mine, theirs = draft.source, draft.target
    enums, domains, counters = dict(mine.enums), dict(mine.domains), dict(mine.sequences)
    tables = dict(mine.tables)
    wanted: dict[str, Enum | Domain] = {**theirs.enums, **theirs.domains}
    for name in types_in_order(wanted, wanted.keys() - enums.keys() - domains.keys()):
        shape = wanted[name]
        before = draft.entry("type", name, shape)
        if before is not None:
            was = msgspec.convert(before.shape, type(shape))
            relations.bring_back_type(draft, name, before, was)
            if isinstance(was, Enum):
                enums[name] = was
            else:
                domains[name] = was
    for name in sorted(theirs.sequences.keys() - counters.keys()):
        if before := draft.entry("sequence", name):
            counters[name] = msgspec.convert({**before.shape, "owned_by": None}, Sequence)
            sequences.bring_back_sequence(draft, name, before, counters[name])
    for name in sorted(theirs.tables.keys() - tables.keys()):
        if before := draft.entry("table", name):
            tables[name] = msgspec.convert(before.shape, Table)
            tables[name] = relations.bring_back_table(draft, name, before, tables[name])
    begin = len(draft.steps)
    for table in sorted(theirs.tables.keys() & mine.tables.keys()):
        columns_ = dict(tables[table].columns)
        for name, shape_ in sorted(theirs.tables[table].columns.items()):
            before = draft.entry("column", f"{table}.{name}")
            if before is not None and name not in columns_ and shape_.generated is None:
                held = msgspec.convert(before.shape, Column)
                columns_[name] = msgspec.structs.replace(held, not_null=bool(held.identity))
                columns.bring_back(draft, table, name, before, columns_[name])
        tables[table] = msgspec.structs.replace(tables[table], columns=columns_)
    draft.source = msgspec.structs.replace(mine, enums=enums, domains=domains, sequences=counters, tables=tables)
    return begin


def _see_all_rows(draft: Draft, diff: Comparison, begin: int) -> None:
    """Policies that hold for the owner too would hide rows from the steps that move them, so they don't meanwhile."""
    tables = dict(diff.mine.tables)
    steps = len(draft.steps)
    for name, shape in sorted(tables.items()):
        if shape.forced and (name in draft.moved or name in diff.leaving):
            relations.lift_row_security(draft, name)
            tables[name] = msgspec.structs.replace(shape, forced=False)
    lifted = draft.steps[steps:]
    del draft.steps[steps:]
    draft.steps[begin:begin] = lifted
    diff.mine = draft.source = msgspec.structs.replace(diff.mine, tables=tables)


def _name(draft: Draft, diff: Comparison) -> None:
    """Gives its id to each column and table that one side only knows."""
    for table in diff.leaving:
        draft.ids[table] = draft.id()
        draft.there[table] = f"parked.t{draft.ids[table]}"
    for table in diff.coming:
        draft.ids[table] = draft.id()
        draft.back[table] = f"parked.t{draft.ids[table]}"
    for table in diff.common:
        mine, theirs = diff.mine.tables[table].columns, diff.theirs.tables[table].columns
        for name in sorted(name for name in mine if diff.parks(mine[name], theirs.get(name))):
            path = f"{table}.{name}"
            draft.ids[path] = draft.id()
            draft.there[path] = ddl.ident(f"_p{draft.ids[path]}")
        for name in sorted(name for name in theirs if diff.makes(mine.get(name), theirs[name])):
            path = f"{table}.{name}"
            if path in draft.ids:
                continue
            draft.ids[path] = draft.id()
            draft.back[path] = ddl.ident(f"_p{draft.ids[path]}")

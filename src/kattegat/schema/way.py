"""The phases of a plan, in order."""

from __future__ import annotations

import msgspec

from kattegat.schema import columns, ddl, putting_on, relations, taking_off
from kattegat.schema.comparison import Comparison, types_in_order
from kattegat.schema.draft import Draft, data_step
from kattegat.schema.shape import Column, Domain, Enum, Sequence, Table


def go(draft: Draft) -> None:
    """Drafts every step."""
    _bring_back(draft)
    diff = Comparison(draft.source, draft.target)
    draft.reasons += diff.reasons()
    if draft.reasons:
        return
    _name(draft, diff)
    diff.find_affected()
    taking_off.rename(draft, diff)
    kept_views = taking_off.views(draft, diff)
    on = taking_off.hanging(draft, diff)
    taking_off.functions(draft, diff)
    for step in draft.hints.before:
        data_step(draft, step)
    taking_off.leave(draft, diff, on)
    putting_on.make(draft, diff)
    putting_on.alter(draft, diff)
    putting_on.values(draft, diff)
    putting_on.hanging(draft, diff, on)
    putting_on.last(draft, diff, on, kept_views)


def _bring_back(draft: Draft) -> None:
    """What an earlier change has parked and the target knows comes back as it was; from there on it is the source's."""
    mine, theirs = draft.source, draft.target
    enums, domains, sequences = dict(mine.enums), dict(mine.domains), dict(mine.sequences)
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
    for name in sorted(theirs.sequences.keys() - sequences.keys()):
        if before := draft.entry("sequence", name):
            sequences[name] = msgspec.convert({**before.shape, "owned_by": None}, Sequence)
            relations.bring_back_sequence(draft, name, before, sequences[name])
    for name in sorted(theirs.tables.keys() - tables.keys()):
        if before := draft.entry("table", name):
            tables[name] = msgspec.convert(before.shape, Table)
            relations.bring_back_table(draft, name, before, tables[name])
    for table in sorted(theirs.tables.keys() & mine.tables.keys()):
        columns_ = dict(tables[table].columns)
        for name, shape_ in sorted(theirs.tables[table].columns.items()):
            before = draft.entry("column", f"{table}.{name}")
            if before is not None and name not in columns_ and shape_.generated is None:
                held = msgspec.convert(before.shape, Column)
                columns_[name] = msgspec.structs.replace(held, not_null=bool(held.identity))
                columns.bring_back(draft, table, name, before, columns_[name])
        tables[table] = msgspec.structs.replace(tables[table], columns=columns_)
    draft.source = msgspec.structs.replace(mine, enums=enums, domains=domains, sequences=sequences, tables=tables)


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

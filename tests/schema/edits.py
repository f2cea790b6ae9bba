"""Pairs of related schemas: the second is what 1 to 8 edits make of the first.

Nothing is renamed. What depends on something that goes, goes too, as it would in a real change of release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import strategies as make
from hypothesis import strategies as st
from msgspec.structs import replace
from strategies import Draw

from kattegat.schema.ddl import name, split_column
from kattegat.schema.shape import Column, Enum, Snapshot

# Types whose checks, indexes and expressions mean the same for each other.
KIN = (
    ("smallint", "integer", "bigint"),
    ("text", "character varying(8)", "character varying(3)"),
    ("numeric", "numeric(10,3)", "numeric(5,0)"),
    ("json", "jsonb"),
    ("date", "timestamp without time zone", "timestamp with time zone"),
    ("real", "double precision"),
    ("inet", "cidr"),
)


# --- taking away


def without_views(s: Snapshot, gone: Iterable[str]) -> Snapshot:
    """Without the views and functions that use any of these names, and those that use them in turn."""
    names = set(gone)
    while True:
        views = {key for key, view in s.views.items() if names & {*view.uses, key}}
        functions = {key for key, function in s.functions.items() if names & {*function.uses, key}}
        if not views and not functions:
            return s
        s = replace(
            s,
            views={key: view for key, view in s.views.items() if key not in views},
            functions={key: one for key, one in s.functions.items() if key not in functions},
        )
        for function in functions:
            s = without_calls(s, function)
        names |= views | functions


def without_calls(s: Snapshot, used: str) -> Snapshot:
    """Without the parts of tables that use a function, sequence or type; defaults go, and columns stay where able."""
    for table in sorted(s.tables):
        shape = s.tables[table]
        for key, column in sorted(shape.columns.items()):
            if used in column.uses and column.generated is not None:
                s = without_column(s, table, key)
        shape = s.tables[table]
        s = make._put(
            s,
            table,
            columns={
                key: replace(one, default=None, uses=()) if used in one.uses else one
                for key, one in shape.columns.items()
            },
            constraints={key: one for key, one in shape.constraints.items() if used not in one.uses},
            triggers={key: one for key, one in shape.triggers.items() if used != one.function},
        )
    return s


def without_constraint(s: Snapshot, table: str, own: str) -> Snapshot:
    """Without a constraint; a key takes the foreign keys that refer to its columns with it."""
    gone = s.tables[table].constraints[own]
    s = make._put(s, table, constraints={k: v for k, v in s.tables[table].constraints.items() if k != own})
    if gone.kind not in ("primary key", "unique"):
        return s
    for other, shape in sorted(s.tables.items()):
        kept = {
            key: one
            for key, one in shape.constraints.items()
            if one.references != table or set(one.referenced) != set(gone.columns)
        }
        s = make._put(s, other, constraints=kept)
    return s


def without_column(s: Snapshot, table: str, key: str) -> Snapshot:
    """Without a column and everything that reads it."""
    s = without_dependents(s, table, key)
    if key not in s.tables[table].columns:
        return s
    shape = s.tables[table]
    sequences = {
        own: one
        for own, one in s.sequences.items()
        if one.owned_by is None or split_column(one.owned_by, s.tables) != (table, key)
    }
    gone = s.sequences.keys() - sequences.keys()
    s = make._put(
        s,
        table,
        columns={k: v for k, v in shape.columns.items() if k != key},
        column_grants={k: v for k, v in shape.column_grants.items() if k != key},
    )
    for own in sorted(gone):
        s = without_calls(s, own)
    return replace(s, sequences=sequences)


def without_dependents(s: Snapshot, table: str, key: str) -> Snapshot:
    """A column alone: without what reads it."""
    for own, one in sorted(s.tables[table].constraints.items()):
        if key in one.columns and own in s.tables[table].constraints:
            s = without_constraint(s, table, own)
    for other, column in sorted(s.tables[table].columns.items()):
        if column.generated is not None and key in column.uses and other in s.tables[table].columns:
            s = without_column(s, table, other)
    shape = s.tables[table]
    s = make._put(
        s,
        table,
        indexes={k: v for k, v in shape.indexes.items() if key not in v.columns},
        triggers={k: v for k, v in shape.triggers.items() if key not in v.columns},
        policies={k: v for k, v in shape.policies.items() if key not in v.columns},
    )
    return without_views(s, [f"{table}.{key}"])


def without_table(s: Snapshot, table: str) -> Snapshot:
    """Without a table and everything that reads it."""
    s = without_views(s, [table])
    for key in sorted(s.tables[table].columns):
        s = without_column(s, table, key)
    for own, one in sorted(s.tables[table].constraints.items()):
        if one.kind in ("primary key", "unique"):
            s = without_constraint(s, table, own)
    return replace(s, tables={key: shape for key, shape in s.tables.items() if key != table})


# --- edits: each takes the schema and gives another (or the same, where there is nothing to do)


def _table(draw: Draw, s: Snapshot) -> str | None:
    return draw(st.sampled_from(sorted(s.tables))) if s.tables else None


def _one(draw: Draw, names: Iterable[str]) -> str | None:
    found = sorted(names)
    return draw(st.sampled_from(found)) if found else None


def _column(draw: Draw, s: Snapshot, wanted: Callable[[Column], bool]) -> tuple[str, str] | None:
    pairs = [
        (table, key)
        for table, shape in sorted(s.tables.items())
        for key, one in sorted(shape.columns.items())
        if wanted(one)
    ]
    return draw(st.sampled_from(pairs)) if pairs else None


def _set(s: Snapshot, table: str, key: str, **changes: object) -> Snapshot:
    columns = s.tables[table].columns
    return make._put(s, table, columns={**columns, key: replace(columns[key], **changes)})


def drop_table(draw: Draw, s: Snapshot) -> Snapshot:
    table = _table(draw, s)
    return without_table(s, table) if table and len(s.tables) > 1 else s


def on_table(draw: Draw, s: Snapshot) -> Snapshot:
    """One more of something: a column, key, check, index, trigger, policy, or other rights."""
    table = _table(draw, s)
    return draw(st.sampled_from([make.add_key, *make.ON_TABLE]))(draw, s, table) if table else s


def add_column(draw: Draw, s: Snapshot) -> Snapshot:
    table = _table(draw, s)
    return make.add_column(draw, s, table) if table else s


def drop_column(draw: Draw, s: Snapshot) -> Snapshot:
    found = _column(draw, s, lambda one: True)
    if found is None or s.tables[found[0]].partition:
        return s
    return without_column(s, *found)


def drop_constraint(draw: Draw, s: Snapshot) -> Snapshot:
    pairs = [(table, key) for table, shape in sorted(s.tables.items()) for key in sorted(shape.constraints)]
    return without_constraint(s, *draw(st.sampled_from(pairs))) if pairs else s


def drop_part(draw: Draw, s: Snapshot) -> Snapshot:
    """An index, trigger or policy."""
    parts = [
        (table, part, key)
        for table, shape in sorted(s.tables.items())
        for part in ("indexes", "triggers", "policies")
        for key in sorted(getattr(shape, part))
    ]
    if not parts:
        return s
    table, part, gone = draw(st.sampled_from(parts))
    return make._put(s, table, **{part: {k: v for k, v in getattr(s.tables[table], part).items() if k != gone}})


def change_type(draw: Draw, s: Snapshot) -> Snapshot:
    """To a kindred type with everything that reads it left as it is, or to any type without."""
    found = _column(draw, s, lambda one: one.generated is None and not one.identity)
    if found is None or s.tables[found[0]].partition:
        return s
    table, key = found
    have = s.tables[table].columns[key]
    kin = next((types for types in KIN if have.type in types), ())
    if kin and draw(st.integers(0, 2)) > 0:
        type_ = draw(st.sampled_from([one for one in kin if one != have.type]))
        for own, one in sorted(s.tables[table].constraints.items()):
            # The other side would have to change with it; a call would not find its function.
            if one.kind == "foreign key" and key in one.columns:
                s = without_constraint(s, table, own)
            elif own in s.tables[table].constraints and key in one.columns:
                s = without_constraint(s, table, own) if one.uses or one.kind in ("primary key", "unique") else s
        for other, column in sorted(s.tables[table].columns.items()):
            if key in column.uses and len(column.uses) > 1:
                s = without_column(s, table, other)
        if "json" in (type_, have.type) or "cidr" in (type_, have.type):
            s = without_dependents(s, table, key)
    else:
        s = without_dependents(s, table, key)
        type_ = draw(st.sampled_from(make._types(s)))
    default, uses = make._default(draw, s, type_) if have.default is not None else (None, ())
    return _set(s, table, key, type=type_, default=default, uses=uses, collation=None)


def change_not_null(draw: Draw, s: Snapshot) -> Snapshot:
    found = _column(draw, s, lambda one: not one.identity)
    if found is None:
        return s
    table, key = found
    keys = [one for one in s.tables[table].constraints.values() if one.kind == "primary key" and key in one.columns]
    return s if keys else _set(s, table, key, not_null=not s.tables[table].columns[key].not_null)


def change_default(draw: Draw, s: Snapshot) -> Snapshot:
    found = _column(draw, s, lambda one: one.generated is None and not one.identity)
    if found is None:
        return s
    table, key = found
    column = s.tables[table].columns[key]
    default, uses = make._default(draw, s, column.type) if draw(st.integers(0, 2)) else (None, ())
    return _set(s, table, key, default=default, uses=uses)


def change_identity(draw: Draw, s: Snapshot) -> Snapshot:
    found = _column(
        draw, s, lambda one: one.type in make.INTEGERS and one.not_null and one.default is None and not one.generated
    )
    if found is None or s.tables[found[0]].partition:
        return s
    have = s.tables[found[0]].columns[found[1]].identity
    return _set(s, *found, identity=draw(st.sampled_from([x for x in ("", "always", "by default") if x != have])))


def change_collation(draw: Draw, s: Snapshot) -> Snapshot:
    found = _column(draw, s, lambda one: one.type == "text" and one.generated is None)
    if found is None:
        return s
    table, key = found
    s = without_dependents(s, table, key)
    have = s.tables[table].columns[key]
    return _set(s, table, key, collation=None if have.collation else "pg_catalog.C")


def change_trigger(draw: Draw, s: Snapshot) -> Snapshot:
    pairs = [(table, key) for table, shape in sorted(s.tables.items()) for key in sorted(shape.triggers)]
    if not pairs:
        return s
    table, key = draw(st.sampled_from(pairs))
    triggers = s.tables[table].triggers
    states = [one for one in ("origin", "always", "replica", "disabled") if one != triggers[key].enabled]
    return make._put(
        s, table, triggers={**triggers, key: replace(triggers[key], enabled=draw(st.sampled_from(states)))}
    )


def change_security(draw: Draw, s: Snapshot) -> Snapshot:
    table = _table(draw, s)
    return make._put(s, table, row_security=draw(st.booleans()), forced=draw(st.booleans())) if table else s


def change_options(draw: Draw, s: Snapshot) -> Snapshot:
    table = _table(draw, s)
    if table is None or s.tables[table].partition:
        return s
    return make._put(s, table, options=draw(st.sampled_from([(), ("fillfactor=70",), ("fillfactor=90",)])))


def _labels_used(s: Snapshot, enum: str) -> Snapshot:
    """Without the constants of a type that is about to change: defaults, and checks of domains over it."""
    s = without_calls(s, enum)
    domains = {
        key: replace(one, default=None, checks={}) if one.type == name(enum) else one for key, one in s.domains.items()
    }
    return replace(s, domains=domains)


def change_enum(draw: Draw, s: Snapshot) -> Snapshot:
    enum = _one(draw, s.enums)
    if enum is None:
        return s
    labels = draw(st.lists(st.sampled_from([*make.LABELS, "new"]), min_size=1, max_size=5, unique=True))
    return replace(_labels_used(s, enum), enums={**s.enums, enum: Enum(labels=tuple(labels))})


def drop_type(draw: Draw, s: Snapshot) -> Snapshot:
    own = _one(draw, [*s.enums, *s.domains])
    if own is None:
        return s
    for domain in sorted(one for one, shape in s.domains.items() if shape.type == name(own)):
        s = _without_type(s, domain)
    return _without_type(s, own)


def _without_type(s: Snapshot, own: str) -> Snapshot:
    for table in sorted(s.tables):
        for key in sorted(s.tables[table].columns):
            if key in s.tables[table].columns and s.tables[table].columns[key].type == name(own):
                s = without_column(s, table, key)
    return replace(
        s,
        enums={key: one for key, one in s.enums.items() if key != own},
        domains={key: one for key, one in s.domains.items() if key != own},
    )


def change_domain(draw: Draw, s: Snapshot) -> Snapshot:
    own = _one(draw, s.domains)
    if own is None:
        return s
    have = s.domains[own]
    empty = "0" if have.type == "integer" else ""
    checks = {} if have.checks else {"other": f"CHECK (VALUE::text <> '{empty}')"}
    return replace(s, domains={**s.domains, own: replace(have, checks=checks)})


def drop_view(draw: Draw, s: Snapshot) -> Snapshot:
    own = _one(draw, s.views)
    return without_views(s, [own]) if own else s


def change_function(draw: Draw, s: Snapshot) -> Snapshot:
    """Another body under the same signature."""
    own = _one(draw, [key for key in s.functions if "make" in key or "twice" in key or "touch" in key])
    if own is None:
        return s
    have = s.functions[own]
    body = have.definition.replace("$$ SELECT ", "$$ SELECT /* changed */ ").replace("BEGIN ", "BEGIN /* changed */ ")
    return replace(s, functions={**s.functions, own: replace(have, definition=body)})


def drop_function(draw: Draw, s: Snapshot) -> Snapshot:
    own = _one(draw, s.functions)
    return without_views(s, [own]) if own else s


def change_sequence(draw: Draw, s: Snapshot) -> Snapshot:
    own = _one(draw, [key for key, one in s.sequences.items() if one.owned_by is None])
    if own is None:
        return s
    have = s.sequences[own]
    if draw(st.integers(0, 2)) == 0:
        return replace(s, sequences={key: one for key, one in s.sequences.items() if key != own})
    changed = replace(have, increment=draw(st.sampled_from([1, 2, 7])), cycle=not have.cycle, grants={})
    return replace(s, sequences={**s.sequences, own: changed})


EDITS: list[Callable[[Draw, Snapshot], Snapshot]] = [
    make.add_table,
    make.add_enum,
    make.add_domain,
    make.add_function,
    make.add_sequence,
    make.add_view,
    drop_table,
    on_table,
    on_table,
    on_table,
    add_column,
    add_column,
    drop_column,
    drop_column,
    drop_constraint,
    drop_part,
    change_type,
    change_type,
    change_not_null,
    change_default,
    change_identity,
    change_collation,
    change_trigger,
    change_security,
    change_options,
    change_enum,
    drop_type,
    change_domain,
    drop_view,
    change_function,
    drop_function,
    change_sequence,
]


@st.composite
def pairs(
    draw: Draw, most_tables: int = 4, most_edits: int = 8, partitioned: bool = False
) -> tuple[Snapshot, Snapshot]:
    """Two related schemas, older and newer."""
    first = draw(make.schemas(most_tables=most_tables, partitioned=partitioned))
    return first, draw(edited(first, most_edits))


@st.composite
def edited(draw: Draw, first: Snapshot, most_edits: int = 8) -> Snapshot:
    """What 1 to 8 edits make of a schema."""
    second = first
    for edit in draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=most_edits)):
        second = edit(draw, second)
    return second

"""A whole schema as SQL, in an order in which everything is there before it is used."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from msgspec.structs import replace

from kattegat.schema.ddl import (
    BODIES_UNCHECKED,
    CannotBuildError,
    add_column,
    add_constraint,
    create_domain,
    create_enum,
    create_index,
    create_policy,
    create_sequence,
    create_table,
    create_trigger,
    create_view,
    grants,
    ident,
    own_sequence,
    row_security,
    schema_of,
    set_default,
    set_owner,
    split_column,
    table_grants,
    usual_grants,
)
from kattegat.schema.shape import Column, Snapshot, Table


def statements(snapshot: Snapshot) -> list[str]:
    """See `ddl.build`."""
    if snapshot.other:
        raise CannotBuildError(snapshot.other)
    made = _ordered(snapshot)
    tables, views = sorted(snapshot.tables.items()), sorted(snapshot.views.items())
    for table, shape in tables:
        for key, value in sorted(shape.columns.items()):
            if value.default is not None and not _plain(value, snapshot):
                made.append(set_default(table, key, value.default))
        for key, constraint in sorted(shape.constraints.items()):
            if constraint.kind not in ("primary key", "foreign key"):
                made.append(add_constraint(table, key, constraint, not_valid=not constraint.valid))
    indexed = [*(one.indexes for _, one in tables), *(one.indexes for _, one in views)]
    made += [create_index(index) for one in indexed for _, index in sorted(one.items())]
    # Last of the constraints: a foreign key may refer to any unique index, and two tables to each other.
    for table, shape in tables:
        for key, constraint in sorted(shape.constraints.items()):
            if constraint.kind == "foreign key":
                made.append(add_constraint(table, key, constraint, not_valid=not constraint.valid))
    for table, shape in tables:
        for key, trigger in sorted(shape.triggers.items()):
            made += create_trigger(table, key, trigger)
        made += [create_policy(table, key, policy) for key, policy in sorted(shape.policies.items())]
        if shape.row_security or shape.forced:
            made += row_security(table, shape.row_security, shape.forced)
    return made + _owned(snapshot)


def _ordered(snapshot: Snapshot) -> list[str]:
    """What others are made of, each after what it uses: schemas, sequences, types, bare tables, functions, views."""
    made: list[str] = []
    everything = [*snapshot.tables, *snapshot.sequences, *snapshot.enums, *snapshot.domains, *snapshot.views]
    schemas = {schema_of(one) for one in (*everything, *snapshot.functions)} - {"public"}
    made += [f"CREATE SCHEMA IF NOT EXISTS {ident(schema)}" for schema in sorted(schemas)]
    for extension in snapshot.extensions:
        schema, _, own = extension.rpartition(".")
        # Not WITH SCHEMA: some have one of their own, and refuse to hear of another.
        made.append(f"SET LOCAL search_path = {ident(schema or 'public')}")
        made.append(f"CREATE EXTENSION IF NOT EXISTS {ident(own)} CASCADE")
    made += [create_sequence(key, value) for key, value in sorted(snapshot.sequences.items())]
    made.append(BODIES_UNCHECKED)
    nodes: dict[str, tuple[list[str], set[str]]] = {}
    kinds = (*snapshot.enums, *snapshot.domains, *snapshot.tables, *snapshot.views)
    types = {words: key for key in kinds for words in _printed(key)}
    calls = {words + "(": key for key in snapshot.functions for words in _printed(key[: key.rindex("(")])}
    mentioned = {words: key for words, key in (types | calls).items() if key not in snapshot.tables}

    def of_type(text: str) -> set[str]:
        found = types.get(text.removesuffix("[]"))
        return {found} if found else set()

    for key, enum in snapshot.enums.items():
        nodes[key] = [create_enum(key, enum)], set()
    for key, domain in snapshot.domains.items():
        # Whole at once: no check can be added to a domain that a column has an array of.
        texts = " ".join((domain.type, domain.default or "", *domain.checks.values()))
        nodes[key] = [create_domain(key, domain)], {one for words, one in mentioned.items() if words in texts} - {key}
    for key, table in snapshot.tables.items():
        bare = {
            column_name: value if _plain(value, snapshot) else replace(value, default=None)
            for column_name, value in table.columns.items()
            if value.generated is None
        }
        after = {one for value in bare.values() for one in of_type(value.type)}
        nodes[key] = [create_table(key, replace(table, columns=bare))], after - {key}
        for column_name, value in table.columns.items():
            if value.generated is not None:
                uses = {one for one in value.uses if one in snapshot.functions} | of_type(value.type)
                nodes[f"{key}.{column_name}"] = [add_column(key, column_name, value)], {key, *uses}
        for constraint_name, constraint in table.constraints.items():
            if constraint.kind == "primary key":
                keys = {f"{key}.{one}" for one in constraint.columns}
                nodes[_key(key)] = [add_constraint(key, constraint_name, constraint)], {key, *keys}
    for key, function in snapshot.functions.items():
        nodes[key] = [function.definition], _with_keys(function.uses)
    for key, view in snapshot.views.items():
        nodes[key] = [create_view(key, view, with_data=False)], _with_keys(view.uses)
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for key, (_, after) in sorted(nodes.items()):
        sorter.add(key, *sorted(after & nodes.keys()))
    try:
        for key in sorter.static_order():
            made += nodes[key][0]
    except CycleError as problem:
        raise CannotBuildError([f"a circle of uses ({' -> '.join(problem.args[1])})"]) from problem
    return made


def _key(table: str) -> str:
    return f"the key of {table}"


def _with_keys(uses: Iterable[str]) -> set[str]:
    """What a query uses, and the primary keys of the tables: it may group by one and show other columns."""
    return {*uses, *(_key(one) for one in uses)}


def _printed(qualified: str) -> list[str]:
    """The ways in which PostgreSQL may print it: each part in quotes only where it must be."""
    schema, _, rest = qualified.partition(".")
    return [f"{one}.{other}" for one in (schema, ident(schema)) for other in (rest, ident(rest))]


def _plain(value: Column, snapshot: Snapshot) -> bool:
    """Whether a default can stand in CREATE TABLE: it uses nothing but sequences, which are there first."""
    return all(one in snapshot.sequences for one in value.uses)


def _owned(snapshot: Snapshot) -> list[str]:
    """Owners first: rights are granted by the owner, and a sequence has the owner of its column's table."""
    made: list[str] = []
    owned: list[tuple[str, str, str]] = []
    owned += [(key, "type", value.owner) for key, value in snapshot.enums.items()]
    owned += [(key, "domain", value.owner) for key, value in snapshot.domains.items()]
    owned += [(key, "table", value.owner) for key, value in snapshot.tables.items()]
    owned += [(key, "sequence", value.owner) for key, value in snapshot.sequences.items()]
    owned += [(key, value.kind, value.owner) for key, value in snapshot.functions.items()]
    owned += [
        (key, "materialized view" if value.materialized else "view", value.owner)
        for key, value in snapshot.views.items()
    ]
    made += [set_owner(*one) for one in owned if one[2]]
    for key, sequence in sorted(snapshot.sequences.items()):
        if sequence.owned_by is not None:
            made.append(own_sequence(key, split_column(sequence.owned_by, snapshot.tables)))
        made += grants(key, "sequence", {}, sequence.grants)
    for key, table in sorted(snapshot.tables.items()):
        made += table_grants(key, Table(columns={}), table)
    for key, view in sorted(snapshot.views.items()):
        made += grants(key, "view", {}, view.grants)
    for key, function in sorted(snapshot.functions.items()):
        made += grants(key, function.kind, usual_grants(function.kind), function.grants)
    return made

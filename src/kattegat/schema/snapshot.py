"""Reads a schema from pg_catalog into a `Snapshot`.

Left out: what change of release leaves behind (`lifecycle`, `parked`, parked columns, our triggers), partitions, what
belongs to an extension, and how rows are kept (storage, compression, statistics targets, tablespaces, replica identity,
an index's options where it belongs to a constraint), comments, and default privileges. A function or view is known to
use what pg_depend records; what a string body names is known to nobody.

An index of a partitioned table is shown without `ONLY`, so that its definition makes the partitions' indexes too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row

from kattegat.schema import catalog
from kattegat.schema.shape import (
    OUR_TRIGGER,
    PARKED_COLUMN,
    Column,
    Constraint,
    Domain,
    Enum,
    Function,
    Grants,
    Index,
    Policy,
    Sequence,
    Snapshot,
    Table,
    Trigger,
    View,
)

_CONSTRAINTS: dict[str, Any] = {
    "p": "primary key",
    "u": "unique",
    "c": "check",
    "f": "foreign key",
    "x": "exclude",
}
_ENABLED: dict[str, Any] = {"O": "origin", "A": "always", "R": "replica", "D": "disabled"}
_COMMANDS: dict[str, Any] = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_IDENTITY: dict[str, Any] = {"": "", "a": "always", "d": "by default"}
_LARGEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


def read(connection: Connection, schemas: Iterable[str] = ("public",)) -> Snapshot:
    """The shape of these schemas. A fixed number of queries; the session's settings are as before afterwards."""
    asked = tuple(schemas)
    with catalog.settled(connection):
        return _Reader(connection, asked).snapshot()


class _Reader:
    """One reading: the rows of every query, and names by oid."""

    def __init__(self, connection: Connection, schemas: tuple[str, ...]) -> None:
        def ask(query: str) -> list[Row[Any]]:
            return catalog.ask(connection, query, schemas)

        self.schemas = schemas
        self.relations = {row.oid: row for row in ask(catalog.RELATIONS)}
        self.columns: dict[int, dict[int, Row[Any]]] = defaultdict(dict)
        for row in ask(catalog.COLUMNS):
            self.columns[row.relation][row.number] = row
        self.types = {row.oid: row for row in ask(catalog.TYPES)}
        self.functions = {row.oid: row for row in ask(catalog.FUNCTIONS)}
        self.sequences = {row.oid: row for row in ask(catalog.SEQUENCES)}
        self.rules = ask(catalog.RULES)
        self.constraints = _by_relation(ask(catalog.CONSTRAINTS))
        self.indexes = _by_relation(ask(catalog.INDEXES))
        self.triggers = _by_relation(ask(catalog.TRIGGERS))
        self.policies = _by_relation(ask(catalog.POLICIES))
        self.extensions = tuple(sorted(row.name for row in ask(catalog.EXTENSIONS)))
        self.other = {row.words for row in ask(catalog.ODDS)}
        self.depends: dict[tuple[str, int], list[Row[Any]]] = defaultdict(list)
        for row in ask(catalog.DEPENDS):
            self.depends[row[0], row.oid].append(row)

    def snapshot(self) -> Snapshot:
        tables, views = {}, {}
        for oid, row in self.relations.items():
            if row.schema not in self.schemas or row.of_extension or row.is_partition or row.persistence == "t":
                continue
            if row.relkind in ("r", "p"):
                tables[row.name] = self.table(oid, row)
            elif row.relkind in ("v", "m"):
                views[row.name] = self.view(oid, row)
            else:
                self.other.add(f"the {'foreign table' if row.relkind == 'f' else 'composite type'} {row.name}")
        for rule in self.rules:
            relation = self.relations.get(rule.relation)
            if not rule.of_view and relation is not None and not relation.of_extension:
                self.other.add(f"the rule {rule.name} of {relation.name}")
        enums, domains = self.enums_and_domains()
        return Snapshot(
            tables=tables,
            sequences=self.free_sequences(),
            enums=enums,
            domains=domains,
            views=views,
            functions=self.routines(),
            extensions=self.extensions,
            other=tuple(sorted(self.other)),
        )

    def table(self, oid: int, row: Row[Any]) -> Table:
        if row.typed:
            self.other.add(f"the type that {row.name} is a table of")
        self.check_owner(row)
        columns = {n: c for n, c in self.columns[oid].items() if not re.search(PARKED_COLUMN, c.name)}
        return Table(
            columns={column.name: self.column(row.name, column) for column in columns.values()},
            constraints={k.name: self.constraint(row.name, k) for k in self.constraints[oid]},
            indexes={i.name: self.index(i) for i in self.indexes[oid]},
            triggers={t.name: self.trigger(t) for t in self.triggers[oid] if not re.search(OUR_TRIGGER, t.name)},
            policies={p.name: self.policy(p) for p in self.policies[oid]},
            owner=row.owner,
            unlogged=row.persistence == "u",
            partition=row.partition,
            row_security=row.row_security,
            forced=row.forced,
            options=tuple(sorted(row.options or ())),
            grants=_grants(row.grants),
            column_grants={c.name: _grants(c.grants) for c in columns.values() if c.grants},
        )

    def column(self, table: str, row: Row[Any]) -> Column:
        generated = row.expression if row.generated == "s" else None
        if row.generated not in ("", "s"):
            self.other.add(f"the virtual generated column {table}.{row.name}")
        called = set(self.uses("pg_attrdef", row.default_oid, relations=False))
        if generated:
            called |= set(self.own_columns("pg_attrdef", row.default_oid, row.relation)) - {row.name}
        return Column(
            type=row.type,
            not_null=row.not_null,
            default=row.expression if row.generated == "" else None,
            identity=_IDENTITY[row.identity],
            generated=generated,
            collation=row.collation,
            uses=tuple(sorted(called)),
        )

    def constraint(self, table: str, row: Row[Any]) -> Constraint:
        if row.period:
            self.other.add(f"the constraint {row.name} of {table} over a period")
        if not row.enforced:
            self.other.add(f"the constraint {row.name} of {table} that is not enforced")
        if row.kind == "c" and 0 in (row.numbers or ()):
            self.other.add(f"the check {row.name} of {table}, which reads the whole row")
        keys = [self.columns[row.relation][n].name for n in row.numbers or () if n > 0]
        read = set(self.own_columns("pg_constraint", row.oid, row.relation))
        if row.kind == "x":
            read.update(self.own_columns("pg_class", row.index_oid, row.relation))
        target = self.relations[row.target] if row.target else None
        return Constraint(
            kind=_CONSTRAINTS[row.kind],
            definition=row.definition.removesuffix(" NOT VALID"),
            columns=tuple(sorted(read) if row.kind in ("c", "x") else keys),
            references=target.name if target else None,
            referenced=tuple(self.columns[row.target][n].name for n in row.target_numbers or ()),
            expression=row.expression if row.kind == "c" else None,
            nulls_not_distinct=row.nulls_not_distinct,
            valid=row.valid or not row.enforced,
            uses=self.uses("pg_constraint", row.oid, relations=False),
        )

    def index(self, row: Row[Any]) -> Index:
        numbered = self.columns[row.relation]
        read = {numbered[n].name for n in row.numbers if n > 0}
        read.update(self.own_columns("pg_class", row.oid, row.relation))
        return Index(
            definition=re.sub(r"^(CREATE (?:UNIQUE )?INDEX .*?) ON ONLY ", r"\1 ON ", row.definition, flags=re.S),
            columns=tuple(sorted(read)),
            unique=row.unique,
            keys=tuple(row.key_texts),
            predicate=row.predicate,
            nulls_not_distinct=row.nulls_not_distinct,
            valid=row.valid,
            uses=self.uses("pg_class", row.oid, relations=False),
        )

    def trigger(self, row: Row[Any]) -> Trigger:
        numbered = self.columns[row.relation]
        read = {numbered[n].name for n in row.numbers}
        read.update(self.own_columns("pg_trigger", row.oid, row.relation))
        return Trigger(
            definition=row.definition,
            function=self.function_name(row.function),
            columns=tuple(sorted(read)),
            enabled=_ENABLED[row.enabled],
        )

    def policy(self, row: Row[Any]) -> Policy:
        table = self.relations[row.relation].name
        return Policy(
            command=_COMMANDS[row.command],
            permissive=row.permissive,
            roles=tuple(sorted(row.roles)),
            using=row.using,
            check=row.check,
            columns=tuple(self.own_columns("pg_policy", row.oid, row.relation)),
            uses=tuple(
                name for name in self.uses("pg_policy", row.oid) if name != table and not name.startswith(f"{table}.")
            ),
        )

    def view(self, oid: int, row: Row[Any]) -> View:
        self.check_owner(row)
        for trigger in self.triggers[oid]:
            self.other.add(f"the trigger {trigger.name} of the view {row.name}")
        used: set[str] = set()
        for rule in self.rules:
            if rule.relation == oid:
                used.update(self.uses("pg_rewrite", rule.oid))
        return View(
            definition=row.definition.strip().removesuffix(";"),
            materialized=row.relkind == "m",
            columns=tuple(column.name for column in self.columns[oid].values()),
            indexes={i.name: self.index(i) for i in self.indexes[oid]},
            uses=tuple(sorted(name for name in used if name != row.name and not name.startswith(f"{row.name}."))),
            options=tuple(sorted(row.options or ())),
            owner=row.owner,
            grants=_grants(row.grants),
        )

    def free_sequences(self) -> dict[str, Sequence]:
        found = {}
        for row in self.sequences.values():
            relation = self.relations.get(row.relation) if row.relation else None
            if not row.asked or (relation is not None and relation.is_partition):
                continue
            if row.deptype == "i":
                usual = (1, 1, 1, _LARGEST.get(row.type), 1, False)
                if (row.start, row.increment, row.minimum, row.maximum, row.cache, row.cycle) != usual and relation:
                    column = self.columns[row.relation][row.number].name
                    self.other.add(f"the options of the identity column {relation.name}.{column}")
                continue
            self.check_owner(row)
            owned = f"{relation.name}.{self.columns[row.relation][row.number].name}" if relation else None
            found[row.name] = Sequence(
                type=row.type,
                start=row.start,
                increment=row.increment,
                minimum=row.minimum,
                maximum=row.maximum,
                cache=row.cache,
                cycle=row.cycle,
                owned_by=owned,
                owner=row.owner,
                grants=_grants(row.grants),
            )
        return found

    def enums_and_domains(self) -> tuple[dict[str, Enum], dict[str, Domain]]:
        enums, domains = {}, {}
        for row in self.types.values():
            # A row type belongs to its relation, an array or multirange type to its element.
            if not row.asked or row.of_extension or row.kind in ("c", "m") or row.element:
                continue
            if not row.usual_grants:
                self.other.add(f"the rights on the type {row.name}")
            if row.kind == "e":
                enums[row.name] = Enum(labels=tuple(row.labels), owner=row.owner)
            elif row.kind == "d":
                if any(check.endswith(" NOT VALID") for check in row.checks.values()):
                    self.other.add(f"the check of the domain {row.name} that is not validated")
                domains[row.name] = Domain(
                    type=row.base,
                    not_null=row.not_null,
                    default=row.expression,
                    collation=row.collation,
                    checks=dict(row.checks),
                    owner=row.owner,
                )
            else:
                self.other.add(f"the {'range type' if row.kind == 'r' else 'base type'} {row.name}")
        return enums, domains

    def routines(self) -> dict[str, Function]:
        found = {}
        for oid, row in self.functions.items():
            if not row.asked or row.of_extension or self.of_range(oid):
                continue
            if row.kind not in ("f", "p"):
                self.other.add(f"the {'aggregate' if row.kind == 'a' else 'window function'} {row.name}")
                continue
            self.check_owner(row)
            found[row.name] = Function(
                definition=row.definition.rstrip("\n"),
                kind="procedure" if row.kind == "p" else "function",
                returns=row.returns or "",
                uses=tuple(name for name in self.uses("pg_proc", oid) if name != row.name),
                owner=row.owner,
                grants=_grants(row.grants),
            )
        return found

    def of_range(self, oid: int) -> bool:
        """Whether this is the constructor of a range type, which comes and goes with its type."""
        return any(d.ref_class == "pg_type" and d.kind == "i" for d in self.depends.get(("pg_proc", oid), ()))

    def check_owner(self, row: Row[Any]) -> None:
        if not row.owner_whole:
            self.other.add(f"the rights that the owner of {row.name} has given up")

    def own_columns(self, kind: str, oid: int | None, relation: int) -> list[str]:
        """The columns of its own table that an object depends on, sorted."""
        numbered = self.columns[relation]
        return sorted(
            {
                numbered[d.ref_sub].name
                for d in (self.depends.get((kind, oid), ()) if oid else ())
                if d.ref_class == "pg_class" and d.ref == relation and d.ref_sub > 0
            }
        )

    def uses(self, kind: str, oid: int | None, relations: bool = True) -> tuple[str, ...]:
        """The functions and types an object uses, and with `relations` the tables, views and columns; sorted."""
        names: set[str] = set()
        for d in self.depends.get((kind, oid), ()) if oid else ():
            if d.ref_class == "pg_proc":
                names.add(self.function_name(d.ref))
            elif d.ref_class == "pg_type":
                names.add(self.type_name(d.ref))
            elif d.ref in self.sequences:
                names.add(self.sequences[d.ref].name)
            elif relations and d.ref in self.relations:
                name = self.relations[d.ref].name
                names.add(name)
                if d.ref_sub > 0:
                    names.add(f"{name}.{self.columns[d.ref][d.ref_sub].name}")
        return tuple(sorted(names - {""}))

    def function_name(self, oid: int) -> str:
        return self.functions[oid].name if oid in self.functions else ""

    def type_name(self, oid: int) -> str:
        row = self.types.get(oid)
        if row is None:
            return ""
        if row.element:
            return self.type_name(row.element)
        if row.relation:
            return self.relations[row.relation].name if row.relation in self.relations else ""
        return str(row.name)


def _by_relation(rows: list[Row[Any]]) -> dict[int, list[Row[Any]]]:
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.relation].append(row)
    return found


def _grants(pairs: list[list[str]]) -> Grants:
    found: dict[str, set[str]] = defaultdict(set)
    for role, privilege in pairs:
        found[role].add(privilege)
    return {role: tuple(sorted(privileges)) for role, privileges in found.items()}

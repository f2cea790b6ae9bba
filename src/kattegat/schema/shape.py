"""The exact shape of a schema as data: what `snapshot.read` gives and `planner.plan` compares.

Names are qualified by their schema and unquoted (`public.task`; a function with its argument types:
`public.f(integer)`). Expressions and definitions are texts as PostgreSQL prints them with an empty search_path, so they
compare only between
snapshots of one server version: build the expected shape in a scratch database on the same server, and read it there.
The order of columns is no part of a shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

# What change of release leaves behind, and equality leaves out: our schemas, parked columns, our triggers.
OUR_SCHEMAS = ("lifecycle", "parked")
PARKED_COLUMN = r"^_p[0-9]+$"
OUR_TRIGGER = r"^_kat_"

Grants = dict[str, tuple[str, ...]]  # role (or PUBLIC) -> sorted privileges; " WITH GRANT OPTION" is part of the word


class Column(Struct, frozen=True, omit_defaults=True):
    """A column of a table. `default` is the expression, or None; `generated` the expression of a stored one."""

    type: str
    not_null: bool = False
    default: str | None = None
    identity: Literal["", "always", "by default"] = ""
    generated: str | None = None
    collation: str | None = None  # only where it is not the type's own
    uses: tuple[
        str, ...
    ] = ()  # columns of the same table that `generated` reads; functions `default` calls: `public.f()`


class Constraint(Struct, frozen=True, omit_defaults=True):
    """A table constraint (NOT NULL is the column's), as `pg_get_constraintdef` prints it, without NOT VALID."""

    kind: Literal["primary key", "unique", "check", "foreign key", "exclude"]
    definition: str
    columns: tuple[str, ...] = ()  # in the order of the constraint; for a check those it reads
    references: str | None = None  # foreign key: the table
    referenced: tuple[str, ...] = ()  # foreign key: its columns there, in the order of `columns`
    expression: str | None = None  # check: the condition alone, fit for WHERE
    nulls_not_distinct: bool = False
    valid: bool = True
    uses: tuple[str, ...] = ()  # functions and types it calls


class Index(Struct, frozen=True, omit_defaults=True):
    """An index that belongs to no constraint, as `pg_get_indexdef` prints it."""

    definition: str
    columns: tuple[str, ...] = ()  # all it reads: keys, included, in expressions and the predicate
    unique: bool = False
    keys: tuple[str, ...] = ()  # key expressions in order, as printed; fit for a SELECT list
    predicate: str | None = None
    nulls_not_distinct: bool = False
    valid: bool = True
    uses: tuple[str, ...] = ()


class Trigger(Struct, frozen=True, omit_defaults=True):
    """A trigger, as `pg_get_triggerdef` prints it; `columns` are those of UPDATE OF and WHEN."""

    definition: str
    function: str
    columns: tuple[str, ...] = ()
    enabled: Literal["origin", "always", "replica", "disabled"] = "origin"


class Policy(Struct, frozen=True, omit_defaults=True):
    """A row-level security policy."""

    command: Literal["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"] = "ALL"
    permissive: bool = True
    roles: tuple[str, ...] = ("PUBLIC",)
    using: str | None = None
    check: str | None = None
    columns: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()  # functions and other tables it reads


class Table(Struct, frozen=True, omit_defaults=True):
    """A table. A partitioned one has `partition` (`RANGE (at)`); its partitions are no part of the shape."""

    columns: dict[str, Column]
    constraints: dict[str, Constraint] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    owner: str = ""
    unlogged: bool = False
    partition: str | None = None
    row_security: bool = False
    forced: bool = False
    options: tuple[str, ...] = ()
    grants: Grants = field(default_factory=dict)
    column_grants: dict[str, Grants] = field(default_factory=dict)


class Sequence(Struct, frozen=True, omit_defaults=True):
    """A sequence that is no identity column's own (that one belongs to its column)."""

    type: str = "bigint"
    start: int = 1
    increment: int = 1
    minimum: int = 1
    maximum: int = 9223372036854775807
    cache: int = 1
    cycle: bool = False
    owned_by: str | None = None  # `public.task.id`
    owner: str = ""
    grants: Grants = field(default_factory=dict)


class Enum(Struct, frozen=True, omit_defaults=True):
    """An enum type with its labels in order."""

    labels: tuple[str, ...]
    owner: str = ""


class Domain(Struct, frozen=True, omit_defaults=True):
    """A domain; `checks` are its constraints by name, as printed."""

    type: str
    not_null: bool = False
    default: str | None = None
    collation: str | None = None
    checks: dict[str, str] = field(default_factory=dict)
    owner: str = ""


class View(Struct, frozen=True, omit_defaults=True):
    """A view or materialised view; `uses` lists tables, views, columns (`public.task.id`) and functions it reads."""

    definition: str
    materialized: bool = False
    columns: tuple[str, ...] = ()
    indexes: dict[str, Index] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    owner: str = ""
    grants: Grants = field(default_factory=dict)


class Function(Struct, frozen=True, omit_defaults=True):
    """A function, procedure or trigger function, as `pg_get_functiondef` prints it."""

    definition: str
    kind: Literal["function", "procedure"] = "function"
    returns: str = ""
    uses: tuple[str, ...] = ()
    owner: str = ""
    grants: Grants = field(default_factory=dict)


class Snapshot(Struct, frozen=True, omit_defaults=True):
    """A whole schema. `other` names what there are no words for here (a composite type, a rule): never planned over."""

    tables: dict[str, Table] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    enums: dict[str, Enum] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    def document(self) -> bytes:
        """Canonical JSON: sorted keys, defaults left out; equal bytes mean equal shapes."""
        return msgspec.json.encode(self, order="deterministic")

    def fingerprint(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.document()).hexdigest()


def decode(document: bytes | str) -> Snapshot:
    """A snapshot from its document; raises `msgspec.ValidationError` for anything else."""
    return msgspec.json.decode(document, type=Snapshot)


def differences(have: Snapshot, want: Snapshot) -> list[str]:
    """What differs, one line each: `public.task.note: type is text, wanted character varying(64)`; empty when equal."""
    return list(_differences("", msgspec.to_builtins(have), msgspec.to_builtins(want)))


_KINDS = ("tables", "sequences", "enums", "domains", "views", "functions", "columns", "constraints", "indexes")
_THINGS = frozenset((*_KINDS, "triggers", "policies"))


def _differences(at: str, have: dict[str, Any], want: dict[str, Any]) -> Iterator[str]:
    for key in sorted(have.keys() | want.keys()):
        mine, theirs = have.get(key), want.get(key)
        if mine == theirs or key == "uses":
            continue
        # A constraint's `columns` are names alone.
        if key in _THINGS and isinstance(mine or theirs, dict):
            for name in sorted((mine or {}).keys() | (theirs or {}).keys()):
                one, other = (mine or {}).get(name), (theirs or {}).get(name)
                path = f"{at}.{name}" if at else name
                kind = (
                    key.removesuffix("s")
                    if key not in ("indexes", "policies")
                    else {"i": "index", "p": "policy"}[key[0]]
                )
                if one is None:
                    yield f"{path}: this {kind} is missing"
                elif other is None:
                    yield f"{path}: this {kind} is not expected"
                elif one != other:
                    yield from _differences(path, one, other)
        else:
            yield f"{at or 'schema'}: {key.replace('_', ' ')} is {_said(mine)}, wanted {_said(theirs)}"


def _said(value: Any) -> str:
    if value in (None, "", [], {}, ()):
        return "none"
    words = " ".join(str(value).split())
    return words if len(words) <= 200 else f"{words[:200]} ..."

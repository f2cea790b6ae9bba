"""SQL for each kind of object, and for a whole schema.

Texts from a snapshot are qualified throughout, so they mean the same under any search_path, and they hold no
placeholders: a `%` in them stands for itself, so double it for `exec_driver_sql`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kattegat.errors import KattegatError
from kattegat.schema.shape import (
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

# String bodies are checked when they are first called: what they name may not be there yet.
BODIES_UNCHECKED = "SET LOCAL check_function_bodies = off"
_OPTION = " WITH GRANT OPTION"
_ENABLE = {
    "origin": "ENABLE TRIGGER",
    "always": "ENABLE ALWAYS TRIGGER",
    "replica": "ENABLE REPLICA TRIGGER",
    "disabled": "DISABLE TRIGGER",
}


class CannotBuildError(KattegatError):
    """A schema that can't be made from its snapshot alone; `reasons` says why."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(f"This schema can't be built from its snapshot because of {'; '.join(self.reasons)}.")


def ident(name: str) -> str:
    """An identifier, always in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text constant, whatever standard_conforming_strings says."""
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in value else quoted


def name(qualified: str) -> str:
    """`public.task` in quotes: the first dot divides, since a schema's name here has none."""
    schema, _, rest = qualified.partition(".")
    return f"{ident(schema)}.{ident(rest)}" if rest else ident(schema)


def function_name(qualified: str) -> str:
    """`public.f(integer)` in quotes, with its argument types, which are SQL already."""
    cut = qualified.rindex("(")
    return name(qualified[:cut]) + qualified[cut:]


def schema_of(qualified: str) -> str:
    """The part before the first dot."""
    return qualified.partition(".")[0]


def beside(qualified: str, other: str) -> str:
    """The quoted name of something in the same schema: an index beside its table."""
    return f"{ident(schema_of(qualified))}.{ident(other)}"


# --- tables


def column(name_: str, shape: Column) -> str:
    """A column's definition, for CREATE TABLE and ADD COLUMN."""
    words = [ident(name_), shape.type]
    if shape.collation:
        words.append(f"COLLATE {name(shape.collation)}")
    if shape.generated is not None:
        words.append(f"GENERATED ALWAYS AS ({shape.generated}) STORED")
    elif shape.identity:
        words.append(f"GENERATED {shape.identity.upper()} AS IDENTITY")
    elif shape.default is not None:
        words.append(f"DEFAULT {shape.default}")
    if shape.not_null:
        words.append("NOT NULL")
    return " ".join(words)


def create_table(table: str, shape: Table) -> str:
    """The table with its columns, storage options and partition key; nothing else of it."""
    words = "UNLOGGED TABLE" if shape.unlogged else "TABLE"
    columns = ", ".join(column(key, value) for key, value in shape.columns.items())
    partition = f" PARTITION BY {shape.partition}" if shape.partition else ""
    return f"CREATE {words} {name(table)} ({columns}){partition}{_options(shape.options)}"


def drop_table(table: str) -> str:
    """DROP TABLE, which refuses while anything depends on it."""
    return f"DROP TABLE {name(table)}"


def add_column(table: str, name_: str, shape: Column) -> str:
    """ADD COLUMN with everything that its definition says."""
    return f"ALTER TABLE {name(table)} ADD COLUMN {column(name_, shape)}"


def set_default(table: str, name_: str, default: str | None) -> str:
    """SET DEFAULT, or DROP DEFAULT for None."""
    words = "DROP DEFAULT" if default is None else f"SET DEFAULT {default}"
    return f"ALTER TABLE {name(table)} ALTER COLUMN {ident(name_)} {words}"


def add_constraint(table: str, name_: str, shape: Constraint, not_valid: bool = False) -> str:
    """ADD CONSTRAINT; `not_valid` (checks and foreign keys only) leaves the rows that are there unread."""
    words = f"ALTER TABLE {name(table)} ADD CONSTRAINT {ident(name_)} {shape.definition}"
    return words + (" NOT VALID" if not_valid else "")


def validate_constraint(table: str, name_: str) -> str:
    """VALIDATE CONSTRAINT."""
    return f"ALTER TABLE {name(table)} VALIDATE CONSTRAINT {ident(name_)}"


def drop_constraint(table: str, name_: str) -> str:
    """DROP CONSTRAINT, which refuses while anything depends on it."""
    return f"ALTER TABLE {name(table)} DROP CONSTRAINT {ident(name_)}"


def create_index(shape: Index, concurrently: bool = False) -> str:
    """The index by its definition, which holds its name and table."""
    if not concurrently:
        return shape.definition
    return re.sub(r"^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", shape.definition)


def renamed_index(definition: str, old: str, new: str) -> str:
    """An index's definition under another name."""
    for name_ in (old, ident(old)):
        head = f"INDEX {name_} ON "
        if head in definition:
            return definition.replace(head, f"INDEX {ident(new)} ON ", 1)
    return definition


def drop_index(table: str, name_: str, concurrently: bool = False) -> str:
    """DROP INDEX; an index lies in the schema of its table."""
    return f"DROP INDEX {'CONCURRENTLY ' if concurrently else ''}{beside(table, name_)}"


def create_trigger(table: str, name_: str, shape: Trigger) -> list[str]:
    """The trigger by its definition, and its state where that is not the usual one."""
    state = [] if shape.enabled == "origin" else [enable_trigger(table, name_, shape)]
    return [shape.definition, *state]


def enable_trigger(table: str, name_: str, shape: Trigger) -> str:
    """Sets the state that the shape says."""
    return f"ALTER TABLE {name(table)} {_ENABLE[shape.enabled]} {ident(name_)}"


def drop_trigger(table: str, name_: str) -> str:
    """DROP TRIGGER."""
    return f"DROP TRIGGER {ident(name_)} ON {name(table)}"


def create_policy(table: str, name_: str, shape: Policy) -> str:
    """CREATE POLICY."""
    words = [f"CREATE POLICY {ident(name_)} ON {name(table)}"]
    words.append(f"AS {'PERMISSIVE' if shape.permissive else 'RESTRICTIVE'} FOR {shape.command}")
    words.append(f"TO {', '.join(role(one) for one in shape.roles)}")
    if shape.using is not None:
        words.append(f"USING ({shape.using})")
    if shape.check is not None:
        words.append(f"WITH CHECK ({shape.check})")
    return " ".join(words)


def drop_policy(table: str, name_: str) -> str:
    """DROP POLICY."""
    return f"DROP POLICY {ident(name_)} ON {name(table)}"


def row_security(table: str, enabled: bool, forced: bool) -> list[str]:
    """Both switches of row-level security, set to what is asked."""
    return [
        f"ALTER TABLE {name(table)} {'ENABLE' if enabled else 'DISABLE'} ROW LEVEL SECURITY",
        f"ALTER TABLE {name(table)} {'FORCE' if forced else 'NO FORCE'} ROW LEVEL SECURITY",
    ]


# --- other objects


def create_sequence(sequence: str, shape: Sequence) -> str:
    """The sequence, owned by no column yet: see `own_sequence`."""
    return f"CREATE SEQUENCE {name(sequence)} AS {shape.type} {_counting(shape)}"


def alter_sequence(sequence: str, shape: Sequence) -> str:
    """Sets type, bounds and step to the shape's; the sequence counts on from where it is."""
    return f"ALTER SEQUENCE {name(sequence)} AS {shape.type} {_counting(shape)}"


def own_sequence(sequence: str, owner: tuple[str, str] | None) -> str:
    """OWNED BY a column, given as table and column, or NONE. Sequence and table must have the same owner."""
    column_name = f"{name(owner[0])}.{ident(owner[1])}" if owner else "NONE"
    return f"ALTER SEQUENCE {name(sequence)} OWNED BY {column_name}"


def split_column(qualified: str, tables: Mapping[str, Table]) -> tuple[str, str] | None:
    """`public.task.note` as table and column: names may hold dots, so only the tables tell where it divides."""
    for found in re.finditer(r"\.", qualified):
        table, rest = qualified[: found.start()], qualified[found.end() :]
        if table in tables and rest in tables[table].columns:
            return table, rest
    return None


def _counting(shape: Sequence) -> str:
    return (
        f"INCREMENT BY {shape.increment} MINVALUE {shape.minimum} MAXVALUE {shape.maximum} START WITH {shape.start} "
        f"CACHE {shape.cache} {'CYCLE' if shape.cycle else 'NO CYCLE'}"
    )


def create_enum(enum: str, shape: Enum) -> str:
    """CREATE TYPE AS ENUM."""
    return f"CREATE TYPE {name(enum)} AS ENUM ({', '.join(literal(label) for label in shape.labels)})"


def create_domain(domain: str, shape: Domain) -> str:
    """CREATE DOMAIN with its default and checks."""
    words = [f"CREATE DOMAIN {name(domain)} AS {shape.type}"]
    if shape.collation:
        words.append(f"COLLATE {name(shape.collation)}")
    if shape.default is not None:
        words.append(f"DEFAULT {shape.default}")
    if shape.not_null:
        words.append("NOT NULL")
    words += [f"CONSTRAINT {ident(key)} {check}" for key, check in sorted(shape.checks.items())]
    return " ".join(words)


def create_view(view: str, shape: View, with_data: bool = True) -> str:
    """The view or materialised view, without its indexes; `with_data` fills a materialised one."""
    kind = "MATERIALIZED VIEW" if shape.materialized else "VIEW"
    columns = f" ({', '.join(ident(one) for one in shape.columns)})" if shape.columns else ""
    data = " WITH NO DATA" if shape.materialized and not with_data else ""
    return f"CREATE {kind} {name(view)}{columns}{_options(shape.options)} AS {shape.definition}{data}"


def drop_view(view: str, shape: View) -> str:
    """DROP VIEW, which refuses while anything depends on it."""
    return f"DROP {'MATERIALIZED VIEW' if shape.materialized else 'VIEW'} {name(view)}"


def create_function(shape: Function) -> list[str]:
    """CREATE OR REPLACE by its definition; in a transaction, since it stops the check of bodies until its end."""
    return [BODIES_UNCHECKED, shape.definition]


def drop_function(function: str, shape: Function) -> str:
    """DROP FUNCTION or PROCEDURE, which refuses while anything depends on it."""
    return f"DROP {shape.kind.upper()} {function_name(function)}"


# --- owners and rights


def role(name_: str) -> str:
    """A role, or the word PUBLIC."""
    return name_ if name_ == "PUBLIC" else ident(name_)


def _target(qualified: str, kind: str, grant: bool) -> str:
    if kind in ("function", "procedure"):
        return f"ROUTINE {function_name(qualified)}"
    words = {"materialized view": "TABLE" if grant else "MATERIALIZED VIEW", "view": "TABLE" if grant else "VIEW"}
    return f"{words.get(kind, kind.upper())} {name(qualified)}"


def set_owner(qualified: str, kind: str, owner: str) -> str:
    """OWNER TO; `kind` is table, sequence, view, materialized view, function, procedure, type or domain."""
    return f"ALTER {_target(qualified, kind, grant=False)} OWNER TO {ident(owner)}"


def usual_grants(kind: str) -> Grants:
    """What others than the owner may do with a new object of this kind, where no default privileges say otherwise."""
    return {"PUBLIC": ("EXECUTE",)} if kind in ("function", "procedure") else {}


def grants(qualified: str, kind: str, old: Rights, new: Rights) -> list[str]:
    """REVOKE and GRANT statements from `old` to `new`; `kind` as in `set_owner`."""
    return [_said(one, "", _target(qualified, kind, grant=True)) for one in _changes(old, new)]


def table_grants(table: str, old: Table, new: Table) -> list[str]:
    """The same for a table and its columns. What is revoked on a table is revoked on every column too."""
    changes = list(_changes(old.grants, new.grants))
    target = f"TABLE {name(table)}"
    found = [_said(one, "", target) for one in changes]
    lost = {(one.role, one.privilege) for one in changes if one.verb == "REVOKE"}
    lost_option = {(one.role, one.privilege) for one in changes if one.verb == "REVOKE GRANT OPTION FOR"}
    for key in sorted(old.column_grants.keys() | new.column_grants.keys()):
        left: dict[str, set[str]] = {}
        for one, words in old.column_grants.get(key, {}).items():
            for word in words:
                plain = word.removesuffix(_OPTION)
                if (one, plain) not in lost:
                    left.setdefault(one, set()).add(plain if (one, plain) in lost_option else word)
        wanted = new.column_grants.get(key, {})
        found += [_said(change, f" ({ident(key)})", target) for change in _changes(left, wanted)]
    return found


Rights = Mapping[str, Iterable[str]]


class _Change(NamedTuple):
    verb: str
    privilege: str
    role: str
    option: str


def _said(change: _Change, columns: str, target: str) -> str:
    preposition = "TO" if change.verb == "GRANT" else "FROM"
    return f"{change.verb} {change.privilege}{columns} ON {target} {preposition} {role(change.role)}{change.option}"


def _changes(old: Rights, new: Rights) -> Iterator[_Change]:
    for one in sorted(old.keys() | new.keys()):
        have, want = set(old.get(one, ())), set(new.get(one, ()))
        for word in sorted(have - want):
            plain = word.removesuffix(_OPTION)
            if word != plain and plain in want:
                yield _Change("REVOKE GRANT OPTION FOR", plain, one, "")
            elif plain + _OPTION not in want:
                yield _Change("REVOKE", plain, one, "")
        for word in sorted(want - have):
            plain = word.removesuffix(_OPTION)
            if plain + _OPTION not in have:
                yield _Change("GRANT", plain, one, word.removeprefix(plain))


def _options(options: Iterable[str]) -> str:
    pairs = [option.partition("=") for option in options]
    return f" WITH ({', '.join(f'{key}={literal(value)}' for key, _, value in pairs)})" if pairs else ""


def build(snapshot: Snapshot) -> list[str]:
    """Statements that make exactly this schema in an empty database, to be run in order in one transaction.

    Materialised views stay unfilled. Raises `CannotBuildError` for what a shape has no words for.
    """
    from kattegat.schema import building

    return building.statements(snapshot)

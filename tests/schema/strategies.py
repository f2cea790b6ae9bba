"""Random schemas. `edits` makes pairs of related ones of them, `filling` rows at the edges of their types.

The schemas are shapes with texts as one would type them, not as PostgreSQL prints them: build one with `ddl.build` and
read it back to have it exactly. Owners are left open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from kattegat.schema.ddl import ident, literal, name
from kattegat.schema.shape import (
    Column,
    Constraint,
    Domain,
    Enum,
    Function,
    Grants,
    Index,
    Policy,
    Snapshot,
    Table,
    Trigger,
    View,
)
from kattegat.schema.shape import (
    Sequence as SequenceShape,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]
Row = dict[str, str | None]

COLUMN_NAMES = ["a", "b", "c", "d", "e", "f", "g", "h", "Upper", "order", "with space", 'qu"ote', "dot.ted", "per%cent"]
TABLE_NAMES = ["t1", "t2", "t3", "t4", "t5", "Table", "user", "dot.table", "t%"]
ROLES = ["kat_app", "kat_system", "PUBLIC"]

# Values at the edges of each type, in text form; the first one is plain.
VALUES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["1", "0", "-32768", "32767"],
    "integer": ["1", "0", "-2147483648", "2147483647"],
    "bigint": ["1", "0", "-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "numeric": ["1", "NaN", "Infinity", "1e100", "-0.00000000000000000001", "1.500"],
    "numeric(10,3)": ["1", "9999999.999", "-9999999.999", "0.001", "NaN"],
    "numeric(5,0)": ["1", "99999", "-99999"],
    "real": ["1", "3.4028235e38", "-Infinity", "NaN", "1e-45", "-0", "0.1"],
    "double precision": ["1", "1.7976931348623157e308", "Infinity", "NaN", "5e-324", "-0", "0.1"],
    "text": ["one", "", "it's", 'q"uote', "a\\b", "line\nbreak", "ÄÖ€😀", "x" * 3000, "NULL", "per%cent", " pad "],
    "character varying(8)": ["one", "", "üüüüüüüü", "12345678", " "],
    "character varying(3)": ["one", "", "€€€"],
    "character(4)": ["one", "", "four", "ü"],
    "bytea": ["\\x01", "\\x", "\\x00ff5c27"],
    "date": ["2026-01-02", "-infinity", "infinity", "4713-01-01 BC", "5874897-12-31"],
    "timestamp without time zone": ["2026-01-02 03:04:05.678901", "infinity", "294276-12-31 23:59:59.999999"],
    "timestamp with time zone": ["2026-01-02 03:04:05.678901+00", "-infinity", "4713-01-01 00:00:00+00 BC"],
    "interval": ["1 day", "0", "-1 mon +1 day -00:00:00.000001", "178000000 years"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "json": ['{"a": 1}', '{"a": 1,  "a": 2}', "null", '"\\u20ac"'],
    "jsonb": ['{"a": 1}', "null", "[]", '{"a": 1.00, "b": [null]}'],
    "inet": ["192.168.0.1", "::/0", "192.168.0.1/24", "2001:db8::1"],
    "cidr": ["10.0.0.0/8", "::/0"],
    "integer[]": ["{1}", "{}", "{1,NULL,3}", "[0:1]={1,2}", "{{1},{2}}"],
    "text[]": ["{one}", "{}", '{"",NULL,"NULL","a,b","q\\"uote","back\\\\slash"}'],
}
INTEGERS = ("smallint", "integer", "bigint")
TEXTS = ("text", "character varying(8)", "character varying(3)")
KEY_TYPES = ("integer", "bigint", "uuid", "text", "character varying(8)", "smallint")
LABELS = ["low", "mid", "high", "it's", "Upper"]


def values_of(snapshot: Snapshot, type_: str) -> list[str]:
    """Values of a type in text form, the plain one first; a domain's satisfy its checks."""
    for key, enum in snapshot.enums.items():
        if type_ == name(key) or type_ == key:
            return list(enum.labels)
    for key, domain in snapshot.domains.items():
        if type_ == name(key) or type_ == key:
            return [one for one in values_of(snapshot, domain.type) if one not in ("", "0")]
    return VALUES[type_]


def printed(qualified: str) -> str:
    """A table's row type as PostgreSQL prints it in a function's name: in quotes only where it must be."""
    own = qualified.removeprefix("public.")
    return f"public.{own if re.fullmatch('[a-z_][a-z0-9_]*', own) and own != 'user' else ident(own)}"


# --- parts


def _fresh(draw: Draw, taken: Any, names: Sequence[str]) -> str | None:
    free = [one for one in names if one not in taken]
    return draw(st.sampled_from(free)) if free else None


def _numbered(prefix: str, taken: Any) -> str:
    return next(f"{prefix}{n}" for n in range(1, 1000) if f"{prefix}{n}" not in taken)


def _relation_names(s: Snapshot) -> set[str]:
    found = {*s.tables, *s.views, *s.sequences}
    for table in s.tables.values():
        found |= {f"public.{one}" for one in (*table.constraints, *table.indexes)}
    for view in s.views.values():
        found |= {f"public.{one}" for one in view.indexes}
    return {one.removeprefix("public.") for one in found}


def _types(s: Snapshot) -> list[str]:
    return [*VALUES, *(name(one) for one in s.enums), *(name(one) for one in s.domains)]


def _put(s: Snapshot, table: str, **changes: Any) -> Snapshot:
    return replace(s, tables={**s.tables, table: replace(s.tables[table], **changes)})


def _constant(draw: Draw, s: Snapshot, type_: str) -> str:
    return f"{literal(draw(st.sampled_from(values_of(s, type_))))}::{type_}"


def _default(draw: Draw, s: Snapshot, type_: str) -> tuple[str | None, tuple[str, ...]]:
    makers = [one for one in s.functions if one.startswith("public.make")]
    if type_ == "text" and makers and draw(st.booleans()):
        maker = draw(st.sampled_from(makers))
        return f"{name(maker.removesuffix('()'))}()", (maker,)
    if type_ == "uuid" and draw(st.booleans()):
        return "gen_random_uuid()", ()
    if type_ == "timestamp with time zone" and draw(st.booleans()):
        return "now()", ()
    own = tuple(one for one in (*s.enums, *s.domains) if name(one) == type_)
    return _constant(draw, s, type_), own


def _column(draw: Draw, s: Snapshot) -> Column:
    type_ = draw(st.sampled_from(_types(s)))
    default, uses = _default(draw, s, type_) if draw(st.integers(0, 2)) == 0 else (None, ())
    collation = "pg_catalog.C" if type_ == "text" and draw(st.integers(0, 3)) == 0 else None
    return Column(type=type_, not_null=draw(st.integers(0, 2)) == 0, default=default, collation=collation, uses=uses)


def _generated(draw: Draw, s: Snapshot, table: Table) -> Column | None:
    plain = {key: one for key, one in table.columns.items() if one.generated is None}
    key = draw(st.sampled_from(sorted(plain))) if plain else None
    if key is None:
        return None
    column, quoted = plain[key], ident(key)
    twice = [one for one in s.functions if one.startswith("public.twice")]
    if column.type == "integer" and twice and draw(st.booleans()):
        used = draw(st.sampled_from(twice))
        call = f"{name(used[: used.index('(')])}({quoted})"
        return Column(type="bigint", generated=call, uses=tuple(sorted((key, used))))
    if column.type in TEXTS:
        return Column(type="text", generated=f"lower({quoted}::text) || '%'", uses=(key,))
    if column.type in INTEGERS:
        return Column(type="bigint", generated=f"{quoted}::bigint / 2", uses=(key,))
    return Column(type="boolean", generated=f"{quoted} IS NULL", uses=(key,), not_null=draw(st.booleans()))


def _indexable(table: Table) -> list[str]:
    return sorted(key for key, one in table.columns.items() if one.type != "json")


def _some(draw: Draw, names: Sequence[str], most: int = 2) -> list[str]:
    return draw(st.lists(st.sampled_from(names), min_size=1, max_size=most, unique=True)) if names else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(ident(one) for one in names)


def add_key(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    keys = _some(draw, _indexable(shape))
    if not keys or shape.partition or any(one.kind == "primary key" for one in shape.constraints.values()):
        return s
    own = _numbered("pk", _relation_names(s))
    key = Constraint("primary key", f"PRIMARY KEY ({_listed(keys)})", tuple(keys))
    columns = {one: replace(value, not_null=True) if one in keys else value for one, value in shape.columns.items()}
    return _put(s, table, constraints={**shape.constraints, own: key}, columns=columns)


def add_unique(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    keys = _some(draw, _indexable(shape))
    if not keys or shape.partition:
        return s
    own = _numbered("u", _relation_names(s))
    nulls = draw(st.booleans())
    listed = _listed(keys)
    if draw(st.integers(0, 5)) == 0:
        definition = f"EXCLUDE USING btree ({ident(keys[0])} WITH =) WHERE ({ident(keys[-1])} IS NOT NULL)"
        one = Constraint("exclude", definition, tuple(sorted(set(keys))))
    else:
        late = " DEFERRABLE INITIALLY DEFERRED" if draw(st.integers(0, 4)) == 0 else ""
        definition = f"UNIQUE {'NULLS NOT DISTINCT ' if nulls else ''}({listed}){late}"
        one = Constraint("unique", definition, tuple(keys), nulls_not_distinct=nulls)
    return _put(s, table, constraints={**shape.constraints, own: one})


def add_check(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    if not shape.columns:
        return s
    key = draw(st.sampled_from(sorted(shape.columns)))
    quoted, type_ = ident(key), shape.columns[key].type
    positive = [one for one in s.functions if one.startswith("public.positive")]
    uses: tuple[str, ...] = ()
    reads = {key}
    if type_ in (*INTEGERS, "numeric", "real"):
        text = f"{quoted} > {draw(st.integers(-5, 0))} OR {quoted} < -100"
        if type_ == "integer" and positive and draw(st.booleans()):
            uses = (draw(st.sampled_from(positive)),)
            text = f"{name(uses[0][: uses[0].index('(')])}({quoted}) OR {quoted} < 1"
    elif type_ in TEXTS:
        text = draw(st.sampled_from([f"{quoted} <> ''", f"length({quoted}) < 100", f"{quoted} !~ '^[%]'"]))
    else:
        other = draw(st.sampled_from(sorted(shape.columns)))
        reads.add(other)
        text = f"num_nonnulls({quoted}, {ident(other)}) > 0"
    own = _numbered("ck", {*shape.constraints, *_relation_names(s)})
    one = Constraint("check", f"CHECK ({text})", tuple(sorted(reads)), expression=text, uses=uses)
    one = replace(one, valid=draw(st.integers(0, 5)) > 0)
    return _put(s, table, constraints={**shape.constraints, own: one})


def add_foreign_key(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    """A new nullable column for each column of a key of some table (cycles and its own among them), and the key."""
    targets = [
        (target, one.columns)
        for target, shape in sorted(s.tables.items())
        for _, one in sorted(shape.constraints.items())
        if one.kind in ("primary key", "unique") and "DEFERRABLE" not in one.definition
    ]
    if not targets:
        return s
    target, referenced = draw(st.sampled_from(targets))
    shape = s.tables[table]
    columns, keys = dict(shape.columns), []
    for one in referenced:
        key = _fresh(draw, columns, COLUMN_NAMES)
        if key is None:
            return s
        like = s.tables[target].columns[one]
        columns[key] = Column(type=like.type, collation=like.collation)
        keys.append(key)
    action = draw(
        st.sampled_from(["", " ON DELETE CASCADE", " ON DELETE SET NULL ON UPDATE CASCADE", " ON DELETE RESTRICT"])
    )
    late = draw(st.sampled_from(["", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]))
    own = _numbered("fk", {*shape.constraints, *_relation_names(s)})
    definition = f"FOREIGN KEY ({_listed(keys)}) REFERENCES {name(target)} ({_listed(referenced)}){action}{late}"
    one = Constraint("foreign key", definition, tuple(keys), references=target, referenced=tuple(referenced))
    if not shape.partition:
        one = replace(one, valid=draw(st.integers(0, 5)) > 0)
    return _put(s, table, columns=columns, constraints={**shape.constraints, own: one})


def _index(draw: Draw, s: Snapshot, relation: str, columns: dict[str, str], unique: bool) -> tuple[str, Index] | None:
    names = sorted(key for key, type_ in columns.items() if type_ != "json")
    keys = _some(draw, names)
    if not keys:
        return None
    own = _numbered("i", _relation_names(s))
    texts = [ident(one) for one in keys]
    if columns[keys[0]] in TEXTS and draw(st.booleans()):
        texts[0] = f"lower({texts[0]}::text)"
    elif columns[keys[0]] in INTEGERS and draw(st.booleans()):
        texts[0] = f"({texts[0]} / 2)"
    elif columns[keys[0]] in ("jsonb", "integer[]", "text[]") and draw(st.booleans()):
        definition = f"CREATE INDEX {ident(own)} ON {name(relation)} USING gin ({texts[0]})"
        return own, Index(definition, (keys[0],), keys=(texts[0],))
    reads = set(keys)
    words, predicate = "", None
    nulls = unique and draw(st.booleans())
    if nulls:
        words += " NULLS NOT DISTINCT"
    if draw(st.integers(0, 2)) == 0:
        where = draw(st.sampled_from(sorted(columns)))
        reads.add(where)
        predicate = f"{ident(where)} IS NOT NULL"
        words += f" WHERE ({predicate})"
    order = draw(st.sampled_from(["", " DESC", " NULLS FIRST"]))
    definition = (
        f"CREATE {'UNIQUE ' if unique else ''}INDEX {ident(own)} ON {name(relation)} USING btree "
        f"({', '.join(texts)}{order}){words}"
    )
    return own, Index(
        definition, tuple(sorted(reads)), unique, tuple(texts), predicate=predicate, nulls_not_distinct=nulls
    )


def add_index(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    types = {key: one.type for key, one in shape.columns.items()}
    made = _index(draw, s, table, types, unique=not shape.partition and draw(st.booleans()))
    return _put(s, table, indexes={**shape.indexes, made[0]: made[1]}) if made else s


def add_trigger(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    functions = [one for one in s.functions if one.startswith("public.touch")]
    shape = s.tables[table]
    if not functions or not shape.columns:
        return s
    function = draw(st.sampled_from(functions))
    own = _numbered("tr", shape.triggers)
    event, reads, when = "INSERT OR DELETE", set(), ""
    if draw(st.booleans()):
        keys = _some(draw, sorted(key for key, one in shape.columns.items() if one.generated is None))
        event, reads = f"UPDATE OF {_listed(keys)}", set(keys)
        compared = [key for key in _indexable(shape) if shape.columns[key].generated is None]
        if compared and draw(st.booleans()):
            key = draw(st.sampled_from(compared))
            reads.add(key)
            when = f" WHEN (OLD.{ident(key)} IS DISTINCT FROM NEW.{ident(key)})"
    call = f"EXECUTE FUNCTION {name(function.removesuffix('()'))}('it''s')"
    definition = f"CREATE TRIGGER {own} AFTER {event} ON {name(table)} FOR EACH ROW{when} {call}"
    enabled = draw(st.sampled_from(["origin", "origin", "always", "replica", "disabled"]))
    one = Trigger(definition, function, tuple(sorted(reads)), enabled)
    return _put(s, table, triggers={**shape.triggers, own: one})


def add_policy(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    if not shape.columns:
        return s
    key = draw(st.sampled_from(sorted(shape.columns)))
    command = draw(st.sampled_from(["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"]))
    text = f"{ident(key)} IS NOT NULL"
    one = Policy(
        command=command,
        permissive=draw(st.booleans()),
        roles=tuple(sorted(_some(draw, ROLES[:2]))) if draw(st.booleans()) else ("PUBLIC",),
        using=None if command == "INSERT" else text,
        check=text if command == "INSERT" or (command in ("ALL", "UPDATE") and draw(st.booleans())) else None,
        columns=(key,),
    )
    return _put(s, table, policies={**shape.policies, _numbered("po", shape.policies): one})


def _rights(draw: Draw, words: Sequence[str]) -> Grants:
    found: Grants = {}
    for role in draw(st.lists(st.sampled_from(ROLES), max_size=2, unique=True)):
        chosen = sorted(_some(draw, words, 3))
        if role != "PUBLIC" and draw(st.integers(0, 3)) == 0:
            chosen = [f"{one} WITH GRANT OPTION" for one in chosen]
        found[role] = tuple(chosen)
    return found


def change_grants(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    by_column: dict[str, Grants] = {}
    for key in _some(draw, sorted(shape.columns)) if draw(st.booleans()) else []:
        rights = _rights(draw, ["SELECT", "UPDATE", "INSERT", "REFERENCES"])
        if rights:
            by_column[key] = rights
    rights = _rights(draw, ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"])
    return _put(s, table, grants=rights, column_grants=by_column)


def add_column(draw: Draw, s: Snapshot, table: str) -> Snapshot:
    shape = s.tables[table]
    key = _fresh(draw, shape.columns, COLUMN_NAMES)
    if key is None:
        return s
    column: Column | None
    kind = draw(st.integers(0, 9))
    if kind == 0:
        column = _generated(draw, s, shape)
    elif kind == 1 and not shape.partition:
        # A partitioned table has no identity before PostgreSQL 17.
        identity = draw(st.sampled_from(["always", "by default"]))
        column = Column(type=draw(st.sampled_from(INTEGERS)), not_null=True, identity=identity)
    elif kind == 2:
        own = f"public.{_numbered('s', _relation_names(s))}"
        made = SequenceShape(type="integer", maximum=2**31 - 1, owned_by=f"{table}.{key}")
        s = replace(s, sequences={**s.sequences, own: made})
        call = f"nextval({literal(name(own))}::regclass)"
        column = Column(type="integer", not_null=draw(st.booleans()), default=call, uses=(own,))
    else:
        column = _column(draw, s)
    return _put(s, table, columns={**shape.columns, key: column}) if column else s


def add_table(draw: Draw, s: Snapshot) -> Snapshot:
    own = _fresh(draw, {one.removeprefix("public.") for one in s.tables}, TABLE_NAMES)
    if own is None:
        return s
    table = f"public.{own}"
    s = replace(s, tables={**s.tables, table: Table(columns={})})
    if draw(st.integers(0, 2)) > 0:
        type_ = draw(st.sampled_from(KEY_TYPES))
        identity = draw(st.sampled_from(["", "always", "by default"])) if type_ in INTEGERS else ""
        column = Column(type=type_, not_null=True, identity=identity)
        key = Constraint("primary key", 'PRIMARY KEY ("id")', ("id",))
        constraints = {_numbered("pk", _relation_names(s)): key}
        s = _put(s, table, columns={"id": column}, constraints=constraints)
    for _ in range(draw(st.integers(1, 5))):
        s = add_column(draw, s, table)
    if draw(st.booleans()):
        s = add_key(draw, s, table)
    for make in draw(st.lists(st.sampled_from(ON_TABLE), max_size=5)):
        s = make(draw, s, table)
    if draw(st.integers(0, 9)) == 0:
        s = _put(s, table, options=("fillfactor=70",))
    secured = draw(st.integers(0, 3)) == 0
    return _put(s, table, row_security=secured, forced=secured and draw(st.booleans()))


ON_TABLE: list[Callable[[Draw, Snapshot, str], Snapshot]] = [
    add_unique,
    add_check,
    add_foreign_key,
    add_index,
    add_trigger,
    add_policy,
    change_grants,
]


def add_enum(draw: Draw, s: Snapshot) -> Snapshot:
    own = f"public.{_numbered('mood', {one.removeprefix('public.') for one in s.enums})}"
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=4, unique=True))
    return replace(s, enums={**s.enums, own: Enum(labels=tuple(labels))})


def add_domain(draw: Draw, s: Snapshot) -> Snapshot:
    own = f"public.{_numbered('Domain', {one.removeprefix('public.') for one in s.domains})}"
    base = draw(st.sampled_from(["integer", "text", "character varying(8)", *(name(one) for one in s.enums)]))
    checks = (
        {"sane": f"CHECK (VALUE::text <> {literal('0' if base == 'integer' else '')})"} if draw(st.booleans()) else {}
    )
    default = None
    if draw(st.integers(0, 2)) == 0:
        default = f"{literal(values_of(s, base)[0])}::{base}"
    return replace(s, domains={**s.domains, own: Domain(type=base, default=default, checks=checks)})


def add_sequence(draw: Draw, s: Snapshot) -> Snapshot:
    own = f"public.{_numbered('s', _relation_names(s))}"
    step = draw(st.sampled_from([1, 5, 1000]))
    made = SequenceShape(
        type=draw(st.sampled_from(INTEGERS)),
        start=draw(st.integers(10, 20)),
        increment=step,
        minimum=draw(st.integers(1, 10)),
        maximum=draw(st.sampled_from([10_000, 32767])),
        cache=draw(st.integers(1, 3)),
        cycle=draw(st.booleans()),
        grants=_rights(draw, ["USAGE", "SELECT"]),
    )
    return replace(s, sequences={**s.sequences, own: made})


def add_function(draw: Draw, s: Snapshot) -> Snapshot:
    kind = draw(st.sampled_from(["twice", "positive", "touch", "make", "of_row", "atomic", "tidy"]))
    own = _numbered(kind, {one.removeprefix("public.").partition("(")[0] for one in s.functions})
    quoted, number = name(f"public.{own}"), draw(st.integers(0, 9))
    tables = sorted(one for one, shape in s.tables.items() if shape.columns)
    table = draw(st.sampled_from(tables)) if tables else None
    uses: tuple[str, ...] = ()
    arguments, returns, words = "", "text", "function"
    if kind == "twice":
        arguments, returns = "integer", "bigint"
        definition = f"(n integer) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT n::bigint * 2 + {number} $$"
    elif kind == "positive":
        arguments, returns = "integer", "boolean"
        definition = (
            f"(n integer DEFAULT {number}) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
            f"$$ BEGIN RETURN n > 0; -- {number} %\nEND $$"
        )
    elif kind == "touch":
        returns = "trigger"
        definition = f"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN coalesce(new, old); /* {number} */ END $$"
    elif kind == "make":
        definition = f"() RETURNS text LANGUAGE sql SET search_path TO '' AS $$ SELECT 'made {number}' $$"
    elif table is None:
        return s
    elif kind == "of_row":
        arguments, returns, uses = printed(table), "integer", (table,)
        definition = f"(r {name(table)}) RETURNS integer LANGUAGE sql AS $$ SELECT {number} $$"
    elif kind == "atomic":
        key = draw(st.sampled_from(sorted(s.tables[table].columns)))
        returns, uses = "bigint", (table, f"{table}.{key}")
        definition = (
            f"() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count({ident(key)}) + {number} FROM {name(table)}; END"
        )
    else:
        arguments, returns, words = "text, integer[]", "", "procedure"
        definition = f"(IN t text, VARIADIC n integer[]) LANGUAGE sql AS $$ SELECT {number} $$"
    made = Function(
        f"CREATE OR REPLACE {words.upper()} {quoted}{definition}",
        kind="procedure" if words == "procedure" else "function",
        returns=returns,
        uses=uses,
        grants=draw(st.sampled_from([{"PUBLIC": ("EXECUTE",)}, {}, {"kat_app": ("EXECUTE",)}])),
    )
    return replace(s, functions={**s.functions, f"public.{own}({arguments})": made})


def add_view(draw: Draw, s: Snapshot) -> Snapshot:
    columns = {key: {one: c.type for one, c in shape.columns.items()} for key, shape in s.tables.items()}
    columns |= {key: dict.fromkeys(view.columns, "") for key, view in s.views.items() if not view.materialized}
    sources = sorted(key for key, names in columns.items() if names)
    if not sources:
        return s
    own = f"public.{_numbered('v', _relation_names(s))}"
    source = draw(st.sampled_from(sources))
    shown = _some(draw, sorted(columns[source]), 3)
    definition = f"SELECT {', '.join(f'x.{ident(one)}' for one in shown)} FROM {name(source)} x"
    uses = {source, *(f"{source}.{one}" for one in shown)}
    join = draw(st.integers(0, 3))
    if join == 0:
        other = draw(st.sampled_from(sources))
        definition += f" CROSS JOIN {name(other)} y"
        uses.add(other)
    elif join == 1:
        where = draw(st.sampled_from(sorted(columns[source])))
        uses.add(f"{source}.{where}")
        definition += f" WHERE x.{ident(where)} IS NOT NULL"
    materialized = draw(st.integers(0, 3)) == 0
    made = View(
        definition,
        materialized=materialized,
        columns=tuple(shown),
        uses=tuple(sorted(uses)),
        options=("security_barrier=true",) if not materialized and draw(st.integers(0, 3)) == 0 else (),
        grants=_rights(draw, ["SELECT"]),
    )
    s = replace(s, views={**s.views, own: made})
    types = {one: columns[source][one] for one in shown}
    if materialized and all(types.values()) and draw(st.booleans()):
        index = _index(draw, s, own, types, unique=False)
        if index:
            s = replace(s, views={**s.views, own: replace(made, indexes={index[0]: index[1]})})
    return s


@st.composite
def schemas(draw: Draw, most_tables: int = 4, partitioned: bool = False) -> Snapshot:
    """A schema of 1 to `most_tables` tables. With `partitioned`, one of them may be (it has no partitions yet)."""
    s = Snapshot()
    for make in draw(st.lists(st.sampled_from([add_enum, add_domain, add_function, add_sequence]), max_size=6)):
        s = make(draw, s)
    for _ in range(draw(st.integers(1, most_tables))):
        s = add_table(draw, s)
    if partitioned and draw(st.booleans()):
        table = Table(columns={"at": Column(type="date", not_null=True)}, partition='RANGE ("at")')
        s = replace(s, tables={**s.tables, "public.parts": table})
        s = add_column(draw, s, "public.parts")
        for make_on in draw(st.lists(st.sampled_from(ON_TABLE), max_size=4)):
            s = make_on(draw, s, "public.parts")
    for make in draw(st.lists(st.sampled_from([add_view, add_function]), max_size=5)):
        s = make(draw, s)
    return s

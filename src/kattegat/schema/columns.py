"""Columns: parked and brought back, made, altered; with the watch over rows whose values are parked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kattegat.schema import ddl
from kattegat.schema.draft import READ, REWRITE, WRITE, Draft, either, note, returned
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Column

_INTEGERS = {"smallint": (-(2**15), 2**15 - 1), "integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
_NUMBERS = (*_INTEGERS, "numeric", "real", "double precision")
_TEXTS = ("text", "character varying", "character")
_TIMES = ("date", "timestamp without time zone", "timestamp with time zone")
_EXACT = {
    ("real", "double precision"),
    ("smallint", "double precision"),
    ("integer", "double precision"),
    ("jsonb", "json"),
    ("cidr", "inet"),
    # Sessions of a change are in UTC.
    ("timestamp without time zone", "timestamp with time zone"),
    ("timestamp with time zone", "timestamp without time zone"),
}
_FAMILIES = (_NUMBERS, _TEXTS, _TIMES, ("json", "jsonb"), ("inet", "cidr"))


# -- parked and back ------------------------------------------------------------------------------------------------


def park(draft: Draft, table: str, columns: Mapping[str, Column]) -> None:
    """Parks columns that the target does not know, in one step with the watch over their rows."""
    named = {column: draft.ids[f"{table}.{column}"] for column in columns}
    watch = draft.id()
    listed = ", ".join(columns)
    draft.add(
        "park columns",
        table,
        f"{listed} of {table}: every value is kept under another name, out of the way of an older release",
        park_sql(draft, table, columns, named, watch),
        back_sql(draft, table, columns, named, [watch], back=True),
        undo_words=f"{listed} of {table}: every value comes back; rows changed meanwhile are reported",
        tables=[table],
        loss="parked",
    )


def make(draft: Draft, table: str, name: str, shape: Column) -> None:
    """Adds a column of the target; once it has been parked on the way back, it is brought back instead. NOT NULL comes
    later, with the values."""
    entry = draft.ids[f"{table}.{name}"]
    watch = draft.id()
    columns = {name: shape}
    plain = msgspec.structs.replace(shape, not_null=bool(shape.identity))
    count = draft.rows(table)
    rewrites = bool(shape.identity) or (shape.default is not None and "(" in shape.default)
    back = back_sql(draft, table, columns, {name: entry}, [watch], back=False)
    draft.add(
        "make column",
        f"{table}.{name}",
        f"{name} of {table} is made",
        [either(entry, back, [ddl.add_column(table, name, plain)])],
        park_sql(draft, table, columns, {name: entry}, watch),
        undo_words=f"{name} of {table} is parked: every value is kept",
        tables=[table],
        rewrite=rewrites,
        scans=count / REWRITE if rewrites else 0.0,
        rows=count if rewrites else 0,
        loss="made",
    )


def bring_back(draft: Draft, table: str, name: str, before: Entry, shape: Column) -> None:
    """Brings back a column that an earlier change has parked, as it was then but for NOT NULL."""
    watch = draft.id()
    columns, named = {name: shape}, {name: before.id}
    former = draft.watches(table, f"_p{before.id}")
    others = [
        sql
        for seen in former
        if (left := [c for c in seen.shape["columns"] if c != f"_p{before.id}"])  # type: ignore[attr-defined]
        for sql in start_watch(draft, table, draft.id(), left, inserts=True)
    ]
    draft.add(
        "bring back column",
        f"{table}.{name}",
        f"{name} of {table} comes back with its values; rows changed meanwhile are reported",
        [*back_sql(draft, table, columns, named, [*(seen.id for seen in former), watch], back=False), *others],
        park_sql(draft, table, columns, named, watch),
        undo_words=f"{name} of {table} is parked: every value is kept",
        tables=[table],
    )


def park_sql(
    draft: Draft,
    table: str,
    columns: Mapping[str, Column],
    named: Mapping[str, int],
    watch: int,
) -> list[str]:
    """SQL that parks columns; their NOT NULL has gone already, or was never there."""
    place = ddl.name(table)
    done: list[str] = []
    for name, shape in columns.items():
        entry = named[name]
        if shape.default is not None:
            done.append(ddl.set_default(table, name, None))
        done.append(f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(name)} TO {ddl.ident(f'_p{entry}')}")
        done.append(note(entry, "column", f"{table}.{name}", f"{table}._p{entry}", shape))
    parked = [f"_p{named[name]}" for name in columns]
    inserts = any(_watches_inserts(shape) for shape in columns.values())
    return [*done, *start_watch(draft, table, watch, parked, inserts=inserts)]


def back_sql(
    draft: Draft,
    table: str,
    columns: Mapping[str, Column],
    named: Mapping[str, int],
    watches: Sequence[int],
    *,
    back: bool,
) -> list[str]:
    """SQL that brings parked columns back: values of rows that were made or changed meanwhile follow the hints."""
    place = ddl.name(table)
    done: list[str] = []
    late: list[str] = []
    for name, shape in columns.items():
        entry = named[name]
        done.append(f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(f'_p{entry}')} TO {ddl.ident(name)}")
        if shape.default is not None:
            done.append(ddl.set_default(table, name, shape.default))
            if _watches_inserts(shape):
                condition = _touched(draft, table, watches, "I") + f" AND t.{ddl.ident(name)} IS NULL"
                late.append(_fill(table, name, condition, shape.default))
        refresh = draft.hints.refresh.get(f"{table}.{name}")
        if refresh is not None:
            changed = " OR ".join(
                f"pg_catalog.to_jsonb(t.{draft.column_sql(table, '{' + each + '}', back=back)}) IS DISTINCT FROM"
                f" (w.contents OPERATOR(pg_catalog.->) {ddl.literal(each)})"
                for each in refresh.when
            )
            late.append(
                _fill(
                    table,
                    name,
                    _touched(draft, table, watches, "U", changed),
                    draft.column_sql(table, refresh.sql, back=back),
                )
            )
        done.append(returned(entry))
    return [*done, *late, *(sql for watch in watches for sql in end_watch(table, watch))]


def _fill(table: str, name: str, condition: str, value: str) -> str:
    arguments = (ddl.name(table), name, condition, value)
    return f"SELECT parked.fill({', '.join(ddl.literal(each) for each in arguments)})"


def _touched(draft: Draft, table: str, watches: Sequence[int], act: str, further: str = "true") -> str:
    """A condition over alias t: an older release did this to the row."""
    pairs = ", ".join(
        f"{ddl.literal(column)}, pg_catalog.to_jsonb(t.{ddl.ident(column)})" for column in draft.key(table)
    )
    key = f"pg_catalog.jsonb_build_object({pairs})" if pairs else "pg_catalog.to_jsonb(t)"
    listed = ", ".join(str(watch) for watch in watches)
    return (
        f"EXISTS (SELECT 1 FROM parked.touched AS w WHERE w.entry IN ({listed}) AND w.open AND w.act = '{act}'"  # noqa: S608
        f" AND pg_catalog.md5(w.key::text) = pg_catalog.md5({key}::text) AND ({further}))"
    )


def _watches_inserts(shape: Column) -> bool:
    # Else NULL tells that a row came later.
    return shape.default is not None and not shape.not_null and not shape.identity


def start_watch(draft: Draft, table: str, watch: int, parked: Sequence[str], *, inserts: bool) -> list[str]:
    """SQL for the triggers that keep the key and the parked values of rows that are changed, deleted or truncated, and
    with `inserts` the keys of new ones."""
    key = draft.key(table)
    names = ", ".join(ddl.literal(each) for each in parked)

    def contents(row: str) -> str:
        texts = ", ".join(f"{row}.{ddl.ident(each)}::text" for each in parked)
        return f"pg_catalog.to_jsonb({row}) || pg_catalog.jsonb_object(ARRAY[{names}]::text[], ARRAY[{texts}]::text[])"

    def keyed(row: str) -> str:
        if not key:
            return f"pg_catalog.to_jsonb({row})"
        pairs = ", ".join(f"{ddl.literal(c)}, pg_catalog.to_jsonb({row}) -> {ddl.literal(c)}" for c in key)
        return f"pg_catalog.jsonb_build_object({pairs})"

    # Without a key two equal rows can't be told apart, so each change is kept.
    update, once = ("U", " ON CONFLICT DO NOTHING") if key else ("M", "")
    into = "INSERT INTO parked.touched (entry, act, key, contents)"
    function = f"parked.watch_{watch}"
    body = f"""
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET extra_float_digits = 1
SET bytea_output = 'hex' AS $kat_watch$
BEGIN
    IF pg_catalog.current_setting('kat.change', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD OPERATOR(pg_catalog.*<>) NEW THEN
            {into} VALUES ({watch}, '{update}', {keyed("NEW")}, {contents("OLD")}){once};
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        {into} VALUES ({watch}, 'D', {keyed("OLD")}, {contents("OLD")});
    ELSIF TG_OP = 'INSERT' THEN
        {into} VALUES ({watch}, 'I', {keyed("NEW")}, NULL);
    ELSE
        {into} SELECT {watch}, 'T', {keyed("t")}, {contents("t")} FROM {ddl.name(table)} AS t;
    END IF;
    RETURN NULL;
END $kat_watch$"""
    acts = "INSERT OR UPDATE OR DELETE" if inserts else "UPDATE OR DELETE"
    place = ddl.name(table)
    return [
        body,
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
        f"CREATE TRIGGER _kat_watch_{watch} AFTER {acts} ON {place} FOR EACH ROW EXECUTE FUNCTION {function}()",
        f"CREATE TRIGGER _kat_swept_{watch} BEFORE TRUNCATE ON {place} FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
        f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER _kat_watch_{watch}",
        f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER _kat_swept_{watch}",
        note(watch, "watch", table, function, {"columns": parked, "key": key}),
    ]


def end_watch(table: str, watch: int) -> list[str]:
    """SQL that ends it; what it has seen stays on record."""
    place = ddl.name(table)
    return [
        f"DROP TRIGGER IF EXISTS _kat_watch_{watch} ON {place}",
        f"DROP TRIGGER IF EXISTS _kat_swept_{watch} ON {place}",
        f"DROP FUNCTION IF EXISTS parked.watch_{watch}()",
        returned(watch),
    ]


# -- NOT NULL -------------------------------------------------------------------------------------------------------


def allow_null(draft: Draft, table: str, name: str, shape: Column, *, parked: bool) -> None:
    """Drops NOT NULL. On the way back, rows that got no value meanwhile are given one, or are set aside."""
    entry = draft.id()
    place, column = ddl.name(table), ddl.ident(name)
    drop = f"ALTER TABLE {place} ALTER COLUMN {column} DROP NOT NULL"
    # Values given to rows of a parked column are not taken again: it had none for them to return to.
    again = [] if parked else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    draft.add(
        "allow null",
        f"{table}.{name}",
        f"{name} of {table} may be empty",
        [drop, *again],
        [*_give(draft, entry, table, name, shape, recorded=not parked, back=True), _set_not_null(table, name)],
        undo_words=f"{name} of {table} may not be empty any more",
        tables=[table],
        undo_scans=2 * draft.rows(table) / READ,
    )


def forbid_null(draft: Draft, table: str, name: str, shape: Column, *, made: bool) -> None:
    """Sets NOT NULL; rows without a value are given one, or are set aside."""
    entry = draft.id()
    count = draft.rows(table)
    place, column = ddl.name(table), ddl.ident(name)
    give = _give(draft, entry, table, name, shape, recorded=not made, back=False)
    if made and shape.default is None and f"{table}.{name}" not in draft.hints.fill and draft.may_have_rows(table):
        draft.questions[f"{table}.{name}"] = f"what its rows shall hold in {name} ({shape.type}, never empty)"
    back = [] if made else [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"]
    words = f"{name} of {table} may not be empty; rows that have no value are given one or set aside"
    undo_words = f"{name} of {table} may be empty again"
    drop = f"ALTER TABLE {place} ALTER COLUMN {column} DROP NOT NULL"
    draft.add(
        "give values",
        f"{table}.{name}",
        words,
        give,
        back,
        undo_words=f"values given to {name} of {table} are taken back",
        lock="SHARE ROW EXCLUSIVE",
        tables=[table],
        scans=count / READ,
        rows=count,
        loss="set-aside",
    )
    draft.add(
        "forbid null",
        f"{table}.{name}",
        f"{name} of {table} may not be empty",
        [_set_not_null(table, name)],
        [drop],
        undo_words=undo_words,
        tables=[table],
        scans=count / READ,
        rows=count,
    )


def _set_not_null(table: str, name: str) -> str:
    return f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} SET NOT NULL"


def _give(draft: Draft, entry: int, table: str, name: str, shape: Column, *, recorded: bool, back: bool) -> list[str]:
    """SQL that leaves no row without a value in a column."""
    condition = f"t.{ddl.ident(name)} IS NULL"
    hint = draft.hints.fill.get(f"{table}.{name}")
    value = draft.column_sql(table, hint, back=back) if hint is not None else shape.default
    if value is None:
        return [draft.set_aside(entry, table, condition, f"has no value in {name}")]
    key = draft.key(table)
    if recorded and key and name not in key:
        return [_place(table, key, name, condition, value, f"{name} may not be empty", entry)]
    if recorded:
        return [draft.set_aside(entry, table, condition, f"has no value in {name}")]
    return [_fill(table, name, condition, value)]


def _place(table: str, key: list[str], name: str, condition: str, value: str, why: str, entry: int) -> str:
    keys = "ARRAY[" + ", ".join(ddl.literal(each) for each in key) + "]::text[]"
    texts = [ddl.literal(each) for each in (ddl.name(table), name, condition, value, why)]
    return f"SELECT parked.place({entry}, {texts[0]}, {keys}, {', '.join(texts[1:])})"


# -- types ----------------------------------------------------------------------------------------------------------


def alter_type(draft: Draft, table: str, name: str, mine: Column, theirs: Column) -> None:
    """Changes a column's type; values that the new one can't hold exactly are kept, each way."""
    there, back = draft.id(), draft.id()
    count = draft.rows(table)
    seconds = count / REWRITE + count / READ
    to, fro = _cast(name, mine, theirs), _cast(name, theirs, mine)
    draft.add(
        "change type",
        f"{table}.{name}",
        f"{name} of {table} becomes {theirs.type} (was {mine.type}); values that do not fit exactly are kept beside it",
        [
            *hold_misfits(draft, there, table, name, mine, theirs),
            f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} TYPE {_typed(theirs)} USING {to}",
            f"SELECT parked.restore({back})",
            f"SELECT parked.take_back({back})",
        ],
        [
            *hold_misfits(draft, back, table, name, theirs, mine),
            f"ALTER TABLE {ddl.name(table)} ALTER COLUMN {ddl.ident(name)} TYPE {_typed(mine)} USING {fro}",
            f"SELECT parked.restore({there})",
            f"SELECT parked.take_back({there})",
        ],
        undo_words=f"{name} of {table} becomes {mine.type} again, with the values it had where nobody changed them",
        tables=[table],
        rewrite=not _only_wider(mine, theirs),
        scans=0.0 if _only_wider(mine, theirs) else seconds,
        undo_scans=0.0 if _only_wider(theirs, mine) else seconds,
        rows=0 if _only_wider(mine, theirs) else count,
        loss="kept" if exact(mine, theirs) else "set-aside",
    )


def _typed(column: Column) -> str:
    return column.type + (f" COLLATE {ddl.name(column.collation)}" if column.collation else "")


def _base(type_: str) -> tuple[str, str]:
    """`character varying(64)` -> (`character varying`, `64`)."""
    head, bracket, rest = type_.partition("(")
    if not bracket:
        return type_, ""
    inside, _, tail = rest.partition(")")
    return (head + tail).strip(), inside


def _direct(mine: Column, theirs: Column) -> bool:
    one, other = _base(mine.type)[0], _base(theirs.type)[0]
    return one == other or any(one in family and other in family for family in _FAMILIES)


def _cast(name: str, mine: Column, theirs: Column, alias: str = "") -> str:
    column = f"{alias}{ddl.ident(name)}"
    if _direct(mine, theirs) or theirs.type == "text":
        return f"{column}::{theirs.type}"
    return f"{column}::text::{theirs.type}"


def exact(mine: Column, theirs: Column) -> bool:
    """Whether every value of the one type is a value of the other, and comes back the same."""
    (one, limit), (other, bound) = _base(mine.type), _base(theirs.type)
    if one in _INTEGERS and other in _INTEGERS:
        return _INTEGERS[one][1] <= _INTEGERS[other][1]
    if one in _INTEGERS and other == "numeric":
        return not bound
    if one in ("text", "character varying") and other in ("text", "character varying"):
        return not bound or (bool(limit) and int(limit) <= int(bound))
    if (one, other) in _EXACT:
        return True
    if one == other == "numeric" and not bound:
        return not limit
    return mine.type == theirs.type


def _only_wider(mine: Column, theirs: Column) -> bool:
    """Whether the change is one of the catalogue alone."""
    texts = ("text", "character varying")
    same = _base(mine.type)[0] in texts and _base(theirs.type)[0] in texts and mine.collation == theirs.collation
    return same and exact(mine, theirs)


def hold_misfits(draft: Draft, entry: int, table: str, name: str, mine: Column, theirs: Column) -> list[str]:
    """SQL that keeps the values which a type can't hold, and puts what it can in their place."""
    if exact(mine, theirs):
        return []
    column = f"t.{ddl.ident(name)}"
    key = draft.key(table)
    why = f"{name} does not fit into {theirs.type}"
    (one, _), (other, _) = _base(mine.type), _base(theirs.type)
    done: list[str] = []
    if one in _NUMBERS and other in _INTEGERS:
        low, high = _INTEGERS[other]
        outside = f"NOT ({column}::numeric BETWEEN {low} AND {high})"
        done.append(draft.set_aside(entry, table, outside, why))
    elif not (one in _TEXTS and other in _TEXTS) and not (one in _TIMES and other in _TIMES and _TIMES.index(one) > 0):
        through = "text" if not _direct(mine, theirs) else mine.type
        misfit = f"NOT parked.fits({column}::text, {ddl.literal(through)}, {ddl.literal(theirs.type)})"
        done.append(draft.set_aside(entry, table, misfit, why))
    there = _cast(name, mine, theirs, "t.")
    again = f"({there})::{mine.type}" if _direct(mine, theirs) else f"({there})::text::{mine.type}"
    differs = f"({again})::text IS DISTINCT FROM {column}::text"
    if key and name not in key:
        done.append(_place(table, key, name, differs, again, why, entry))
    else:
        done.append(draft.set_aside(entry, table, differs, why))
    return done


def place_values(draft: Draft, table: str, name: str, column: Column, values: Mapping[str, str]) -> None:
    """Puts values in the place of those that the target does not allow, as the hints say; the way back restores them."""
    entry = draft.id()
    key = draft.key(table)
    place = f"t.{ddl.ident(name)}::text"
    cases = " ".join(f"WHEN {ddl.literal(old)} THEN {ddl.literal(new)}" for old, new in sorted(values.items()))
    condition = f"{place} IN ({', '.join(ddl.literal(old) for old in sorted(values))})"
    why = f"{name} has no such value in the other release"
    if key and name not in key:
        do = [_place(table, key, name, condition, f"(CASE {place} {cases} END)::{column.type}", why, entry)]
    else:
        do = [draft.set_aside(entry, table, condition, why)]
    listed = ", ".join(f"{old} becomes {new}" for old, new in sorted(values.items()))
    draft.add(
        "place values",
        f"{table}.{name}",
        f"{name} of {table}: {listed}; the real values are kept",
        do,
        [f"SELECT parked.restore({entry})", f"SELECT parked.take_back({entry})"],
        undo_words=f"{name} of {table}: the real values come back where nobody has changed them",
        lock="SHARE ROW EXCLUSIVE",
        tables=[table],
        scans=draft.rows(table) / READ,
        undo_scans=draft.rows(table) / WRITE / 100,
        rows=draft.rows(table),
        loss="set-aside",
    )


# -- the rest of a column ---------------------------------------------------------------------------------------------


def change_default(draft: Draft, table: str, name: str, mine: str | None, theirs: str | None) -> None:
    """Sets or drops a default; no row changes."""
    words = f"the default of {name} of {table} becomes {theirs if theirs is not None else 'none'}"
    back = f"the default of {name} of {table} becomes {mine if mine is not None else 'none'}"
    draft.add(
        "change default",
        f"{table}.{name}",
        words,
        [ddl.set_default(table, name, theirs)],
        [ddl.set_default(table, name, mine)],
        undo_words=back,
        tables=[table],
    )


def change_identity(draft: Draft, table: str, name: str, mine: Column, theirs: Column) -> None:
    """Adds, drops or changes an identity; where its numbers had got to is kept."""
    place, column = ddl.name(table), ddl.ident(name)
    alter = f"ALTER TABLE {place} ALTER COLUMN {column}"
    entry = draft.id()

    def sequence() -> str:
        return f"pg_catalog.pg_get_serial_sequence({ddl.literal(place)}, {ddl.literal(name)})::regclass"

    def add(shape: Column) -> list[str]:
        top = f"(SELECT pg_catalog.max({column}) FROM {place})"  # noqa: S608
        kept = f"(SELECT (shape->>'last')::bigint FROM parked.entry WHERE id = {entry})"  # noqa: S608
        return [
            f"{alter} ADD GENERATED {shape.identity.upper()} AS IDENTITY",
            f"SELECT pg_catalog.setval({sequence()}, greatest({top}, {kept}, 1), greatest({top}, {kept}) IS NOT NULL)",
            returned(entry),
        ]

    def drop() -> list[str]:
        shape = f"pg_catalog.jsonb_build_object('last', pg_catalog.pg_sequence_last_value({sequence()}))"
        where = ddl.literal(f"{table}.{name}")
        return [
            f"SELECT parked.note({entry}, 'identity', {where}, {where}, {shape})",
            f"{alter} DROP IDENTITY",
        ]

    if mine.identity and theirs.identity:
        do = [f"{alter} SET GENERATED {theirs.identity.upper()}"]
        undo = [f"{alter} SET GENERATED {mine.identity.upper()}"]
    elif theirs.identity:
        do, undo = add(theirs), drop()
    else:
        do, undo = drop(), add(mine)
    words = f"{name} of {table} {'numbers its rows by itself' if theirs.identity else 'is numbered by who writes'}"
    back = f"{name} of {table} {'numbers its rows by itself' if mine.identity else 'is numbered by who writes'}"
    draft.add("change identity", f"{table}.{name}", words, do, undo, undo_words=back, tables=[table])


def drop_generated(draft: Draft, table: str, name: str, shape: Column) -> None:
    """A generated column holds nothing of its own: it is dropped, and computed again on the way back."""
    count = draft.rows(table)
    draft.add(
        "drop generated column",
        f"{table}.{name}",
        f"{name} of {table} is taken off: it is computed from other columns",
        [f"ALTER TABLE {ddl.name(table)} DROP COLUMN {ddl.ident(name)}"],
        [ddl.add_column(table, name, shape)],
        undo_words=f"{name} of {table} is computed again",
        tables=[table],
        undo_scans=count / REWRITE,
        loss="derived",
    )


def add_generated(draft: Draft, table: str, name: str, shape: Column) -> None:
    """Adds a generated column."""
    count = draft.rows(table)
    draft.add(
        "make generated column",
        f"{table}.{name}",
        f"{name} of {table} is computed from other columns",
        [ddl.add_column(table, name, shape)],
        [f"ALTER TABLE {ddl.name(table)} DROP COLUMN {ddl.ident(name)}"],
        undo_words=f"{name} of {table} is taken off again",
        tables=[table],
        rewrite=True,
        scans=count / REWRITE,
        rows=count,
        loss="made",
    )

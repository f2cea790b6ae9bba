"""Tables, types and domains: parked and brought back, made, and exchanged for another form."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from kattegat.schema import ddl
from kattegat.schema.conversions import hold_misfits
from kattegat.schema.draft import READ, REWRITE, Draft, away, either, home, note, plain, returned
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Column, Domain, Enum, Table

# -- tables ---------------------------------------------------------------------------------------------------------


def park_table(draft: Draft, table: str, shape: Table) -> None:
    """Moves a table that the target does not know to schema `parked`, whole, with its keys and indexes."""
    entry = draft.ids[table]
    draft.add(
        "park table",
        table,
        f"{table} is parked: every row is kept, out of sight of an older release",
        _park_table(table, entry, shape),
        _back_table(table, entry, shape),
        undo_words=f"{table} comes back with every row",
        tables=[table],
        loss="parked",
    )


def make_table(draft: Draft, table: str, shape: Table) -> None:
    """Makes a table with its columns; once it has been parked on the way back, it is brought back instead."""
    entry = draft.ids[table]
    # What else a table has is put on and taken off by steps of its own, on the way back before this one.
    bare = msgspec.structs.replace(shape, constraints={}, indexes={}, triggers={}, policies={})
    make = [ddl.create_table(table, bare), *([ddl.set_owner(table, "table", shape.owner)] if shape.owner else [])]
    make += ddl.table_grants(table, Table(columns={}), shape)
    draft.add(
        "make table",
        table,
        f"{table} is made",
        [either(entry, _back_table(table, entry, bare), make)],
        _park_table(table, entry, bare),
        undo_words=f"{table} is parked: every row is kept",
        tables=[table],
        loss="made",
    )


def bring_back_table(draft: Draft, table: str, before: Entry, shape: Table) -> Table:
    """Brings back a table that an earlier change has parked, as it was then; gives how it is.

    Its keys and indexes go by the names they had while parked: their own may still be another table's."""
    draft.add(
        "bring back table",
        table,
        f"{table} comes back with every row",
        _home_table(table, before.id, shape),
        _away_table(table, before.id, shape),
        undo_words=f"{table} is parked: every row is kept",
        tables=[table],
    )
    keys, indexes = _aliases(before.id, shape)
    return msgspec.structs.replace(
        shape,
        constraints={keys.get(name, name): each for name, each in shape.constraints.items()},
        indexes={
            indexes[name]: msgspec.structs.replace(
                each, definition=ddl.renamed_index(each.definition, name, indexes[name])
            )
            for name, each in shape.indexes.items()
        },
    )


def _park_table(table: str, entry: int, shape: Table) -> list[str]:
    return [*_renamed(entry, table, shape, away=True), *_away_table(table, entry, shape)]


def _away_table(table: str, entry: int, shape: Table) -> list[str]:
    moved = f"parked.t{entry}"
    return [
        *([_move_partitions(table, entry, away=True)] if shape.partition else []),
        *away("TABLE", table, entry, f"t{entry}"),
        *_identities(moved, entry, shape, away=True),
        note(entry, "table", table, moved, shape),
    ]


def _back_table(table: str, entry: int, shape: Table) -> list[str]:
    *done, noted = _home_table(table, entry, shape)
    return [*done, *_renamed(entry, table, shape, away=False), noted]


def _home_table(table: str, entry: int, shape: Table) -> list[str]:
    return [
        *_identities(f"parked.t{entry}", entry, shape, away=False, table=table),
        *home("TABLE", table, entry, f"t{entry}"),
        *([_move_partitions(table, entry, away=False)] if shape.partition else []),
        returned(entry),
    ]


def _aliases(entry: int, shape: Table) -> tuple[dict[str, str], dict[str, str]]:
    """The names of a table's keys and of its indexes while it is parked."""
    keyed = [n for n, c in sorted(shape.constraints.items()) if c.kind in ("primary key", "unique", "exclude")]
    keys = {key: f"k{entry}_{number}" for number, key in enumerate(keyed)}
    return keys, {index: f"i{entry}_{number}" for number, index in enumerate(sorted(shape.indexes))}


def _renamed(entry: int, table: str, shape: Table, *, away: bool) -> list[str]:
    """Keys and indexes lie in their table's schema, where two parked tables must not clash."""
    done: list[str] = []
    keys, indexes = _aliases(entry, shape)
    for own, alias in keys.items():
        one, other = (own, alias) if away else (alias, own)
        done.append(f"ALTER TABLE {ddl.name(table)} RENAME CONSTRAINT {ddl.ident(one)} TO {ddl.ident(other)}")
    for own, alias in indexes.items():
        one, other = (own, alias) if away else (alias, own)
        done.append(f"ALTER INDEX {ddl.beside(table, one)} RENAME TO {ddl.ident(other)}")
    return done


def _identities(moved: str, entry: int, shape: Table, *, away: bool, table: str = "") -> list[str]:
    done: list[str] = []
    for number, column in enumerate(sorted(name for name, c in shape.columns.items() if c.identity)):
        found = f"pg_catalog.pg_get_serial_sequence({ddl.literal(moved)}, {ddl.literal(column)})"
        plain = f"q{entry}_{number}" if away else f"{table.partition('.')[2]}_{column}_seq"[:63]
        there = ddl.literal("parked" if away else ddl.ident(ddl.schema_of(table)))
        # Its name is no part of a shape: where another has it, it keeps the one it has.
        free = f"NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relname = {ddl.literal(plain)}"  # noqa: S608
        free += f" AND c.relnamespace = {there}::pg_catalog.regnamespace)"
        done.append(
            f"DO $kat_s$ BEGIN IF {free} THEN EXECUTE pg_catalog.format('ALTER SEQUENCE %s RENAME TO %I',"
            f" {found}, {ddl.literal(plain)}); END IF; END $kat_s$"
        )
    return done


def _move_partitions(table: str, entry: int, *, away: bool) -> str:
    """Partitions do not follow their table to another schema. One statement, since they are made at run time."""
    schema = ddl.schema_of(table)
    prefix = f"t{entry}_"
    to = "parked" if away else schema
    fresh = f"'{prefix}' || c.relname" if away else f"pg_catalog.substr(c.relname, {len(prefix) + 1})"
    return (
        "DO $kat_m$ DECLARE c record; BEGIN FOR c IN SELECT i.inhrelid::regclass AS place, r.relname, n.nspname"  # noqa: S608
        " FROM pg_catalog.pg_partition_tree("
        f"{ddl.literal(ddl.name(table))}::regclass) AS p JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = p.relid"
        " JOIN pg_catalog.pg_class AS r ON r.oid = p.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace"
        f" WHERE p.level > 0 LOOP EXECUTE pg_catalog.format('ALTER TABLE %s RENAME TO %I', c.place, {fresh});"
        f" EXECUTE pg_catalog.format('ALTER TABLE %I.%I SET SCHEMA {ddl.ident(to)}', c.nspname, {fresh});"
        " END LOOP; END $kat_m$"
    )


def lift_row_security(draft: Draft, table: str) -> None:
    """Lets the owner see every row of a table whose policies are forced on it."""
    draft.add(
        "lift row security",
        table,
        f"the policies of {table} do not hold for its owner while rows move",
        [f"ALTER TABLE {ddl.name(table)} NO FORCE ROW LEVEL SECURITY"],
        [f"ALTER TABLE {ddl.name(table)} FORCE ROW LEVEL SECURITY"],
        undo_words=f"the policies of {table} hold for its owner too",
        tables=[table],
    )


def alter_table(draft: Draft, table: str, mine: Table, theirs: Table, remade: Collection[str] = ()) -> None:
    """Owner, storage, row-level security and grants of a table that both sides have. Columns that are computed anew or
    parked bring their rights along."""

    def present(shape: Table) -> Table:
        there = {name: rights for name, rights in shape.column_grants.items() if name in theirs.columns}
        held = {name: rights for name, rights in there.items() if name not in remade}
        return msgspec.structs.replace(shape, column_grants=held)

    mine, theirs = present(mine), present(theirs)
    there = _attributes(table, mine, theirs)
    if there:
        back = _attributes(table, theirs, mine)
        words = f"owner, rights, options or row-level security of {table} change"
        rewrite = mine.unlogged != theirs.unlogged
        seconds = draft.rows(table) / REWRITE if rewrite else 0.0
        draft.add("change table", table, words, there, back, tables=[table], rewrite=rewrite, scans=seconds)


def _attributes(table: str, mine: Table, theirs: Table) -> list[str]:
    place = ddl.name(table)
    done: list[str] = []
    if mine.unlogged != theirs.unlogged:
        done.append(f"ALTER TABLE {place} SET {'UNLOGGED' if theirs.unlogged else 'LOGGED'}")
    if mine.options != theirs.options:
        names = ", ".join(option.partition("=")[0] for option in mine.options)
        if names:
            done.append(f"ALTER TABLE {place} RESET ({names})")
        pairs = [option.partition("=") for option in theirs.options]
        if pairs:
            done.append(f"ALTER TABLE {place} SET ({', '.join(f'{k}={ddl.literal(v)}' for k, _, v in pairs)})")
    if (mine.row_security, mine.forced) != (theirs.row_security, theirs.forced):
        done += ddl.row_security(table, theirs.row_security, theirs.forced)
    done += ddl.table_grants(table, mine, theirs)
    if mine.owner != theirs.owner and theirs.owner:
        done.append(ddl.set_owner(table, "table", theirs.owner))
    return done


# -- types ----------------------------------------------------------------------------------------------------------


def _word(shape: Enum | Domain) -> str:
    return "DOMAIN" if isinstance(shape, Domain) else "TYPE"


def _create(name: str, shape: Enum | Domain) -> list[str]:
    made = ddl.create_domain(name, shape) if isinstance(shape, Domain) else ddl.create_enum(name, shape)
    kind = "domain" if isinstance(shape, Domain) else "type"
    return [made, *([ddl.set_owner(name, kind, shape.owner)] if shape.owner else [])]


def park_type(draft: Draft, name: str, shape: Enum | Domain) -> None:
    """Parks a type that the target does not know; parked columns go on using it."""
    entry = draft.id()
    draft.add(
        "park type",
        name,
        f"the type {name} is parked",
        _away(name, entry, shape),
        _home(name, entry, shape),
        undo_words=f"the type {name} comes back",
        loss="parked",
    )


def make_type(draft: Draft, name: str, shape: Enum | Domain) -> None:
    """Makes a type; once parked, it is brought back instead."""
    entry = draft.id()
    draft.add("make type", name, f"the type {name} is made",
              [either(entry, _home(name, entry, shape), _create(name, shape))], _away(name, entry, shape),
              undo_words=f"the type {name} is parked", loss="made")  # fmt: skip


def bring_back_type(draft: Draft, name: str, before: Entry, shape: Enum | Domain) -> None:
    """Brings back a type that an earlier change has parked."""
    draft.add("bring back type", name, f"the type {name} comes back", _home(name, before.id, shape),
              _away(name, before.id, shape), undo_words=f"the type {name} is parked")  # fmt: skip


def _away(name: str, entry: int, shape: Enum | Domain) -> list[str]:
    return [*away(_word(shape), name, entry, f"t{entry}"), note(entry, "type", name, f"parked.t{entry}", shape)]


def _home(name: str, entry: int, shape: Enum | Domain) -> list[str]:
    return [*home(_word(shape), name, entry, f"t{entry}"), returned(entry)]


def exchange_type(
    draft: Draft, name: str, mine: Enum | Domain, theirs: Enum | Domain, columns: Iterable[tuple[str, str, Column]]
) -> None:
    """Puts another form of a type in its place: the columns (table, name, shape) that both sides have move over, those
    that are parked keep the old form. Values that the other form does not have are set aside."""
    old = draft.id()
    before = draft.entry("type", name, theirs)
    alike = before is not None and before.shape == plain(theirs)
    fresh = before.id if before is not None and alike else draft.id()
    new = f"parked.t{fresh}"
    absent = [*_create(new, theirs), note(fresh, "type", name, new, theirs)]
    draft.add(
        "make type",
        name,
        f"the other form of the type {name} is made",
        [either(fresh, [], absent)],
        [],
        undo_words=f"the other form of the type {name} stays parked",
        loss="made",
    )
    for table, column, shape in columns:
        _exchange_column(draft, name, new, mine, theirs, table, column, shape)
    draft.add(
        "exchange type",
        name,
        f"the other form of the type {name} takes its place",
        [*_away(name, old, mine), *_home(name, fresh, theirs)],
        [*_away(name, fresh, theirs), *_home(name, old, mine)],
        undo_words=f"the former form of the type {name} takes its place again",
    )


def _exchange_column(
    draft: Draft,
    name: str,
    new: str,
    mine: Enum | Domain,
    theirs: Enum | Domain,
    table: str,
    column: str,
    shape: Column,
) -> None:
    there, back = draft.id(), draft.id()
    count = draft.rows(table)
    place, quoted = ddl.name(table), ddl.ident(column)
    array = "[]" if shape.type.endswith("[]") else ""
    other = Column(type=new + array, not_null=shape.not_null)
    here = Column(type=ddl.name(name) + array, not_null=shape.not_null)

    def alter(to: Column) -> str:
        return f"ALTER TABLE {place} ALTER COLUMN {quoted} TYPE {to.type} USING {quoted}::text::{to.type}"

    def misfits(entry: int, fro: Column, to: Column, allowed: Enum | Domain) -> list[str]:
        if isinstance(allowed, Enum) and not array:
            labels = ", ".join(ddl.literal(label) for label in allowed.labels)
            outside = f"t.{quoted}::text <> ALL (ARRAY[{labels}]::text[])"
            return [draft.set_aside(entry, table, outside, f"{column} has no such value in the other release")]
        return hold_misfits(draft, entry, table, column, fro, to)

    draft.add(
        "change type",
        f"{table}.{column}",
        f"{column} of {table} moves to the other form of {name}; rows with a value that it does not have are set aside",
        [
            *misfits(there, here, other, theirs),
            alter(other),
            f"SELECT parked.restore({back})",
            f"SELECT parked.take_back({back})",
        ],
        [
            *misfits(back, other, here, mine),
            alter(here),
            f"SELECT parked.restore({there})",
            f"SELECT parked.take_back({there})",
        ],
        undo_words=f"{column} of {table} moves back to the former form of {name}",
        tables=[table],
        rewrite=True,
        scans=count / REWRITE + count / READ,
        undo_scans=count / REWRITE + count / READ,
        rows=count,
        loss="set-aside",
    )

"""What was kept, put back after a newer release of OpenKAT has migrated upwards by itself.

Its own migrations know nothing of what is parked: they made columns and tables anew, empty or with values worked out.
Rows that still exist get back what they had; what has no place any more is reported, and stays parked.
"""

# ruff: noqa: S608 - names are quoted, and come from the ledger and the catalogue

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping
from graphlib import TopologicalSorter

from sqlalchemy import Connection

from kattegat.lifecycle.openkat import configurations, facts, hops, place, rights, steps
from kattegat.lifecycle.openkat.back import Back
from kattegat.lifecycle.openkat.change import Install
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import KIND, Done
from kattegat.lifecycle.openkat.place import Place
from kattegat.lifecycle.openkat.steps import scheduler
from kattegat.schema import ddl, ledger, runs, watch
from kattegat.schema.shape import Column, Snapshot, Table
from kattegat.schema.steps import Plan

# What OpenKAT's own upgrade works out again from what the older release had, changes made there included.
_DERIVED = frozenset(
    {
        "public.tasks.data",
        "public.tasks.hash",
        "public.tasks.priority",
        "public.tasks.organisation",
        "public.schedules.organisation",
        "public.settings",
    }
)


def everything(install: Install) -> list[Back]:
    """Puts back what was kept by hops that OpenKAT's own migrations have gone up since; one transaction per part."""
    found: list[Back] = []
    for where in install.places.values():
        with where.session() as connection, connection.begin():
            if not ledger.present(connection):
                continue
            connection.exec_driver_sql("SELECT set_config('kat.change', 'on', true)")
            connection.exec_driver_sql("SELECT set_config('search_path', '', true)")
            found += _part(connection, where)
    return found


def _part(connection: Connection, where: Place) -> list[Back]:
    part = where.part
    at = place.recorded(connection, part)
    order = facts.chain(part)
    way = hops.thread(connection)
    if at.revision not in order or not way or way[-1].target == at.revision:
        return []
    found: list[Back] = []
    shape = hops.read(connection)
    for hop in reversed(way):
        gone_up = order.index(hop.target) < order.index(hop.source) <= order.index(at.revision)
        if not gone_up:
            break
        found += _hop(connection, part, hop, shape)
        _mark(connection, hop)
    return found


def _hop(connection: Connection, part: Part, hop: Done, shape: Snapshot) -> list[Back]:
    plan = runs.load(connection, hop.run).plan()
    made = _entries(connection, plan)
    found: list[Back] = []
    if part == "katalogus" and hop.source == "f9de6eb7824b":
        found += configurations.put_back(connection, {entry.was: entry.now_is for entry in made})
    for entry in [one for one in made if one.was in _DERIVED or (one.was in configurations.TABLES and found)]:
        _drop(connection, entry)
    made = [entry for entry in _entries(connection, plan) if entry.state == "parked"]
    tables = {entry.was: entry for entry in made if entry.kind == "table"}
    found += [_table(connection, part, tables[name], shape) for name in _parents_first(tables, shape)]
    found += [_column(connection, part, entry) for entry in made if entry.kind == "column"]
    for entry in made:
        if entry.kind == "watch":
            for statement in watch.end_watch(entry.was, entry.id):
                _run(connection, statement)
    if part == "rocky" and hop.source == "1.19":
        found += rights.put_back(connection)
    found += _aside(connection, part, plan)
    if part == "scheduler" and hop.source == "0009":
        for statement in scheduler.REPAIR:
            _run(connection, statement)
    return [one for one in found if one.back or one.left]


def _parents_first(tables: Mapping[str, ledger.Entry], shape: Snapshot) -> list[str]:
    needs = {
        name: {
            key.references
            for key in (shape.tables[name].constraints.values() if name in shape.tables else ())
            if key.kind == "foreign key" and key.references in tables and key.references != name
        }
        for name in tables
    }
    return [str(name) for name in TopologicalSorter(needs).static_order()]


def _drop(connection: Connection, entry: ledger.Entry) -> None:
    if entry.kind == "table":
        _run(connection, f"DROP TABLE {ddl.name(entry.now_is)} CASCADE")
    else:
        table, column = entry.now_is.rpartition(".")[::2]
        _run(connection, f"ALTER TABLE {ddl.name(table)} DROP COLUMN {ddl.ident(column)} CASCADE")
    _run(connection, f"SELECT parked.returned({entry.id})")


def _entries(connection: Connection, plan: Plan) -> list[ledger.Entry]:
    texts = "\n".join(sql for step in plan.steps for sql in step.do)
    return [entry for entry in ledger.entries(connection) if f"parked.note({entry.id}, " in texts]


def _table(connection: Connection, part: Part, entry: ledger.Entry, shape: Snapshot) -> Back:
    table, kept = entry.was, ddl.name(entry.now_is)
    short = table.removeprefix("public.")
    if table not in shape.tables:
        return Back(part, short, 0, _count(connection, kept), "its table is not there")
    held = shape.tables[table]
    old = [row[0] for row in _ask(connection, _COLUMNS, entry.now_is)]
    # Columns of it that were parked before the table was.
    inner = {
        one.was.rpartition(".")[2]: one
        for one in ledger.entries(connection)
        if one.kind == "column" and one.was.rpartition(".")[0] == table and one.now_is.rpartition(".")[2] in old
    }
    sources = {name: f"p.{ddl.ident(name)}" for name in held.columns if name in old}
    for name, one in inner.items():
        if name in held.columns:
            sources[name] = f"p.{ddl.ident(one.now_is.rpartition('.')[2])}"
            fill = _fill(part, one.was)
            if fill is not None:
                sources[name] = f"coalesce({sources[name]}, {fill})"
    both = list(sources)
    key = next((one.columns for one in held.constraints.values() if one.kind == "primary key"), ())
    place_ = ddl.name(table)
    removed = 0
    same = " AND ".join(f"f.{ddl.ident(name)} = p.{ddl.ident(name)}" for name in key) or "false"
    # What a migration made up under the name, or the running number, of what was kept goes, with what refers to it.
    clash = [
        " AND ".join(f"t.{ddl.ident(name)} = p.{ddl.ident(name)}" for name in unique.columns)
        + f" AND NOT ({same.replace('f.', 't.')})"
        for unique in held.constraints.values()
        if unique.kind == "unique" and key and set(unique.columns) <= set(both)
    ]
    if any(_numbered(held.columns[name]) for name in key):
        clash.append(same.replace("f.", "t."))
    if clash:
        made_up = steps.entry(part, "made up", table)
        condition = f"EXISTS (SELECT 1 FROM {kept} AS p WHERE {' OR '.join(f'({each})' for each in clash)})"
        _run(
            connection,
            steps.aside(made_up, table, condition, "made up by a migration", shape, rule="ON DELETE SET NULL"),
        )
        removed = _settled(connection, made_up)
    listed = ", ".join(ddl.ident(name) for name in both)
    values = ", ".join(f"({sources[name]})::text::{held.columns[name].type}" for name in both)
    parents = "".join(
        f" AND ({' OR '.join(f'p.{ddl.ident(name)} IS NULL' for name in one.columns)} OR EXISTS (SELECT 1 FROM"
        f" {ddl.name(one.references or '')} AS r WHERE "
        + " AND ".join(f"r.{ddl.ident(b)} = p.{ddl.ident(a)}" for a, b in zip(one.columns, one.referenced, strict=True))
        + "))"
        for one in held.constraints.values()
        if one.kind == "foreign key" and set(one.columns) <= set(both)
    )
    back = _run(
        connection,
        f"INSERT INTO {place_} ({listed}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {kept} AS p WHERE true{parents}"
        f" AND NOT EXISTS (SELECT 1 FROM {place_} AS f WHERE {same})",
    )
    if key:
        sets = ", ".join(
            f"{ddl.ident(name)} = ({sources[name]})::text::{held.columns[name].type}"
            for name in both
            if name not in key
        )
        mine = ", ".join(f"f.{ddl.ident(name)}::text" for name in both)
        theirs = ", ".join(f"({sources[name]})::text" for name in both)
        if sets:
            back += _run(
                connection,
                f"UPDATE {place_} AS f SET {sets} FROM {kept} AS p WHERE {same}"
                f" AND ({mine}) IS DISTINCT FROM ({theirs}){parents}",
            )
    _count_on(connection, table, held)
    left = _count(connection, f"{kept} AS p WHERE NOT EXISTS (SELECT 1 FROM {place_} AS f WHERE {same})") if key else 0
    if left == 0:
        _run(connection, f"DROP TABLE {kept} CASCADE")
        gone = [entry, *inner.values()]
        gone += [one for one in ledger.entries(connection) if one.kind == "watch" and one.was == table]
        for one in gone:
            _run(connection, f"SELECT parked.returned({one.id})")
    words = f"{removed} rows that the migration had made up are removed" if removed else "as they were"
    return Back(part, short, back, left, words)


def _settled(connection: Connection, number: int) -> int:
    """Rows that were made up stay on record, and never come back by themselves; how many there are."""
    return _run(
        connection,
        f"UPDATE parked.quarantine SET state = 'stale', ended_at = clock_timestamp() WHERE entry = {number}"
        " AND state = 'held'",
    )


def _numbered(column: Column) -> bool:
    return bool(column.identity) or (column.default or "").startswith("nextval(")


def _count_on(connection: Connection, table: str, held: Table) -> None:
    """Numbers go on after the highest that has come back."""
    for name, column in held.columns.items():
        if _numbered(column):
            where = f"pg_catalog.pg_get_serial_sequence({ddl.literal(ddl.name(table))}, {ddl.literal(name)})"
            top = f"(SELECT max({ddl.ident(name)}) FROM {ddl.name(table)})"
            last = f"(SELECT coalesce(pg_catalog.pg_sequence_last_value({where}::regclass), 0))"
            _run(connection, f"SELECT pg_catalog.setval({where}, greatest({top}, {last})) WHERE {top} > {last}")


def _fill(part: Part, path: str) -> str | None:
    """What a row without a value of its own has in a column, as an expression over alias p."""
    for hop in steps.known(part).values():
        if path in hop.fill:
            return re.sub(r"\{(\w+)\}", lambda found: f"p.{ddl.ident(found[1])}", hop.fill[path])
    return None


def _column(connection: Connection, part: Part, entry: ledger.Entry) -> Back:
    table, _, name = entry.was.rpartition(".")
    kept = ddl.ident(entry.now_is.rpartition(".")[2])
    short = entry.was.removeprefix("public.")
    types = {row[0]: row[1] for row in _ask(connection, _COLUMNS, table)}
    if name not in types:
        return Back(part, short, 0, _count(connection, f"{ddl.name(table)} WHERE {kept} IS NOT NULL"), "no such column")
    # Rows without a kept value came later, or had none: for them the migration's value stands.
    back = _run(
        connection,
        f"UPDATE {ddl.name(table)} SET {ddl.ident(name)} = {kept}::text::{types[name]} WHERE {kept} IS NOT NULL"
        f" AND {ddl.ident(name)}::text IS DISTINCT FROM {kept}::text",
    )
    _run(connection, f"ALTER TABLE {ddl.name(table)} DROP COLUMN {kept} CASCADE")
    _run(connection, f"SELECT parked.returned({entry.id})")
    return Back(part, short, back, 0, "as they were")


def _aside(connection: Connection, part: Part, plan: Plan) -> list[Back]:
    texts = "\n".join(sql for step in plan.steps for sql in step.do)
    rows = connection.exec_driver_sql(
        "SELECT DISTINCT entry, table_name, column_name FROM parked.quarantine WHERE state = 'held' ORDER BY 1, 2, 3"
    ).all()
    found = []
    for number, table, column in rows:
        call = "restore" if column else "take_back"
        if f"({number}, " not in texts:
            continue
        if _plain(table) == "django_migrations":
            # Rocky has recorded them itself.
            connection.exec_driver_sql(
                "UPDATE parked.quarantine SET state = 'returned', ended_at = clock_timestamp() WHERE entry = %s",
                (number,),
            )
            continue
        back = int(connection.exec_driver_sql(f"SELECT parked.{call}({number})").scalar() or 0)
        left = connection.exec_driver_sql(
            "SELECT count(*) FROM parked.quarantine WHERE entry = %s AND table_name = %s"
            " AND state IN ('held', 'conflict', 'stale')",
            (number, table),
        ).scalar_one()
        what = _plain(table) + (f".{column}" if column else "")
        found.append(Back(part, what, back, int(left), "what was set aside"))
    return found


def _plain(table: str) -> str:
    return table.replace('"', "").removeprefix("public.")


# What data steps remember of tables that are gone for good once OpenKAT has upgraded by itself.
_RECORDS = {
    "0008": ("queued",),
    "7c88b9cd96aa": ("organisation", "repository"),
    "f9de6eb7824b": ("config",),
    "cd34fdfafdaf": ("settings",),
    "ec68d3eb14b1": ("raw_file",),
    "1dde0213e9fe": ("mime_type",),
    "1.16": ("migration",),
    "1.18": ("migration",),
    "1.19": ("migration",),
    "1.20": ("migration",),
}


def _mark(connection: Connection, hop: Done) -> None:
    """The thread ends before this hop now, and nothing is remembered of it."""
    for name in _RECORDS.get(hop.source, ()):
        _run(connection, f"DROP TABLE IF EXISTS parked.openkat_{name}")
    run = runs.begin(
        connection,
        KIND,
        Plan(source="", target=""),
        by_whom=getpass.getuser(),
        host=socket.gethostname(),
        revisions=(hop.target, hop.source),
        result={"undoes": hop.run, "by": "unpark"},
    )
    runs.end(connection, run)


def forget(install: Install) -> None:
    """Drops the ledger and everything parked; raises nothing for a part that has none."""
    for where in install.places.values():
        with where.session() as connection, connection.begin():
            if not ledger.present(connection):
                continue
            for entry in ledger.entries(connection):
                if entry.kind == "column":
                    table, column = entry.now_is.rpartition(".")[::2]
                    _run(
                        connection,
                        f"ALTER TABLE IF EXISTS {ddl.name(table)} DROP COLUMN IF EXISTS {ddl.ident(column)} CASCADE",
                    )
            # The watches over rows go with their functions.
            _run(connection, "DROP SCHEMA parked CASCADE")
            _run(connection, "DROP SCHEMA lifecycle CASCADE")


_COLUMNS = (
    "SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
    " WHERE attrelid = CAST(%s AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
)


def _ask(connection: Connection, query: str, table: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in connection.exec_driver_sql(query, (ddl.name(table),))]


def _count(connection: Connection, what: str) -> int:
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {what}").scalar_one())


def _run(connection: Connection, statement: str) -> int:
    return max(connection.exec_driver_sql(statement.replace("%", "%%")).rowcount, 0)

"""What was kept, put back after a newer release of OpenKAT has migrated upwards by itself.

Its own migrations know nothing of what is parked: they made columns and tables anew, empty or with values worked out.
Rows that still exist get back what they had; what has no place any more is reported, and stays parked.
"""

# ruff: noqa: S608 - names are quoted, and come from the ledger and the catalogue

from __future__ import annotations

import getpass
import socket

from msgspec import Struct
from sqlalchemy import Connection

from kattegat.lifecycle.openkat import facts, hops, place
from kattegat.lifecycle.openkat.change import Install
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import KIND, Done
from kattegat.lifecycle.openkat.place import Place
from kattegat.schema import ddl, ledger, runs, watch
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan


class Back(Struct, frozen=True):
    """One thing that was kept: how many of its rows are back, and how many are left parked or set aside."""

    part: Part
    what: str
    back: int
    left: int
    words: str


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
    found = [_table(connection, part, entry, shape) for entry in made if entry.kind == "table"]
    found += [_column(connection, part, entry) for entry in made if entry.kind == "column"]
    for entry in made:
        if entry.kind == "watch":
            for statement in watch.end_watch(entry.was, entry.id):
                _run(connection, statement)
    found += _aside(connection, part, plan)
    return [one for one in found if one.back or one.left]


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
    both = [name for name in held.columns if name in old]
    key = next((one.columns for one in held.constraints.values() if one.kind == "primary key"), ())
    place_ = ddl.name(table)
    removed = 0
    same = " AND ".join(f"f.{ddl.ident(name)} = p.{ddl.ident(name)}" for name in key) or "false"
    for one in held.constraints.values():
        # What a migration made up under the name of what was kept goes, and what refers to it follows its own rule.
        if one.kind == "unique" and key and set(one.columns) <= set(both):
            equal = " AND ".join(f"f.{ddl.ident(name)} = p.{ddl.ident(name)}" for name in one.columns)
            removed += _run(
                connection,
                f"DELETE FROM {place_} AS f USING {kept} AS p WHERE {equal} AND NOT ({same})"
                f" AND NOT EXISTS (SELECT 1 FROM {kept} AS q WHERE {same.replace('p.', 'q.')})",
            )
    listed = ", ".join(ddl.ident(name) for name in both)
    values = ", ".join(f"p.{ddl.ident(name)}::text::{held.columns[name].type}" for name in both)
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
        " ON CONFLICT DO NOTHING",
    )
    if key:
        sets = ", ".join(
            f"{ddl.ident(name)} = p.{ddl.ident(name)}::text::{held.columns[name].type}"
            for name in both
            if name not in key
        )
        mine = ", ".join(f"f.{ddl.ident(name)}::text" for name in both)
        theirs = ", ".join(f"p.{ddl.ident(name)}::text" for name in both)
        if sets:
            back += _run(
                connection,
                f"UPDATE {place_} AS f SET {sets} FROM {kept} AS p WHERE {same}"
                f" AND ({mine}) IS DISTINCT FROM ({theirs}){parents}",
            )
    left = _count(connection, f"{kept} AS p WHERE NOT EXISTS (SELECT 1 FROM {place_} AS f WHERE {same})") if key else 0
    if left == 0:
        _run(connection, f"DROP TABLE {kept} CASCADE")
        _run(connection, f"SELECT parked.returned({entry.id})")
    words = f"{removed} rows that the migration had made up are removed" if removed else "as they were"
    return Back(part, short, back, left, words)


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
        back = int(connection.exec_driver_sql(f"SELECT parked.{call}({number})").scalar() or 0)
        left = connection.exec_driver_sql(
            "SELECT count(*) FROM parked.quarantine WHERE entry = %s AND table_name = %s"
            " AND state IN ('held', 'conflict', 'stale')",
            (number, table),
        ).scalar_one()
        what = table.replace('"', "").removeprefix("public.") + (f".{column}" if column else "")
        found.append(Back(part, what, back, int(left), "what was set aside"))
    return found


def _mark(connection: Connection, hop: Done) -> None:
    """The thread ends before this hop now."""
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
                    _run(connection, f"ALTER TABLE {ddl.name(table)} DROP COLUMN {ddl.ident(column)} CASCADE")
                elif entry.kind == "watch":
                    for statement in watch.end_watch(entry.was, entry.id):
                        _run(connection, statement)
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

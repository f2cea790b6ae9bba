"""What is parked: listed, shown, written out, and (only when somebody wants that) thrown away for good."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text
from sqlalchemy.exc import NotSupportedError

from kattegat.errors import KattegatError, UsageError
from kattegat.schema import ledger, runs

CHUNK = 1000


class Parked(Struct, frozen=True):
    """A parked thing. `kind` is column, table, rows, values, watch or the like; `was` is where it belongs, `now_is`
    where it lies. `size` in bytes and `rows` are of what lies aside; `touched` are rows that the release in force has
    changed or removed since; `run` is the change that parked it."""

    id: int
    kind: str
    was: str
    now_is: str
    parked_at: datetime | None
    run: int | None
    size: int
    rows: int
    touched: int


class NotParkedError(UsageError):
    """No parked thing of this number."""


class NotPurgeableError(KattegatError):
    """A parked thing that is needed: by the change under way, by other parked things, or to come back at all."""


LIST = text(
    """
    SELECT e.id, e.kind, e.was, e.now_is, e.parked_at,
           CASE WHEN e.made_by ~ '^[0-9]+$' THEN CAST(e.made_by AS bigint) END AS run,
           CASE WHEN e.kind = 'table' THEN coalesce(pg_total_relation_size(to_regclass(e.now_is)), 0)
                ELSE coalesce((SELECT sum(pg_column_size(q.*)) FROM parked.quarantine q WHERE q.entry = e.id
                               AND q.state <> 'returned'), 0) END AS size,
           CASE WHEN e.kind = 'table' THEN coalesce((SELECT greatest(c.reltuples, 0) FROM pg_class c
                                                    WHERE c.oid = to_regclass(e.now_is)), 0)
                ELSE (SELECT count(*) FROM parked.quarantine q WHERE q.entry = e.id AND q.state <> 'returned')
                END AS rows,
           (SELECT count(*) FROM parked.touched t WHERE t.entry = e.id AND t.open) AS touched
    FROM parked.entry e WHERE e.state = 'parked' ORDER BY e.id
    """
)
# The average width is what the statistics know; nothing is read for it.
WIDTH = text(
    """
    SELECT CAST(coalesce(s.avg_width * (1 - s.null_frac) * greatest(c.reltuples, 0), 0) AS bigint) AS size,
           CAST(greatest(c.reltuples, 0) AS bigint) AS rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = :column
    WHERE concat(n.nspname, '.', c.relname) = :table
    """
)


def everything(connection: Connection) -> list[Parked]:
    """All that is parked, oldest first; none for a database without a record of it. Sizes of columns are estimates."""
    if not ledger.present(connection):
        return []
    found = []
    for row in connection.execute(LIST):
        entry = Parked(**{**row._mapping, "size": int(row.size), "rows": int(row.rows)})
        if entry.kind == "column":
            table, _, column = entry.now_is.rpartition(".")
            width = connection.execute(WIDTH, {"table": table, "column": column}).first()
            if width is not None:
                entry = msgspec.structs.replace(entry, size=int(width.size), rows=int(width.rows))
        found.append(entry)
    return found


def get(connection: Connection, id_: int) -> Parked:
    """One of them; raises `NotParkedError`."""
    for entry in everything(connection):
        if entry.id == id_:
            return entry
    raise NotParkedError(f"Nothing is parked under the number {id_}; `kat parked list` shows what is.")


def shape(connection: Connection, id_: int) -> dict[str, Any]:
    """Its part of the schema it belongs to, as a snapshot holds it."""
    found = connection.execute(text("SELECT shape FROM parked.entry WHERE id = :id"), {"id": id_}).scalar()
    return dict(found or {})


def touched(connection: Connection, id_: int, limit: int = 20) -> list[dict[str, Any]]:
    """Rows that the release in force has changed (`U`), removed (`D`) or truncated (`T`) since, the newest first."""
    rows = connection.execute(
        text(
            "SELECT CAST(act AS text) AS act, key, contents, at FROM parked.touched WHERE entry = :id AND open"
            " ORDER BY id DESC LIMIT :limit"
        ),
        {"id": id_, "limit": limit},
    )
    return [dict(row._mapping) for row in rows]


def export(connection: Connection, entry: Parked) -> Iterator[bytes]:
    """Everything of a parked thing as JSON lines, the first of which says what it is."""
    yield msgspec.json.encode({"parked": entry, "shape": shape(connection, entry.id)})
    sources = []
    if entry.kind == "table":
        sources.append(("row", f"SELECT to_jsonb(t) AS line FROM {_name(connection, entry.now_is)} AS t"))  # noqa: S608
    elif entry.kind == "column":
        table, _, column = entry.now_is.rpartition(".")
        place = _name(connection, table)
        quoted = connection.execute(text("SELECT quote_ident(:name)"), {"name": column}).scalar_one()
        keys = list(connection.execute(KEY, {"table": place}).scalars())
        parts = ", ".join(f"'{name.replace(chr(39), chr(39) * 2)}', t.{_ident(name)}" for name in keys)
        sources.append(
            (
                "value",
                f"SELECT jsonb_build_object('key', jsonb_build_object({parts}), 'value', to_jsonb(t.{quoted})) AS line"  # noqa: S608
                f" FROM {place} AS t WHERE t.{quoted} IS NOT NULL",
            )
        )
    sources += [
        (kind, f"SELECT to_jsonb(t) AS line FROM parked.{table} AS t WHERE entry = {entry.id:d} ORDER BY id")  # noqa: S608
        for kind, table in (("aside", "quarantine"), ("touched", "touched"))
    ]
    for kind, query in sources:
        rows = connection.execution_options(stream_results=True, yield_per=CHUNK).exec_driver_sql(
            query.replace("%", "%%")
        )
        for row in rows:
            yield msgspec.json.encode({kind: row.line})


def purge(connection: Connection, ids: list[int], by_whom: str, host: str) -> list[Parked]:
    """Throws parked things away for good, in the caller's transaction, with a line in the history.

    What a release comes back to finds them missing: a column is empty then, a table has no rows. Raises
    `NotParkedError`, or `NotPurgeableError` while a change is under way.
    """
    run = runs.open_run(connection)
    if run is not None:
        raise NotPurgeableError(
            f"A {run.kind} is under way since {run.started_at:%Y-%m-%d %H:%M} UTC and may need what is parked: type"
            f" `kat {run.kind} --resume` or `--cancel` first."
        )
    chosen = [get(connection, id_) for id_ in ids]
    # The watch over parked columns is not to write down what is thrown away.
    connection.execute(text("SELECT set_config('kat.change', 'on', true)"))
    for entry in chosen:
        if entry.kind == "column":
            _empty(connection, entry)
    tables = [_name(connection, entry.now_is) for entry in chosen if entry.kind == "table"]
    if tables:
        try:
            _run(connection, f"TRUNCATE {', '.join(tables)}")
        except NotSupportedError as problem:
            raise NotPurgeableError(
                f"Other parked tables refer to {', '.join(e.was for e in chosen if e.kind == 'table')}: purge them in"
                " the same command."
            ) from problem
    for table in ("quarantine", "touched"):
        connection.execute(
            text(f"DELETE FROM parked.{table} WHERE entry = ANY (:ids)"),  # noqa: S608
            {"ids": ids},
        )
    result = msgspec.json.encode({"purged": chosen}).decode()
    connection.execute(PURGED, {"by_whom": by_whom, "host": host, "result": result})
    return chosen


def _empty(connection: Connection, entry: Parked) -> None:
    """Takes the values out of a parked column; it stays where it is, so that the way back finds it."""
    like = shape(connection, entry.id)
    default = like.get("default")
    if like.get("not_null") and default is None:
        raise NotPurgeableError(
            f"The column {entry.was} may not be empty when it comes back, and nothing says what to put there:"
            f" `kat parked export {entry.id}` writes it to a file; it stays where it is."
        )
    table, _, column = entry.now_is.rpartition(".")
    value = str(default) if like.get("not_null") else "NULL"
    # By the function that moves values in a change: no trigger of the schema's own takes it for work on the row.
    connection.execute(
        text("SELECT parked.fill(:place, :column, :condition, :value)"),
        {
            "place": _name(connection, table),
            "column": column,
            "condition": f"t.{_ident(column)} IS NOT NULL",
            "value": value,
        },
    )


def _run(connection: Connection, sql: str) -> None:
    connection.exec_driver_sql(sql.replace("%", "%%"))


def _name(connection: Connection, bare: str) -> str:
    found = connection.execute(NAME, {"bare": bare}).scalar()
    if found is None:
        raise NotParkedError(f"{bare} is not there any more: somebody removed it by hand; restore a backup.")
    return str(found)


def _ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


NAME = text(
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE concat(n.nspname, '.', c.relname) = :bare"
)
KEY = text(
    "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
    " WHERE i.indrelid = to_regclass(:table) AND i.indisprimary ORDER BY a.attnum"
)
PURGED = text(
    """
    INSERT INTO lifecycle.run (kind, state, document, sha256, by_whom, host, ended_at, result)
    VALUES ('purge', 'done', '', '', :by_whom, :host, clock_timestamp(), CAST(:result AS jsonb))
    """
)

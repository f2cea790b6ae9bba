"""Statements that run outside a transaction, made safe to repeat; and who holds a lock that is wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, text

_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_CREATE = re.compile(
    rf"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>{_NAME})\s+ON\s+(?:ONLY\s+)?"
    rf"(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<table>{_NAME})",
    re.IGNORECASE,
)
_DROP = re.compile(
    rf"\s*DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?(?:(?P<schema>{_NAME})\s*\.\s*)?(?P<index>{_NAME})",
    re.IGNORECASE,
)
_FOUND = """
    SELECT i.indisvalid AND i.indisready FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s
"""
_HOLDERS = text(
    """
    SELECT DISTINCT l.pid, a.usename, a.application_name, a.client_addr::text AS address, a.state,
           CAST(extract(epoch FROM clock_timestamp() - a.xact_start) AS bigint) AS seconds
    FROM pg_locks AS l
    JOIN pg_class AS c ON c.oid = l.relation
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_partition_root(c.oid) AS root (relation) ON true
    LEFT JOIN pg_class AS rc ON rc.oid = root.relation
    LEFT JOIN pg_namespace AS rn ON rn.oid = rc.relnamespace
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (concat(n.nspname, '.', c.relname) = ANY (:tables) OR concat(rn.nspname, '.', rc.relname) = ANY (:tables)
           OR cardinality(CAST(:tables AS text[])) = 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema'))
    ORDER BY seconds DESC NULLS LAST LIMIT 5
    """
)


def settle(cursor: Any, statement: str) -> None:
    """Runs a statement that refuses a transaction, or leaves it when it was done before; half an index goes first.

    `cursor` is the driver's, in autocommit. Other statements than CREATE and DROP INDEX CONCURRENTLY are just run: they
    must bear being run twice.
    """
    created, dropped = _CREATE.match(statement), _DROP.match(statement)
    if created:
        schema, index = _plain(created["schema"] or "public"), _plain(created["index"])
        found = cursor.execute(_FOUND, (schema, index)).fetchone()
        if found == (True,):
            return
        if found is not None:
            # It is of no use to readers, and every writer would have to keep it up.
            cursor.execute(f"DROP INDEX CONCURRENTLY {_quoted(schema)}.{_quoted(index)}".encode())
    elif dropped:
        place = (_plain(dropped["schema"] or "public"), _plain(dropped["index"]))
        if cursor.execute(_FOUND, place).fetchone() is None:
            return
    cursor.execute(statement.encode(), prepare=False)


def writes(tag: str | None) -> bool:
    """Whether a command's tag (`UPDATE 12`) counts rows that were written."""
    return (tag or "").startswith(("INSERT", "UPDATE", "DELETE", "MERGE", "COPY"))


def holders(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Who holds locks on these tables (`public.task`), the longest first: `kat_app (psql) from 10.0.0.1, 12 s, idle in
    transaction, server process 4711`. Without tables: on any."""
    found = []
    for row in connection.execute(_HOLDERS, {"tables": list(tables)}):
        who = (row.usename or "the server itself") + (f" ({row.application_name})" if row.application_name else "")
        parts = [f"{who} from {row.address}" if row.address else who]
        if row.seconds is not None:
            parts.append(f"since {row.seconds} s")
        if row.state:
            parts.append(row.state)
        found.append(", ".join([*parts, f"server process {row.pid}"]))
    return found


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

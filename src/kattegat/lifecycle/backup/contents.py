"""What is in a database: rows and a fingerprint per table, and where the sequences are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from kattegat.lifecycle.backup.errors import BackupError
from kattegat.lifecycle.backup.manifest import Contents
from kattegat.lifecycle.backup.reach import Reach

# Partitions one by one, so that a large table is read by several at once and a difference is told exactly.
TABLES = """
SELECT n.nspname, c.relname, pg_table_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast|^pg_temp'
ORDER BY pg_table_size(c.oid) DESC, 1, 2
"""
SEQUENCES = """
SELECT format('%%I.%%I', schemaname, sequencename), coalesce(last_value, start_value - sign(increment_by)::bigint),
       increment_by > 0
FROM pg_sequences
"""


class Table(msgspec.Struct, frozen=True):
    """A table that holds rows; `size` in bytes without indexes, as it is in this database."""

    schema: str
    name: str
    size: int

    @property
    def full(self) -> str:
        """Its name with that of its schema, unquoted."""
        return f"{self.schema}.{self.name}"


def tables(connection: Connection) -> list[Table]:
    """Every table that holds rows, the largest first; partitions, not what they are partitions of."""
    return [Table(*row) for row in connection.exec_driver_sql(TABLES)]


def sequences(connection: Connection) -> dict[str, int]:
    """The last number that each ascending sequence has given."""
    return {row[0]: int(row[1]) for row in connection.exec_driver_sql(SEQUENCES) if row[2]}


def contents(connection: Connection, table: Table) -> Contents:
    """Rows and fingerprint of one table.

    The fingerprint is the sum over all rows of 128 bits of hash of the row as text, so it needs no order and no
    memory. It finds damage and loss; it is no defence against somebody who forges rows.
    """
    name = sql.Identifier(table.schema, table.name).as_string(None).replace("%", "%%")
    # OFFSET keeps the planner from writing the row out once for each seed. A hash follows its text's collation.
    lines = f'SELECT (_kat_row.*)::text COLLATE "C" AS line FROM ONLY {name} AS _kat_row OFFSET 0'  # noqa: S608 - quoted
    sums = ", ".join(f"coalesce(sum(hashtextextended(line, {seed})), 0)" for seed in (1, 2))
    row = connection.exec_driver_sql(f"SELECT count(*), {sums} FROM ({lines}) AS lines").one()  # noqa: S608
    return Contents(int(row[0]), f"{int(row[1]) % 2**64:016x}{int(row[2]) % 2**64:016x}")


class Reading:
    """Reads the contents of tables over several connections at once, in threads, beside what else is done.

    `done` grows by the size of each table that has been read.
    """

    def __init__(self, reach: Reach, found: list[Table], snapshot: str | None, jobs: int, database: str | None) -> None:
        self.done = 0
        self._left = list(reversed(found))
        self._results: dict[str, Contents] = {}
        self._problem: BaseException | None = None
        self._under_way: list[Any] = []
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(reach, snapshot, database), daemon=True) for _ in range(jobs)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, reach: Reach, snapshot: str | None, database: str | None) -> None:
        try:
            with reach.begin(database, snapshot=snapshot) as connection:
                self._under_way.append(connection.connection.driver_connection)
                while self._problem is None:
                    with self._lock:
                        if not self._left:
                            return
                        table = self._left.pop()
                    found = contents(connection, table)
                    with self._lock:
                        self._results[table.full] = found
                        self.done += table.size
        except BaseException as problem:
            self._problem = problem

    def stop(self) -> None:
        """Breaks off what is being read; `result` raises then."""
        with self._lock:
            self._left.clear()
        for connection in list(self._under_way):
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    def result(self, tick: Callable[[], None]) -> dict[str, Contents]:
        """Waits for all of them; raises `BackupError` when a table can't be read."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.2)
                tick()
        if self._problem is not None:
            if isinstance(self._problem, SQLAlchemyError | psycopg.Error):
                line = str(getattr(self._problem, "orig", None) or self._problem).strip().splitlines()[0]
                raise BackupError(
                    f"The rows can't be read ({line}): give the login of the database the role kat_owner, or make it"
                    " a superuser, and try again."
                ) from self._problem
            raise self._problem
        return dict(sorted(self._results.items()))


def differences(want: dict[str, Contents], have: dict[str, Contents]) -> list[str]:
    """What differs, one line each."""
    found: list[str] = []
    for name in sorted(want.keys() | have.keys()):
        one, other = want.get(name), have.get(name)
        if one is None:
            found.append(f"{name} should not be there")
        elif other is None:
            found.append(f"{name} is missing")
        elif one.rows != other.rows:
            found.append(f"{name} has {other.rows} rows in place of {one.rows}")
        elif one != other:
            found.append(f"{name} has other values in its {one.rows} rows")
    return found

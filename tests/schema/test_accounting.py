"""The account notices a planner that does not keep what it should: else the tests with random pairs prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from accounting import Story, account
from sqlalchemy import Connection
from ways import as_release, execute, go, planned, rows

from kattegat.schema import columns, ddl, ledger, scratch, snapshot

NEWER = (
    "CREATE TABLE t (id int PRIMARY KEY, a text, b text NOT NULL DEFAULT 'x', n bigint);"
    "INSERT INTO t VALUES (1, 'one', 'y', 5), (2, 'two', 'x', 9000000000), (3, 'three', 'z', NULL), (4, 'four', 'x', 0)"
)
OLDER = "CREATE TABLE t (id int PRIMARY KEY, b text NOT NULL DEFAULT 'x', n integer)"
WRITES = [
    "DELETE FROM t WHERE id = 1",
    "UPDATE t SET id = 30 WHERE id = 3",
    "INSERT INTO t (id) VALUES (7)",
    "UPDATE t SET b = 'other' WHERE id = 4",
]


@pytest.fixture
def connection(place: scratch.Scratch) -> Iterator[Connection]:
    with place.engine.connect() as connection:
        connection.exec_driver_sql("SET ROLE kat_owner")
        ledger.install(connection)
        yield connection
        connection.rollback()


def told(connection: Connection, meddle: Callable[[], None] = lambda: None) -> None:
    """From the newer shape to the older one, writes there, and back."""
    execute(connection, [OLDER])
    target = snapshot.read(connection)
    execute(connection, ["DROP TABLE t", NEWER])
    source = snapshot.read(connection)
    before = rows(connection, source.tables)
    way = planned(connection, target)
    go(connection, way)
    there = rows(connection, target.tables)
    as_release(connection)
    written = []
    for sql in WRITES:
        execute(connection, [sql])
        written.append(rows(connection, target.tables))
    meddle()
    go(connection, way.reverse())
    account(connection, Story(source, target, before, there, written, rows(connection, source.tables)))


def test_an_honest_plan_is_accounted_for(connection: Connection) -> None:
    told(connection)


def test_a_planner_that_forgets_the_watch(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "start_watch", lambda *args, **kwargs: [])
    with pytest.raises(AssertionError, match=r"not on record|nothing says so"):
        told(connection)


def test_a_planner_that_drops_instead_of_parking(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    parks = columns.park_sql

    def drops(draft, table, those, named, watched):  # type: ignore[no-untyped-def]
        emptied = [f"UPDATE {ddl.name(table)} SET {ddl.ident(name)} = NULL" for name in those]
        return [*emptied, *parks(draft, table, those, named, watched)]

    monkeypatch.setattr(columns, "park_sql", drops)
    with pytest.raises(AssertionError, match=r"nothing says why|not on record"):
        told(connection)


def test_a_planner_that_cuts_values_off(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kattegat.schema.draft.Draft.set_aside", _delete)
    with pytest.raises(AssertionError, match="is gone, and nothing says why"):
        told(connection)


def _delete(draft: object, entry: int, table: str, condition: str, why: str) -> str:
    return f"DELETE FROM {ddl.name(table)} AS t WHERE {condition}"


def test_rows_told_falsely(connection: Connection) -> None:
    def lie() -> None:
        execute(
            connection,
            [
                "INSERT INTO parked.touched (entry, act, key, contents)"
                """ SELECT id, 'D', '{"id": 2}', '{}' FROM parked.entry WHERE kind = 'watch'"""
            ],
        )

    with pytest.raises(AssertionError, match="told falsely"):
        told(connection, lie)


def test_rows_that_vanish(connection: Connection) -> None:
    with pytest.raises(AssertionError, match="nothing says"):
        told(connection, lambda: execute(connection, ["SET kat.change = 'on'", "DELETE FROM t WHERE id = 4"]))

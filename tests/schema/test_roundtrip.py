"""Any pair of schemas, there and back: bit-equal without writes, and with writes of the other release accounted for.

The default run is a sample; `-m nightly` makes 10,000 pairs. KAT_TEST_PAIRS says another number.
"""

from __future__ import annotations

import collections
import json
import os
from typing import Any

import pytest
from edits import pairs
from filling import insert
from filling import rows as contents
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from strategies import values_of
from ways import as_release, go, planned, rows, same

from kattegat.schema import ddl, ledger, planner, scratch, snapshot
from kattegat.schema.hints import Hints
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan

Row = dict[str, Any]
COUNTED: collections.Counter[str] = collections.Counter()
REFUSED: collections.Counter[str] = collections.Counter()
OFTEN = int(os.environ.get("KAT_TEST_PAIRS", "40"))


def shape_of(connection: Connection, typed: Snapshot) -> Snapshot:
    """What the server makes of it; the database is empty again afterwards."""
    with connection.begin_nested() as point:
        scratch.make(connection, typed)
        found = snapshot.read(connection)
        point.rollback()
    return found


def answered(connection: Connection, target: Snapshot, typed: Snapshot) -> Plan | None:
    """A plan, with a value for each question; None where it is refused, which is counted."""
    fill: dict[str, str] = {}
    for _ in range(2):
        try:
            return planned(connection, target, Hints(fill=fill))
        except planner.AnswerNeededError as asked:
            for path in asked.questions:
                table, name = next(
                    (table, path[len(table) + 1 :])
                    for table, its in target.tables.items()
                    if path.startswith(f"{table}.") and path[len(table) + 1 :] in its.columns
                )
                type_ = target.tables[table].columns[name].type
                value = values_of(typed, typed.tables[table].columns[name].type)[0]
                fill[path] = f"{ddl.literal(value)}::{type_}"
        except planner.CannotPlanError as problem:
            REFUSED.update(problem.reasons[:1])
            return None
    raise AssertionError("asked twice")


def write(connection: Connection, shape: Snapshot, data: st.DataObject) -> None:
    """What a process of the other release may do: some inserts, updates and deletes, some of which are refused."""
    as_release(connection)
    insert(connection, shape, data.draw(contents(shape, least=0, most=3)))
    for table, its in sorted(shape.tables.items()):
        names = sorted(name for name, c in its.columns.items() if c.generated is None and not c.identity)
        for act in data.draw(st.lists(st.sampled_from(["delete", "update", "none"]), max_size=3)):
            where = f"ctid IN (SELECT ctid FROM {ddl.name(table)} ORDER BY ctid LIMIT 1 OFFSET {data.draw(st.integers(0, 3))})"
            sql = f"DELETE FROM {ddl.name(table)} WHERE {where}"
            if act == "update" and names:
                name = data.draw(st.sampled_from(names))
                type_ = its.columns[name].type
                value = f"{ddl.literal(data.draw(st.sampled_from(values_of(shape, type_))))}::{type_}"
                sql = f"UPDATE {ddl.name(table)} SET {ddl.ident(name)} = {value} WHERE {where}"
            if act != "none":
                try:
                    with connection.begin_nested():
                        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
                        connection.exec_driver_sql(sql.replace("%", "%%"))
                except DBAPIError:
                    continue


def key_of(source: Snapshot, target: Snapshot, table: str) -> list[str]:
    """The columns that tell rows apart on both sides and do not change, as the planner finds them."""
    from kattegat.schema.draft import Draft

    return Draft(source, target, (), Hints(), {}, 1).key(table)


def keyed(listed: list[Row], key: list[str]) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[name] for name in key): row for row in listed}


def laid_aside(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
    found = connection.execute(text("SELECT table_name, contents, key FROM parked.quarantine"))
    return [(row.table_name.replace('"', ""), {**row.key, **row.contents}) for row in found]


def account(
    connection: Connection, source: Snapshot, target: Snapshot, before: Any, there: Any, written: Any, after: Any
) -> None:
    """Every row that was is the same, or was written by the other release, or is on record."""
    aside = laid_aside(connection)
    touched = connection.execute(
        text("SELECT e.was, t.act, t.key, t.contents FROM parked.touched t JOIN parked.entry e ON e.id = t.entry")
    )
    touches = [(row.was, row.act, row.key) for row in touched]
    for table in source.tables:
        key = key_of(source, target, table)
        if not key:
            continue
        held = [each for name, each in aside if name == table.replace('"', "")]
        now, was = keyed(after[table], key), keyed(before[table], key)
        mid = keyed(there[table], key) if table in there else {}
        late = keyed(written[table], key) if table in written else {}
        changed = {k for k in mid.keys() | late.keys() if mid.get(k) != late.get(k)}
        for k, row in was.items():
            if now.get(k) == row or k in changed:
                continue
            assert any(
                all(str(one.get(name)) == str(value) for name, value in zip(key, k, strict=True)) for one in held
            ), f"{table} {k}: was {row}, is {now.get(k)}, and nothing says why"
        for k in now.keys() - was.keys():
            assert k in late, f"{table} {k} came from nowhere: {now[k]}"
        if table in target.tables:
            for name, act, told in touches:
                if name == table and act in ("U", "D"):
                    same_ones = [k for k in changed if all(_alike(told[n], v) for n, v in zip(key, k, strict=True))]
                    assert same_ones or act == "U" and set(told) != set(key), f"{table}: {act} {told} is told falsely"


def _alike(told: Any, value: str | None) -> bool:
    # The record has JSON's form of a value, the rows its text form; where these differ a look at the rest must do.
    return told is None or value is None or isinstance(told, bool) or str(told) == value or not str(told).isalnum()


def there_and_back(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], data: st.DataObject) -> None:
    with place.engine.connect() as connection:
        ledger.install(connection)
        target = shape_of(connection, pair[1])
        scratch.make(connection, pair[0])
        source = snapshot.read(connection)
        if source.other != target.other:
            return
        insert(connection, pair[0], data.draw(contents(pair[0])))
        before = rows(connection, source.tables)
        COUNTED["pairs"] += 1
        way = answered(connection, target, pair[1])
        if way is None:
            connection.rollback()
            return
        COUNTED.update({step.kind for step in way.steps})
        try:
            go(connection, way)
            same(connection, target)
            there = rows(connection, target.tables)
            go(connection, way.reverse())
            same(connection, source)
            assert rows(connection, source.tables) == before
            go(connection, way)
            same(connection, target)
            assert rows(connection, target.tables) == there
            write(connection, pair[1], data)
            written = rows(connection, target.tables)
            go(connection, way.reverse())
            same(connection, source)
            after = rows(connection, source.tables)
            account(connection, source, target, before, there, written, after)
        except AssertionError:
            print(json.dumps([f"{step.kind} {step.target}" for step in way.steps], indent=1))
            raise
        finally:
            connection.rollback()


def report() -> None:
    refused = sum(REFUSED.values())
    print(f"\n{COUNTED['pairs']} pairs, {refused} refused: {dict(REFUSED)}")
    for kind, count in COUNTED.most_common():
        print(f"  {kind:24} {count}")
    assert refused <= max(1, COUNTED["pairs"] * 0.02)


@settings(max_examples=OFTEN, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(pair=pairs(), turned=st.booleans(), data=st.data())
def run_sample(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], turned: bool, data: st.DataObject) -> None:
    there_and_back(place, pair[::-1] if turned else pair, data)


def test_sample(place: scratch.Scratch) -> None:
    run_sample(place)
    report()


@settings(parent=run_sample._hypothesis_internal_use_settings, max_examples=10_000)
@given(pair=pairs(), turned=st.booleans(), data=st.data())
def run_many(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], turned: bool, data: st.DataObject) -> None:
    there_and_back(place, pair[::-1] if turned else pair, data)


@pytest.mark.nightly
def test_many(place: scratch.Scratch) -> None:
    run_many(place)
    report()

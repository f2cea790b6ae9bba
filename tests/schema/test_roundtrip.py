"""Any pair of schemas, there and back: bit-equal without writes, and with writes of the other release accounted for.

The default run is a sample; `-m nightly` makes 10,000 pairs. KAT_TEST_PAIRS says another number.
"""

from __future__ import annotations

import collections
import json
import os

import pytest
from accounting import Row, Story, account
from edits import edited, pairs
from filling import insert
from filling import rows as contents
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from strategies import values_of
from ways import as_change, as_release, execute, go, partition, planned, rows, same, unprepared

from kattegat.schema import ddl, ledger, planner, scratch, snapshot
from kattegat.schema.hints import Hints
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan

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


def write(connection: Connection, shape: Snapshot, made: Snapshot, data: st.DataObject) -> list[dict[str, list[Row]]]:
    """What a process of the other release may do: some inserts, updates and deletes, some of which are refused.

    Gives every table's rows after each."""
    as_release(connection)
    seen: list[dict[str, list[Row]]] = []
    insert(connection, shape, data.draw(contents(shape, least=0, most=3)))
    seen.append(rows(connection, made.tables))
    for table, its in sorted(shape.tables.items()):
        names = sorted(name for name, c in its.columns.items() if c.generated is None and not c.identity)
        for act in data.draw(st.lists(st.sampled_from(["delete", "update", "none"]), max_size=3)):
            chosen = f"SELECT ctid FROM {ddl.name(table)} ORDER BY ctid LIMIT 1 OFFSET {data.draw(st.integers(0, 3))}"
            where = f"ctid IN ({chosen})"
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
                seen.append(rows(connection, made.tables))
    return seen


def undone(connection: Connection, plan: Plan, done: int) -> None:
    """The first steps of a plan, and then the undo of each from the last of them to the first."""
    as_change(connection)
    for step in plan.steps[:done]:
        execute(connection, step.do)
    for step in reversed(plan.steps[:done]):
        execute(connection, step.undo)
    as_release(connection)


def back(connection: Connection, way: Plan, source: Snapshot, typed: Snapshot, anew: bool) -> Plan | None:
    """The way back: the plan itself from its end, or one made anew from the live state and what the ledger knows."""
    made = answered(connection, source, typed) if anew else way.reverse()
    if made is not None:
        COUNTED["second plans"] += anew
        go(connection, made)
        same(connection, source)
    return made


def there_and_back(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], data: st.DataObject) -> None:
    with place.engine.connect() as connection:
        unprepared(connection)
        connection.exec_driver_sql("SET ROLE kat_owner")
        ledger.install(connection)
        target = shape_of(connection, pair[1])
        scratch.make(connection, pair[0])
        connection.exec_driver_sql("RESET ROLE")
        source = snapshot.read(connection)
        if source.other != target.other:
            return
        partition(connection, source)
        insert(connection, pair[0], data.draw(contents(pair[0])))
        before = rows(connection, source.tables)
        COUNTED["pairs"] += 1
        way = answered(connection, target, pair[1])
        if way is None:
            connection.rollback()
            return
        COUNTED.update({step.kind for step in way.steps})
        try:
            if way.steps:
                undone(connection, way, data.draw(st.integers(1, len(way.steps))))
                same(connection, source)
                assert rows(connection, source.tables) == before
            go(connection, way)
            same(connection, target)
            there = rows(connection, target.tables)
            go(connection, way.reverse())
            same(connection, source)
            assert rows(connection, source.tables) == before
            go(connection, way)
            same(connection, target)
            assert rows(connection, target.tables) == there
            if way.steps:
                undone(connection, way.reverse(), data.draw(st.integers(1, len(way.steps))))
                same(connection, target)
                assert rows(connection, target.tables) == there
            written = write(connection, pair[1], target, data)
            if back(connection, way, source, pair[0], data.draw(st.booleans())) is None:
                return
            after = rows(connection, source.tables)
            account(connection, Story(source, target, before, there, written, after))
        except AssertionError:
            print(json.dumps([f"{step.kind} {step.target}" for step in way.steps], indent=1))
            raise
        finally:
            connection.rollback()


def chain(place: scratch.Scratch, shapes: list[Snapshot], data: st.DataObject) -> None:
    """From one shape to the next and the next, writing at each, and back again: every row is accounted for at each."""
    with place.engine.connect() as connection:
        unprepared(connection)
        connection.exec_driver_sql("SET ROLE kat_owner")
        ledger.install(connection)
        known = [shape_of(connection, shape) for shape in shapes[1:]]
        scratch.make(connection, shapes[0])
        connection.exec_driver_sql("RESET ROLE")
        known.insert(0, snapshot.read(connection))
        if any(shape.other for shape in known):
            return
        partition(connection, known[0])
        insert(connection, shapes[0], data.draw(contents(shapes[0])))
        ways: list[Plan] = []
        left: list[list[dict[str, list[Row]]]] = [[rows(connection, known[0].tables)]]
        came: list[dict[str, list[Row]]] = [left[0][0]]
        COUNTED["chains"] += 1
        try:
            for number, target in enumerate(known[1:], 1):
                way = answered(connection, target, shapes[number])
                if way is None:
                    return
                ways.append(way)
                go(connection, way)
                same(connection, target)
                came.append(rows(connection, target.tables))
                left.append(write(connection, shapes[number], target, data))
            for number in reversed(range(len(ways))):
                go(connection, ways[number].reverse())
                same(connection, known[number])
                after = rows(connection, known[number].tables)
                there = came[number + 1]
                account(
                    connection,
                    Story(known[number], known[number + 1], left[number][-1], there, left[number + 1], after),
                )
                left[number] = write(connection, shapes[number], known[number], data)
        except AssertionError:
            for way in ways:
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
@given(pair=pairs(partitioned=True), turned=st.booleans(), data=st.data())
def run_sample(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], turned: bool, data: st.DataObject) -> None:
    there_and_back(place, pair[::-1] if turned else pair, data)


def test_sample(place: scratch.Scratch) -> None:
    run_sample(place)
    report()


@settings(
    max_examples=max(1, OFTEN // 8), deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(pair=pairs(partitioned=True), further=st.data(), data=st.data())
def run_chains(
    place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], further: st.DataObject, data: st.DataObject
) -> None:
    chain(place, [*pair, further.draw(edited(pair[1]))], data)


def test_chains(place: scratch.Scratch) -> None:
    run_chains(place)


@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(pair=pairs(partitioned=True), turned=st.booleans(), data=st.data())
def run_many(place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], turned: bool, data: st.DataObject) -> None:
    there_and_back(place, pair[::-1] if turned else pair, data)


@pytest.mark.nightly
def test_many(place: scratch.Scratch) -> None:
    run_many(place)
    report()

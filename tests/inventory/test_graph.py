"""Presence and clearance: kept up to date they equal what is derived from nothing, and what a plain model says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from kattegat.inventory import reading
from kattegat.inventory.declare import declare, withdraw
from kattegat.inventory.origin import why_clearance
from kattegat.inventory.presence import recompute
from kattegat.inventory.record import Report, record
from kattegat.model.assets import Hostname
from kattegat.model.facts import Fact, Found, Link
from kattegat.model.links import TYPES
from kattegat.model.scope import Scope
from kattegat.store.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = [Hostname(f"h{number}.example.org") for number in range(7)]
# Caps 4 along, 1 along and 2 against, none, and one that no release knows.
LINKS = ["resolves_to", "part_of", "alias_of", "not_known_here"]

Edge = tuple[str, int, int]


class Edges(Fact, about=Hostname):
    number: int


@pytest.fixture
def organisation(database: Database) -> int:
    with database.engine("kat_owner").begin() as owner:
        made: int = owner.execute(
            text("INSERT INTO organisation (code, name) VALUES ('one', 'One') RETURNING id")
        ).scalar_one()
        return made


def say(connection: Connection, organisation: int, source: int, edges: list[Edge], minute: int) -> None:
    links = tuple(Link(type_, HOSTS[origin], HOSTS[target]) for type_, origin, target in edges)
    found = [Found(HOSTS[source], Edges(number=0), "all", links)] if edges else []
    given = Report(
        organisation_id=organisation,
        scanner="edges",
        asset=HOSTS[source],
        started_at=START + timedelta(minutes=minute),
        ended_at=START + timedelta(minutes=minute),
        scope=Scope.of("Edges"),
        found=found,
    )
    record(connection, [given])


def model(declared: dict[int, int | None], edges: set[Edge]) -> dict[int, tuple[bool, int]]:
    """By going round until nothing changes."""
    present = set(declared)
    while more := {target for _, origin, target in edges if origin in present} - present:
        present |= more
    level = {node: declared.get(node) or 0 for node in present}
    moving = True
    while moving:
        moving = False
        for type_, origin, target in edges:
            if type_ not in TYPES:
                continue
            for giver, receiver, cap in (
                (origin, target, TYPES[type_].along),
                (target, origin, TYPES[type_].against),
            ):
                if giver in present and receiver in present and declared.get(receiver) is None:
                    offer = min(level[giver], cap)
                    if offer > level[receiver]:
                        level[receiver] = offer
                        moving = True
    return {node: (node in present, level.get(node, 0)) for node in range(len(HOSTS))}


def state(connection: Connection, organisation: int, at: datetime | None = None) -> dict[int, tuple[bool, int]]:
    rows = reading.assets(connection, organisation, reading.Filter(present=None), at=at)
    known = {row.key: (row.present, row.clearance) for row in rows}
    return {number: known.get(host.key, (False, 0)) for number, host in enumerate(HOSTS)}


node = st.integers(0, len(HOSTS) - 1)
edge = st.tuples(st.sampled_from(LINKS), node, node)
step = st.one_of(
    st.tuples(st.just("declare"), st.lists(st.tuples(node, st.one_of(st.none(), st.integers(0, 4))), max_size=3)),
    st.tuples(st.just("withdraw"), st.lists(node, min_size=1, max_size=3)),
    st.tuples(st.just("say"), st.tuples(node, st.lists(edge, max_size=6))),
    st.tuples(st.just("say"), st.tuples(node, st.lists(edge, max_size=6))),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(step, min_size=1, max_size=9))
def test_kept_up_to_date_equals_derived_from_nothing(
    database: Database, organisation: int, steps: list[tuple[str, object]]
) -> None:
    with database.engine("kat_system").connect() as connection:
        declared: dict[int, int | None] = {}
        said: dict[int, list[Edge]] = {}
        past: list[tuple[datetime, dict[int, tuple[bool, int]]]] = []
        for minute, (verb, given_) in enumerate(steps):
            match verb, given_:
                case "declare", list(levels):
                    declare(connection, organisation, [(HOSTS[number], level) for number, level in levels], "a")
                    declared.update(levels)
                case "withdraw", list(numbers):
                    gone = withdraw(connection, organisation, [HOSTS[number] for number in numbers], "b")
                    assert len(gone) == len(set(numbers) & declared.keys())
                    for number in numbers:
                        declared.pop(number, None)
                case "say", (int(source), list(edges)):
                    say(connection, organisation, source, edges, minute)
                    said[source] = edges
            wanted = model(declared, {edge for edges in said.values() for edge in edges})
            assert state(connection, organisation) == wanted
            clock: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            past.append((clock, wanted))
        assert recompute(connection, organisation) == set()
        for at, wanted in past:
            assert state(connection, organisation, at) == wanted
        for row in reading.assets(connection, organisation, reading.Filter(present=None)):
            assert (row.gone_at is not None) <= (not row.present)
            origin = why_clearance(connection, organisation, row.id)
            assert origin is not None
            assert (origin.how == "inherited") == (row.declared_clearance is None and row.clearance > 0)
            level = origin.declared.declared_clearance if origin.declared else 0
            assert min([level or 0, *(step.cap for step in origin.steps)]) == row.clearance
            ends = [number for step in origin.steps for number in (step.giver.id, step.receiver.id)]
            if origin.declared and origin.steps:
                assert (ends[0], ends[-1]) == (origin.declared.id, row.id)
                assert ends[1:-1:2] == ends[2::2]
        connection.rollback()


@pytest.fixture
def at_work(database: Database, organisation: int) -> Callable[[list[Edge], dict[int, int | None]], Connection]:
    connection = database.engine("kat_system").connect()

    def make(edges: list[Edge], declared: dict[int, int | None]) -> Connection:
        for number in sorted({origin for _, origin, _ in edges}):
            say(connection, organisation, number, [edge for edge in edges if edge[1] == number], 0)
        declare(connection, organisation, [(HOSTS[number], level) for number, level in declared.items()], "a")
        return connection

    return make


Make = Callable[[list[Edge], dict[int, "int | None"]], Connection]


def test_a_ring_does_not_hold_itself_up(at_work: Make, organisation: int) -> None:
    ring: list[Edge] = [("resolves_to", 1, 2), ("resolves_to", 2, 3), ("resolves_to", 3, 1)]
    connection = at_work([("resolves_to", 0, 1), *ring], {0: 3})
    assert state(connection, organisation)[3] == (True, 3)
    say(connection, organisation, 0, [], 5)
    assert [state(connection, organisation)[number] for number in (1, 2, 3)] == [(False, 0)] * 3
    gone = reading.asset(connection, organisation, HOSTS[2])
    assert gone is not None
    assert gone.gone_at is not None
    say(connection, organisation, 0, [("part_of", 0, 2)], 6)
    assert [state(connection, organisation)[number] for number in (1, 2, 3)] == [(True, 1)] * 3
    back = reading.asset(connection, organisation, HOSTS[2])
    assert back is not None
    assert back.gone_at is None
    connection.close()


def test_an_address_is_held_by_each_of_its_names(at_work: Make, organisation: int) -> None:
    connection = at_work([("resolves_to", 0, 2), ("resolves_to", 1, 2)], {0: 4, 1: 2})
    assert state(connection, organisation)[2] == (True, 4)
    say(connection, organisation, 0, [], 5)
    assert state(connection, organisation)[2] == (True, 2)
    connection.close()


def test_a_declared_level_is_not_raised_by_others(at_work: Make, organisation: int) -> None:
    connection = at_work([("resolves_to", 0, 1), ("resolves_to", 1, 2)], {0: 4, 1: 0})
    assert [state(connection, organisation)[number] for number in (0, 1, 2)] == [(True, 4), (True, 0), (True, 0)]
    connection.close()


def test_why_is_said_in_words(at_work: Make, organisation: int) -> None:
    connection = at_work([("part_of", 1, 0), ("resolves_to", 1, 2), ("resolves_to", 0, 1)], {0: 3, 4: None})
    asset = reading.asset(connection, organisation, HOSTS[2])
    assert asset is not None
    assert str(why_clearance(connection, organisation, asset.id)) == (
        "h2.example.org has clearance 3 from a's declaration of 3: h0.example.org resolves_to h1.example.org"
        " (lets 4 through), h1.example.org resolves_to h2.example.org (lets 4 through)."
    )
    lone = reading.asset(connection, organisation, HOSTS[4])
    assert lone is not None
    origin = why_clearance(connection, organisation, lone.id)
    assert origin is not None
    assert origin.how == "nothing"
    assert why_clearance(connection, organisation, 10**9) is None
    connection.close()

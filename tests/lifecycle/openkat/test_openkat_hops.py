"""From every revision to every other of the same part and back: the rows are what they were."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from kattegat.lifecycle.openkat import facts, hops, place
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import Shapes
from kattegat.schema import ledger

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def shapes(server: Any) -> Shapes:
    return Shapes(server.dsn("kat_admin", "postgres"))


def go(dsn: Dsn, part: Part, goal: str, shapes: Shapes) -> list[str]:
    """Takes a part's database to a revision, as its own login; gives the revisions passed."""
    where = place.find(part, dsn)
    passed = []
    while True:
        with where.session() as connection:
            with connection.begin():
                ledger.install(connection)
            to = hops.hop(connection, where, goal, shapes, change="test")
        if to is None:
            return passed
        passed.append(to)


def rows_of(dsn: Dsn, part: Part, revision: str, contents: Callable[..., Any]) -> dict[str, list[str]]:
    with psycopg.connect(dsn.conninfo()) as connection:
        return cast("dict[str, list[str]]", contents(connection, facts.shape(part, revision)))


def there_and_back(part: Part, start: str, goal: str, make_part: Any, contents: Any, shapes: Shapes) -> Iterator[str]:
    """What differs after going to another revision and back, table by table."""
    release = {"1.15": "1.15.1", "1.16": "1.17.0", "1.18": "1.18.2", "1.19": "1.19.1", "1.20": "1.20.1"}
    dsn = make_part(part, release.get(start, start) if part == "rocky" else start, rows=9)
    before = rows_of(dsn, part, start, contents)
    assert go(dsn, part, goal, shapes)[-1] == goal
    assert go(dsn, part, start, shapes)[-1] == start
    after = rows_of(dsn, part, start, contents)
    for table in before:
        if before[table] != after[table]:
            lost = [row for row in before[table] if row not in after[table]]
            new = [row for row in after[table] if row not in before[table]]
            yield f"{table}: lost {lost[:3]}, new {new[:3]}"


def neighbours() -> list[tuple[str, str, str]]:
    found = []
    for part in facts.PARTS:
        for one, other in itertools.pairwise(facts.chain(part)):
            found += [(part, one, other), (part, other, one)]
    return found


@pytest.mark.parametrize(("part", "start", "goal"), neighbours())
def test_one_revision_there_and_back(part: Part, start: str, goal: str, make_part, contents, shapes) -> None:
    assert list(there_and_back(part, start, goal, make_part, contents, shapes)) == []


@pytest.mark.parametrize("part", facts.PARTS)
def test_the_whole_line_down_and_up_again(part: Part, make_part, contents, shapes) -> None:
    chain = facts.chain(part)
    assert list(there_and_back(part, chain[-1], chain[0], make_part, contents, shapes)) == []


@pytest.mark.parametrize("part", facts.PARTS)
def test_the_whole_line_up_and_down_again(part: Part, make_part, contents, shapes) -> None:
    chain = facts.chain(part)
    assert list(there_and_back(part, chain[0], chain[-1], make_part, contents, shapes)) == []


def pairs(part: Part) -> list[tuple[str, str]]:
    return list(itertools.permutations(facts.chain(part), 2))


@pytest.mark.nightly
@pytest.mark.parametrize(("part", "start", "goal"), [(part, *pair) for part in facts.PARTS for pair in pairs(part)])
def test_every_pair_there_and_back(part: Part, start: str, goal: str, make_part, contents, shapes) -> None:
    assert list(there_and_back(part, start, goal, make_part, contents, shapes)) == []


@pytest.mark.parametrize("part", facts.PARTS)
def test_some_pairs_there_and_back(part: Part, make_part, contents, shapes) -> None:
    for start, goal in random.Random(part).sample(pairs(part), 3):
        assert list(there_and_back(part, start, goal, make_part, contents, shapes)) == []

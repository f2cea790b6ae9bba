"""Overlapping re-scans of several sources in any order make one history, which any time can be read from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from kattegat.inventory import reading
from kattegat.inventory.record import Report, record
from kattegat.model.assets import Hostname, IPAddress
from kattegat.model.facts import Fact, Found, Link, NotMeasured
from kattegat.model.scope import Scope
from kattegat.store.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
SUBJECTS = [Hostname("a.example.org"), Hostname("b.example.org")]
KINDS = ["Alpha", "Beta"]
ITEMS = ["", "A", "MX"]
ADDRESS = IPAddress("192.0.2.1")

Place = tuple[str, str, str, str, str]
"""(scanner, subject, asset, kind, item)."""


class Alpha(Fact, about=Hostname):
    value: int


class Beta(Fact, about=Hostname):
    value: int


class Said(msgspec.Struct, frozen=True):
    """A report, small enough to be made at random."""

    scanner: str
    subject: int
    minute: int
    outcome: str
    scope: dict[str, frozenset[str] | None]
    found: list[tuple[int, str, str, int, bool]]
    gaps: list[tuple[str, str | None]]

    def report(self, organisation: int) -> Report:
        started = START + timedelta(minutes=self.minute)
        found = [
            Found(
                SUBJECTS[about],
                {"Alpha": Alpha, "Beta": Beta}[kind](value=value),
                item,
                (Link("resolves_to", SUBJECTS[about], ADDRESS),) if linked else (),
            )
            for about, kind, item, value, linked in self.found
        ]
        return Report(
            organisation_id=organisation,
            scanner=self.scanner,
            asset=SUBJECTS[self.subject],
            started_at=started,
            ended_at=started + timedelta(seconds=1),
            scope=Scope(self.scope),
            outcome=self.outcome,
            found=found,
            unmeasured=[NotMeasured(kind, "no answer", item) for kind, item in self.gaps],
        )


def naive(state: dict[Place, int], newest: dict[tuple[str, int], int], said: Said) -> dict[Place, int]:
    """What is known after a report, by the words of the design."""
    if said.outcome != "ok" or said.minute < newest.get((said.scanner, said.subject), -1):
        return state
    newest[said.scanner, said.subject] = said.minute
    subject = SUBJECTS[said.subject].key
    after = dict(state)
    for place in state:
        scanner, of, _, kind, item = place
        if (scanner, of) != (said.scanner, subject) or (kind, None) in said.gaps or (kind, item) in said.gaps:
            continue
        if kind in said.scope and (said.scope[kind] is None or item in (said.scope[kind] or ())):
            del after[place]
    for about, kind, item, value, _ in said.found:
        after[said.scanner, subject, SUBJECTS[about].key, kind, item] = value
    return after


kind = st.sampled_from(KINDS)
item = st.sampled_from(ITEMS)
said = st.builds(
    Said,
    scanner=st.sampled_from(["one", "two"]),
    subject=st.integers(0, 1),
    minute=st.integers(0, 6),
    outcome=st.sampled_from(["ok", "ok", "ok", "ok", "failed", "blocked"]),
    scope=st.dictionaries(kind, st.one_of(st.none(), st.frozensets(item)), max_size=2),
    found=st.lists(st.tuples(st.integers(0, 1), kind, item, st.integers(0, 2), st.booleans()), max_size=5),
    gaps=st.lists(st.tuples(kind, st.one_of(st.none(), item)), max_size=2),
)


@pytest.fixture
def organisation(database: Database) -> int:
    with database.engine("kat_owner").begin() as owner:
        made: int = owner.execute(
            text("INSERT INTO organisation (code, name) VALUES ('one', 'One') RETURNING id")
        ).scalar_one()
        return made


OVERLAPS = """
    SELECT count(*) FROM fact a JOIN fact b
      ON a.organisation_id = b.organisation_id AND a.source_id = b.source_id AND a.asset_id = b.asset_id
     AND a.kind = b.kind AND a.item = b.item AND a.id < b.id
     AND tstzrange(a.recorded_at, a.ended_at) && tstzrange(b.recorded_at, b.ended_at)
"""
STRAY_LINKS = """
    SELECT count(*) FROM link l JOIN fact f ON f.organisation_id = l.organisation_id AND f.id = l.fact_id
    WHERE l.recorded_at <> f.recorded_at OR l.ended_at IS DISTINCT FROM f.ended_at
"""
HISTORY = """
    SELECT (SELECT json_agg(f ORDER BY id) FROM fact f)::text, (SELECT json_agg(l ORDER BY id) FROM link l)::text,
           (SELECT json_agg(a ORDER BY id) FROM asset a)::text
"""


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batches=st.lists(st.lists(said, min_size=1, max_size=4), min_size=1, max_size=6))
def test_one_history(database: Database, organisation: int, batches: list[list[Said]]) -> None:
    with database.engine("kat_system").connect() as connection:
        state: dict[Place, int] = {}
        newest: dict[tuple[str, int], int] = {}
        past: list[tuple[datetime, dict[Place, int]]] = [(START, {})]
        for batch in batches:
            results = record(connection, [one.report(organisation) for one in batch])
            for one, result in zip(batch, results, strict=True):
                if one.outcome == "ok":
                    old = one.minute < newest.get((one.scanner, one.subject), -1)
                    assert result.outcome == ("superseded" if old else "ok")
                state = naive(state, newest, one)
            clock: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            past.append((clock, state))
            before = connection.execute(text(HISTORY)).one()
            again = record(connection, [batch[-1].report(organisation)])
            assert again[0].facts_new == again[0].facts_ended == 0
            assert connection.execute(text(HISTORY)).one() == before
        assert connection.execute(text(OVERLAPS)).scalar_one() == 0
        assert connection.execute(text(STRAY_LINKS)).scalar_one() == 0
        assets = {row.id: row for row in reading.assets(connection, organisation, reading.Filter(present=None))}
        subjects = {row[0]: assets[row[1]].key for row in connection.execute(text("SELECT id, asset_id FROM source"))}
        for at, wanted in [*past, (None, state)]:
            facts = reading.facts(connection, organisation, assets, at=at)
            read = {
                (fact.scanner, subjects[fact.source_id], assets[fact.asset_id].key, fact.kind, fact.item): fact.value
                for fact in facts
            }
            assert len(read) == len(facts)
            assert read == {place: {"value": value} for place, value in wanted.items()}
            claimed = {link.fact_id for link in reading.links(connection, organisation, assets, at=at)}
            assert claimed <= {fact.id for fact in facts}
        connection.rollback()

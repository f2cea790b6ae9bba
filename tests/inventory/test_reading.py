"""Reading the inventory: pages, counts, as-of, history; and that no query reads a table from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from kattegat.inventory import reading
from kattegat.inventory.declare import declare, withdraw
from kattegat.inventory.history import history
from kattegat.inventory.reading import Count, Filter
from kattegat.inventory.record import Report, record
from kattegat.model.assets import Hostname, IPAddress, Website
from kattegat.model.facts import Fact, Found, Link
from kattegat.model.scope import Scope
from kattegat.store.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
WWW = Hostname("www.example.org")
ADDRESS = IPAddress("192.0.2.1")


class Heard(Fact, about=Hostname):
    number: int


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.engine("kat_owner").begin() as owner:
        owner.execute(text("INSERT INTO organisation (code, name) VALUES ('one', 'One'), ('two', 'Two')"))
    with database.engine("kat_system").connect() as made:
        yield made


@pytest.fixture
def organisations(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT id FROM organisation ORDER BY code")).scalars())


@pytest.fixture
def organisation(organisations: list[int]) -> int:
    return organisations[0]


def say(connection: Connection, organisation: int, number: int, minute: int, *, linked: bool = True) -> None:
    links = (Link("resolves_to", WWW, ADDRESS),) if linked else ()
    started = START + timedelta(minutes=minute)
    given = Report(
        organisation_id=organisation,
        scanner="ear",
        asset=WWW,
        started_at=started,
        ended_at=started,
        scope=Scope.of("Heard"),
        found=[Found(WWW, Heard(number=number), "x", links)],
        evidence_id=minute,
    )
    record(connection, [given])


def clock(connection: Connection) -> datetime:
    found: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found


def test_pages_follow_each_other_and_the_count_agrees(connection: Connection, organisations: list[int]) -> None:
    one, two = organisations
    hosts = [Hostname(f"Host{number}.example.org") for number in range(23)]
    sites = [Website(f"https://host{number}.example.org") for number in range(4)]
    declare(connection, one, [(asset, None) for asset in [*hosts, *sites]], "a")
    declare(connection, two, [(hosts[0], None)], "b")
    withdraw(connection, one, hosts[:3], "a")
    for wanted, number in (
        (Filter(), 24),
        (Filter(present=None), 27),
        (Filter(present=False), 3),
        (Filter(types=("Website",)), 4),
        (Filter(present=None, search="HOST1"), 12),
        (Filter(types=("Hostname", "Website"), present=None, search="host1."), 2),
        (Filter(types=()), 0),
        (Filter(search="%"), 0),
        (Filter(search="\x00"), 0),
    ):
        seen: list[reading.Row] = []
        after = ("", "")
        while page := reading.assets(connection, one, wanted, after=after, limit=5):
            assert len(page) <= 5
            seen += page
            after = (page[-1].type, page[-1].key)
        assert len({row.id for row in seen}) == len(seen) == number
        assert [(row.type, row.key) for row in seen] == sorted((row.type, row.key) for row in seen)
        assert reading.count(connection, one, wanted) == Count(number, True)
    assert reading.count(connection, one, most=10) == Count(10, False)
    assert str(reading.count(connection, one, most=10)) == "10+"
    assert str(reading.count(connection, one, most=None)) == "24"
    assert [row.asset for row in reading.assets(connection, two)] == [hosts[0]]


def test_everything_reads_as_it_was_known_then(connection: Connection, organisation: int) -> None:
    nothing = clock(connection)
    declare(connection, organisation, [(WWW, 2)], "anna")
    declared = clock(connection)
    say(connection, organisation, 1, 1)
    linked = clock(connection)
    say(connection, organisation, 2, 2, linked=False)
    unlinked = clock(connection)
    withdraw(connection, organisation, [WWW], "bert")
    after = clock(connection)

    def seen(at: datetime | None) -> tuple[Any, ...]:
        rows = [reading.asset(connection, organisation, asset, at) for asset in (WWW, ADDRESS)]
        ids = [row.id for row in rows if row]
        return (
            *((row.present, row.clearance, row.declared_by, row.gone_at is None) if row else None for row in rows),
            [(fact.value["number"], fact.evidence_id) for fact in reading.facts(connection, organisation, ids, at=at)],
            [link.target_key for link in reading.links(connection, organisation, ids, at=at)],
        )

    assert seen(nothing) == (None, None, [], [])
    assert seen(declared) == ((True, 2, "anna", True), None, [], [])
    there = (True, 2, None, True)
    assert seen(linked) == ((True, 2, "anna", True), there, [(1, 1)], ["internet|192.0.2.1"])
    assert seen(unlinked) == ((True, 2, "anna", True), (False, 0, None, False), [(2, 2)], [])
    assert seen(after) == seen(None) == ((False, 0, "bert", False), (False, 0, None, False), [(2, 2)], [])
    www = reading.asset(connection, organisation, WWW)
    assert www is not None
    for at, minute in ((linked, 1), (unlinked, 2), (None, 2)):
        [fact] = reading.facts(connection, organisation, [www.id], at=at)
        assert fact.confirmed_at == START + timedelta(minutes=minute)
    assert reading.facts(connection, organisation, [www.id], kinds=["Other"]) == []
    assert reading.by_id(connection, organisation, [www.id, 10**9], declared).keys() == {www.id}


def test_a_link_between_two_of_the_assets_is_given_once(connection: Connection, organisation: int) -> None:
    say(connection, organisation, 1, 1)
    ids = [row.id for row in reading.assets(connection, organisation, Filter(present=None))]
    for at in (None, clock(connection)):
        [link] = reading.links(connection, organisation, ids, at=at)
        assert (link.origin_key, link.fact_kind, link.scanner) == ("www.example.org", "Heard", "ear")
        for id_ in ids:
            assert reading.links(connection, organisation, [id_], at=at) == [link]


def test_history_pages_miss_nothing(connection: Connection, organisation: int) -> None:
    declare(connection, organisation, [(WWW, 2)], "anna")
    for number in range(5):
        say(connection, organisation, number, number)
    withdraw(connection, organisation, [WWW], "bert")
    www = reading.asset(connection, organisation, WWW)
    assert www is not None
    whole = history(connection, organisation, www.id)
    said = ["fact", "fact ended"] * 4
    assert [moment.what for moment in whole] == ["asset", *said, "fact", "asset"]
    assert [(moment.present, moment.declared_by) for moment in (whole[0], whole[-1])] == [
        (False, "bert"),
        (True, "anna"),
    ]
    paged = []
    before = None
    while page := history(connection, organisation, www.id, before=before, most=3):
        paged += page
        before = page[-1].at
    assert paged == whole


def test_the_application_reads_its_own_organisations_only(
    database: Database, connection: Connection, organisations: list[int]
) -> None:
    one, two = organisations
    declare(connection, one, [(WWW, 1)], "a")
    declare(connection, two, [(WWW, 1)], "a")
    connection.commit()
    with database.begin("kat_app", [one]) as application:
        assert len(reading.assets(application, one)) == 1
        assert reading.assets(application, two) == []
        # People declare through the application itself.
        assert declare(application, one, [(ADDRESS, 3)], "b") != []
        assert [row.clearance for row in reading.assets(application, one)] == [1, 3]


def scanned(plan: dict[str, Any]) -> set[str]:
    """The tables that a plan reads from end to end."""
    found = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return found.union(*(scanned(part) for part in plan.get("Plans", [])))


def test_no_query_reads_a_whole_table(database: Database, connection: Connection, organisations: list[int]) -> None:
    fill = """
        INSERT INTO asset (organisation_id, type, key, present)
        SELECT o, 'Hostname', 'host' || n || '.example.org', true
        FROM generate_series(1, 3000) n, unnest(CAST(:organisations AS bigint[])) o
    """
    connection.execute(text(fill), {"organisations": organisations})
    for sql in (
        "INSERT INTO source (organisation_id, scanner, asset_id) SELECT organisation_id, 'x', id FROM asset",
        "INSERT INTO fact (organisation_id, source_id, asset_id, kind, value, digest)"
        " SELECT organisation_id, id, asset_id, 'Heard', '{}', '' FROM source",
        "INSERT INTO link (organisation_id, fact_id, type, origin_id, target_id)"
        " SELECT f.organisation_id, f.id, 'resolves_to', f.asset_id, f.asset_id FROM fact f",
        "INSERT INTO asset_event (organisation_id, asset_id, present, clearance)"
        " SELECT organisation_id, id, true, 0 FROM asset",
        "INSERT INTO run (organisation_id, source_id, recorded_at, started_at, ended_at, outcome)"
        " SELECT organisation_id, id, at, at, at, 'ok'"
        " FROM source, unnest(ARRAY[now(), date_trunc('month', now()) - interval '1 day']) AS at",
    ):
        connection.execute(text(sql))
    connection.commit()
    with database.engine("kat_owner").begin() as owner:
        owner.execute(text("ANALYZE"))
    now = clock(connection)
    common = {"organisation": organisations[0], "assets": [1, 2], "ids": [1, 2], "kinds": None, "type": "Hostname"}
    common |= {"key": "x", "types": None, "present": True, "search": "", "after_type": "", "after_key": "", "limit": 9}
    for at in (None, now):
        queries = [
            reading._over(reading._BY_NAME, at),
            reading._over(reading._BY_ID, at),
            reading._over(reading._LIST, at),
            reading._FACTS_THEN if at else reading._FACTS_NOW,
            (reading._LINKS_THEN if at else reading._LINKS_NOW) + reading._LINK_COLUMNS,
        ]
        for query in queries:
            plan = connection.execute(text("EXPLAIN (FORMAT JSON) " + query), common | {"at": at}).scalar_one()
            assert scanned(plan[0]["Plan"]) == set(), query

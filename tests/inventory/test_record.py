"""Recording: what a run replaces, what stands, and how many statements it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from kattegat.inventory.claim import LONGEST_KEY
from kattegat.inventory.declare import declare
from kattegat.inventory.presence import recompute
from kattegat.inventory.record import Recorded, Report, record
from kattegat.model.assets import URL, Asset, Hostname, IPAddress
from kattegat.model.facts import Fact, Found, Link, NotMeasured
from kattegat.model.scope import Scope
from kattegat.store.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)
WWW = Hostname("www.example.org")
OTHER = Hostname("other.example.org")
ADDRESS = IPAddress("192.0.2.1")


class Answer(Fact, about=Hostname):
    records: list[str]


class Banner(Fact, about=IPAddress):
    text: str


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


def answer(*records: str, item: str = "A", about: Asset = WWW, links: tuple[Link, ...] = ()) -> Found:
    return Found(about, Answer(records=list(records)), item, links)


def report(organisation: int, *found: Found, minute: int = 0, **other: Any) -> Report:
    started = START + timedelta(minutes=minute)
    given = {"scanner": "dns-records", "asset": WWW, "scope": Scope.of("Answer", "Banner")} | other
    return Report(
        organisation_id=organisation,
        started_at=started,
        ended_at=started + timedelta(seconds=5),
        found=found,
        **given,
    )


def one(connection: Connection, given: Report) -> Recorded:
    [result] = record(connection, [given])
    connection.commit()
    return result


def current(connection: Connection) -> list[tuple[str, str, Any]]:
    sql = "SELECT kind, item, value FROM fact WHERE ended_at IS NULL ORDER BY kind, item"
    return [tuple(row) for row in connection.execute(text(sql))]


def rows(connection: Connection, table: str) -> list[Any]:
    return list(connection.execute(text(f"SELECT * FROM {table} ORDER BY id")))


def source_row(connection: Connection) -> Any:
    return connection.execute(text("SELECT * FROM source")).one()


def test_a_first_report_makes_assets_facts_links_and_a_run(connection: Connection, organisation: int) -> None:
    link = Link("resolves_to", WWW, ADDRESS)
    result = one(connection, report(organisation, answer("192.0.2.1", links=(link,))))
    assert (result.facts_new, result.facts_ended, result.facts_same, result.outcome) == (1, 0, 0, "ok")
    assert result.problems == []
    assets = {(row.type, row.key): row.id for row in rows(connection, "asset")}
    assert result.new_assets == set(assets.values())
    assert set(assets) == {("Hostname", "www.example.org"), ("IPAddress", "internet|192.0.2.1")}
    assert result.touched == set(assets.values())
    [fact] = rows(connection, "fact")
    [linked] = rows(connection, "link")
    assert (linked.fact_id, linked.type) == (fact.id, "resolves_to")
    assert linked.recorded_at == fact.recorded_at
    [run] = rows(connection, "run")
    assert (run.id, run.source_id, run.facts_new, run.outcome) == (result.run_id, result.source_id, 1, "ok")
    assert run.scope == {"kinds": {"Answer": None, "Banner": None}, "except": []}
    source = source_row(connection)
    assert (source.state, source.confirmed_at) == ("ok", START + timedelta(seconds=5))


def test_the_same_report_again_writes_no_fact_link_or_event(connection: Connection, organisation: int) -> None:
    declare(connection, organisation, [(WWW, 2)], "a person")
    given = report(organisation, answer("192.0.2.1", links=(Link("resolves_to", WWW, ADDRESS),)))
    one(connection, given)
    tables = ("asset", "asset_event", "fact", "link")
    before = [rows(connection, table) for table in tables]
    result = one(connection, given)
    assert (result.facts_new, result.facts_ended, result.facts_same) == (0, 0, 1)
    assert result.touched == result.new_assets == result.presence_changed == set()
    assert [rows(connection, table) for table in tables] == before


def test_a_changed_value_ends_the_row_and_starts_one_at_the_same_time(
    connection: Connection, organisation: int
) -> None:
    one(connection, report(organisation, answer("192.0.2.1")))
    result = one(connection, report(organisation, answer("192.0.2.2"), minute=1))
    assert (result.facts_new, result.facts_ended) == (1, 1)
    first, second = rows(connection, "fact")
    assert first.ended_at == second.recorded_at > first.recorded_at
    assert second.ended_at is None


def test_a_run_replaces_only_inside_its_scope(connection: Connection, organisation: int) -> None:
    one(connection, report(organisation, answer("1"), answer("2", item="MX"), answer("3", item="TXT")))
    scope = Scope({"Answer": frozenset({"A", "MX"})})
    gap = NotMeasured("Answer", "no answer", "MX")
    result = one(connection, report(organisation, minute=1, scope=scope, unmeasured=[gap]))
    assert result.facts_ended == 1
    assert [item for _, item, _ in current(connection)] == ["MX", "TXT"]
    assert source_row(connection).unmeasured == [["Answer", "MX", "no answer"]]


def test_what_was_not_measured_about_one_asset_stands_for_it_alone(connection: Connection, organisation: int) -> None:
    said = (answer("1"), answer("2", about=OTHER))
    one(connection, report(organisation, *said))
    gap = NotMeasured("Answer", "cut off", None, OTHER)
    assert one(connection, report(organisation, minute=1, unmeasured=[gap])).facts_ended == 1
    assert current(connection) == [("Answer", "A", {"records": ["2"]})]


def test_one_source_leaves_the_facts_of_another(connection: Connection, organisation: int) -> None:
    one(connection, report(organisation, answer("1")))
    one(connection, report(organisation, answer("2"), scanner="another", minute=1))
    one(connection, report(organisation, vantage="inside", minute=2))
    assert [value for _, _, value in current(connection)] == [{"records": ["1"]}, {"records": ["2"]}]
    assert one(connection, report(organisation, minute=3)).facts_ended == 1
    assert [value for _, _, value in current(connection)] == [{"records": ["2"]}]


@pytest.mark.parametrize("outcome", ["failed", "blocked"])
def test_a_run_that_did_not_succeed_changes_no_fact(connection: Connection, organisation: int, outcome: str) -> None:
    one(connection, report(organisation, answer("1")))
    result = one(connection, report(organisation, answer("2"), minute=1, outcome=outcome, reason="no route"))
    assert (result.facts_new, result.facts_ended) == (0, 0)
    assert current(connection) == [("Answer", "A", {"records": ["1"]})]
    source = source_row(connection)
    assert (source.state, source.reason) == (outcome, "no route")
    assert source.confirmed_at == START + timedelta(seconds=5)
    assert source.last_started_at == START + timedelta(minutes=1)


def test_a_late_older_run_changes_nothing(connection: Connection, organisation: int) -> None:
    one(connection, report(organisation, answer("new"), minute=5))
    result = one(connection, report(organisation, answer("old"), minute=4))
    late = one(connection, report(organisation, minute=3, outcome="failed", reason="old news"))
    assert (result.outcome, late.outcome) == ("superseded", "failed")
    assert current(connection) == [("Answer", "A", {"records": ["new"]})]
    assert source_row(connection).state == "ok"
    assert [run.outcome for run in rows(connection, "run")] == ["ok", "superseded", "failed"]


def test_a_clock_that_is_ahead_does_not_supersede_what_follows(connection: Connection, organisation: int) -> None:
    ahead = datetime.now(UTC) + timedelta(days=400)
    given = report(organisation, answer("1"), minute=0)
    first = one(
        connection,
        Report(
            **{name: getattr(given, name) for name in given.__struct_fields__}
            | {"started_at": ahead, "ended_at": ahead}
        ),
    )
    assert "still to come" in first.problems[0]
    honest = datetime.now(UTC)
    second = one(
        connection,
        Report(
            organisation_id=organisation,
            scanner="dns-records",
            asset=WWW,
            started_at=honest,
            ended_at=honest,
            scope=Scope.of("Answer"),
            found=[answer("2")],
        ),
    )
    assert second.outcome == "ok"
    assert current(connection) == [("Answer", "A", {"records": ["2"]})]


def test_of_a_claim_made_twice_the_last_stands_and_it_is_said(connection: Connection, organisation: int) -> None:
    result = one(connection, report(organisation, answer("1"), answer("2")))
    assert current(connection) == [("Answer", "A", {"records": ["2"]})]
    assert len(result.problems) == 1
    assert "said twice" in result.problems[0]


def test_reports_of_one_source_in_a_batch_apply_in_order_and_leave_no_empty_span(
    connection: Connection, organisation: int
) -> None:
    batch = [report(organisation, answer(str(number)), minute=number) for number in range(4)]
    results = record(connection, [*batch, report(organisation, answer("0"), minute=2)])
    connection.commit()
    assert [(result.facts_new, result.facts_ended, result.outcome) for result in results] == [
        (1, 0, "ok"),
        (1, 1, "ok"),
        (1, 1, "ok"),
        (1, 1, "ok"),
        (0, 0, "superseded"),
    ]
    [fact] = rows(connection, "fact")
    assert fact.value == {"records": ["3"]}
    assert len({run.recorded_at for run in rows(connection, "run")}) == 1
    # There and back inside one batch is no change.
    record(connection, [report(organisation, minute=10), report(organisation, answer("3"), minute=11)])
    assert rows(connection, "fact") == [fact]


def test_an_asset_that_no_link_reaches_is_linked_to_the_subject(connection: Connection, organisation: int) -> None:
    chained = IPAddress("192.0.2.2")
    found = (
        answer("x", about=OTHER, links=(Link("resolves_to", OTHER, chained),)),
        Found(chained, Banner(text="hello")),
    )
    one(connection, report(organisation, *found))
    keys = {row.id: row.key for row in rows(connection, "asset")}
    links = {(row.type, keys[row.origin_id], keys[row.target_id]) for row in rows(connection, "link")}
    assert links == {
        ("found_from", "www.example.org", "other.example.org"),
        ("resolves_to", "other.example.org", "internet|192.0.2.2"),
    }


def test_links_end_with_the_fact_that_claimed_them(connection: Connection, organisation: int) -> None:
    link = Link("resolves_to", WWW, ADDRESS)
    one(connection, report(organisation, answer("192.0.2.1", links=(link,))))
    one(connection, report(organisation, minute=1))
    [fact] = rows(connection, "fact")
    [linked] = rows(connection, "link")
    assert fact.ended_at == linked.ended_at
    assert fact.ended_at is not None


def test_other_links_make_another_fact(connection: Connection, organisation: int) -> None:
    one(connection, report(organisation, answer("x", links=(Link("resolves_to", WWW, ADDRESS),))))
    links = (Link("alias_of", WWW, OTHER), Link("resolves_to", WWW, ADDRESS))
    assert one(connection, report(organisation, answer("x", links=links), minute=1)).facts_new == 1
    assert one(connection, report(organisation, answer("x", links=links[::-1]), minute=2)).facts_same == 1


def test_no_text_breaks_a_batch(connection: Connection, organisation: int) -> None:
    good = report(organisation, answer("good", item="A"), scanner="another")
    bad = report(
        organisation,
        answer("nul\x00", "lone\ud800", r"kept \u0000", item="\x00item\udfff"),
        minute=1,
        unmeasured=[NotMeasured("Answer", "why\x00", "x\x00")],
    )
    failed = report(organisation, minute=2, scanner="third", outcome="failed", reason="said \x00 and \ud800")
    results = record(connection, [good, bad, failed])
    connection.commit()
    assert [result.facts_new for result in results] == [1, 1, 0]
    assert ("Answer", "\ufffditem\ufffd", {"records": ["nul\ufffd", "lone\ufffd", r"kept \u0000"]}) in current(
        connection
    )
    again = one(connection, bad)
    assert (again.facts_same, again.facts_new) == (1, 0)


def test_what_can_not_be_stored_is_left_out_and_does_not_end_what_stood(
    connection: Connection, organisation: int
) -> None:
    one(connection, report(organisation, answer("1"), answer("2", item="MX")))
    long = URL("https://example.org/" + "a" * LONGEST_KEY)
    found = (answer("new", links=(Link("redirects_to", WWW, long),)), answer("2", item="MX"))
    result = one(connection, report(organisation, *found, minute=1))
    assert (result.facts_new, result.facts_ended, result.facts_same) == (0, 0, 1)
    assert "longer than" in result.problems[0]
    assert current(connection)[0] == ("Answer", "A", {"records": ["1"]})
    assert source_row(connection).unmeasured[0][:2] == ["Answer", "A"]


def test_long_items_are_told_apart(connection: Connection, organisation: int) -> None:
    items = ["é" * 3000 + end for end in "ab"]
    scope = Scope({"Answer": frozenset(items)})
    result = one(connection, report(organisation, *(answer("x", item=item) for item in items), scope=scope))
    assert result.facts_new == 2
    assert one(connection, report(organisation, answer("x", item=items[0]), scope=scope, minute=1)).facts_ended == 1


@pytest.mark.parametrize("size", [1, 500])
def test_the_number_of_statements_does_not_depend_on_the_batch(
    connection: Connection, organisations: list[int], size: int
) -> None:
    hosts = [Hostname(f"host{number}.example.org") for number in range(size)]
    for organisation in organisations:
        declare(connection, organisation, [(host, 2) for host in hosts], "a person")

    def batch(minute: int) -> list[Report]:
        return [
            report(
                organisations[number % 2],
                answer(str(minute), about=host, links=(Link("resolves_to", host, IPAddress(f"192.0.2.{minute}")),)),
                asset=host,
                minute=minute,
            )
            for number, host in enumerate(hosts)
        ]

    counts = []
    statements: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for minute in (1, 2, 2):
        statements.clear()
        record(connection, batch(minute))
        counts.append(len(statements))
    # New facts and assets; changed facts with new links; nothing new.
    assert counts == [20, 22, 12]


def test_recorders_of_the_same_things_at_once_neither_lock_up_nor_lose_any(
    database: Database, connection: Connection, organisation: int
) -> None:
    hosts = [Hostname(f"host{number}.example.org") for number in range(12)]
    declare(connection, organisation, [(host, 1) for host in hosts[:2]], "a person")
    connection.commit()
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(6):
                order = hosts[seed:] + hosts[:seed]
                if turn % 2:
                    order.reverse()
                batch = [
                    report(
                        organisation,
                        answer(
                            f"{seed} {turn}",
                            about=host,
                            links=(Link("has_website", host, hosts[(hosts.index(host) + seed + turn) % 12]),),
                        ),
                        asset=host,
                        minute=turn,
                    )
                    for host in order
                ]
                with database.begin("kat_system") as own:
                    record(own, batch)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    sql = "SELECT source_id, count(*) FROM fact WHERE ended_at IS NULL GROUP BY source_id"
    assert [count for _, count in connection.execute(text(sql))] == [1] * 12
    assert len(rows(connection, "run")) == 4 * 6 * 12
    assert recompute(connection, organisation) == set()

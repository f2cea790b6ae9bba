"""What is judged again: those who see a change over a link, and nobody for whom nothing changed."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from kattegat.checks import evaluate
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare
from kattegat.inventory.record import Recorded, record
from kattegat.model.scope import Scope
from kattegat.plugin import Asset, Context, Fact, Facts, Found, Hostname, Item, Link, Verdict, check, days, scanner, via
from kattegat.plugin import verdict as verdict_of
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

NOW = datetime.now(UTC) - timedelta(hours=1)
SERVER = Hostname("ns.provider.test")

READ = text(
    """
    SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS rows FROM pg_stat_xact_user_tables
    """
)


class Answers(Fact, about=Hostname):
    slow: bool = False


@scanner("answers", about=Hostname, clearance=0, every=days(1), yields=[Answers])
class AnswersScanner:
    """Never run here."""


@check(
    "slow-server",
    about=Hostname,
    needs=[via("name_server", Answers)],
    severity="low",
    title="t",
    risk="r",
    fix="f",
    reference="RFC 0",
)
def slow_server(context: Context, servers: Facts[Answers]) -> Verdict:
    return verdict_of([Item("slow", "slow")] if any(answers.slow for answers in servers) else [])


@check(
    "slow-itself", about=Hostname, needs=[Answers], severity="low", title="t", risk="r", fix="f", reference="RFC 0"
)  # fmt: skip
def slow_itself(context: Context, own: Facts[Answers]) -> Verdict:
    return verdict_of([Item("slow", "slow")] if any(answers.slow for answers in own) else [])


@pytest.fixture
def registry() -> Registry:
    module: Any = types.ModuleType("made_up")
    module.Answers, module.AnswersScanner = Answers, AnswersScanner
    module.slow_server, module.slow_itself = slow_server, slow_itself
    return Registry([Plugin("made_up", module)])


class Watch:
    """An organisation, and what is recorded and judged of it as the worker does it."""

    def __init__(self, connection: Connection, registry: Registry) -> None:
        self.connection, self.registry, self.minute = connection, registry, 0
        self.organisation: int = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()

    def scan(self, about: Asset, *, slow: bool = False, links: tuple[Link, ...] = ()) -> Recorded:
        self.minute += 1
        at = NOW + timedelta(minutes=self.minute)
        found = [Found(about, Answers(slow=slow), "", links)]
        (result,) = record(
            self.connection, [Report(self.organisation, "answers", about, at, at, Scope.of("Answers"), found=found)]
        )
        return result

    def judge(self, result: Recorded) -> evaluate.Evaluated:
        seen = result.described | result.stands | result.presence_changed
        ids = seen | result.touched | result.new_assets
        return evaluate.evaluate(self.connection, self.organisation, ids, self.registry, datetime.now(UTC), seen=seen)

    def site(self, number: int) -> tuple[Recorded, evaluate.Evaluated]:
        host = Hostname(f"site{number}.test")
        declare(self.connection, self.organisation, [(host, 2)], "test")
        result = self.scan(host, links=(Link("name_server", host, SERVER),))
        return result, self.judge(result)

    def sites(self, numbers: range) -> None:
        """All at once."""
        self.minute += 1
        at = NOW + timedelta(minutes=self.minute)
        hosts = [Hostname(f"site{number}.test") for number in numbers]
        declare(self.connection, self.organisation, [(host, 2) for host in hosts], "test")
        reports = [
            Report(
                self.organisation, "answers", host, at, at, Scope.of("Answers"),
                found=[Found(host, Answers(), "", (Link("name_server", host, SERVER),))],
            )
            for host in hosts
        ]  # fmt: skip
        results = record(self.connection, reports)
        ids = set().union(*(result.stands | result.touched for result in results))
        evaluate.evaluate(self.connection, self.organisation, ids, self.registry, datetime.now(UTC), seen=ids)

    def failing(self) -> set[str]:
        rows = self.connection.execute(
            text(
                "SELECT a.key FROM verdict v JOIN asset a ON a.organisation_id = v.organisation_id"
                " AND a.id = v.asset_id WHERE v.outcome = 'fail'"
            )
        )
        return set(rows.scalars())

    def due(self) -> dict[str, datetime]:
        """When each asset is to be judged again."""
        rows = self.connection.execute(
            text(
                "SELECT a.key, d.due_at FROM check_due d JOIN asset a ON a.organisation_id = d.organisation_id"
                " AND a.id = d.id"
            )
        )
        return {row.key: row.due_at for row in rows}

    def read(self) -> dict[str, int]:
        """Rows that this transaction has read until now, of each table."""
        return {row.relname: row.rows for row in self.connection.execute(READ)}


def test_naming_a_server_does_not_judge_all_that_named_it_before(database: Database, registry: Registry) -> None:
    with database.begin("kat_system") as connection:
        watch = Watch(connection, registry)
        judged = [watch.site(number)[1].assets for number in range(6)]
        # The site and its server, however many there were.
        assert judged == [2] * 6


def test_what_changes_about_a_server_is_judged_for_all_that_name_it(database: Database, registry: Registry) -> None:
    with database.begin("kat_system") as connection:
        watch = Watch(connection, registry)
        for number in range(4):
            watch.site(number)
        times = watch.due()
        done = watch.judge(watch.scan(SERVER, slow=True))
        # Both checks of the server, and of each site the one that looks at its servers.
        assert (done.assets, done.checks) == (5, 2 + 4)
        sites = {f"site{number}.test" for number in range(4)}
        assert watch.failing() == sites
        # When the sites' own facts grow stale is as before.
        assert {key: watch.due()[key] for key in sites} == {key: times[key] for key in sites}
        # A site that comes later sees it too.
        watch.site(9)
        assert watch.failing() == sites | {"site9.test"}
        watch.judge(watch.scan(SERVER))
        assert watch.failing() == set()


def test_described_are_those_with_other_facts_and_touched_the_ends_of_their_links_too(
    database: Database, registry: Registry
) -> None:
    with database.begin("kat_system") as connection:
        watch = Watch(connection, registry)
        result, _ = watch.site(1)
        site = result.described
        assert len(site) == 1
        assert len(result.touched - site) == 1
        host = Hostname("site1.test")
        again = watch.scan(host, links=(Link("name_server", host, SERVER),))
        assert (again.described, again.touched) == (set(), set())
        gone = watch.scan(host, slow=True)
        assert gone.described == site
        assert len(gone.touched) == 2


def test_no_more_rows_are_read_in_a_large_organisation(database: Database, registry: Registry) -> None:
    """Without any statistics, as after an install: the planner then knows nothing of how large the tables are."""
    more: list[dict[str, int]] = []
    with database.begin("kat_system") as connection:
        watch = Watch(connection, registry)
        for start in (1000, 2000):
            watch.sites(range(start, start + 600))
            before = watch.read()
            watch.site(start)
            watch.judge(watch.scan(Hostname(f"site{start}.test"), slow=True))
            more.append({name: rows - before[name] for name, rows in watch.read().items()})
    small, large = more
    assert sum(small.values()) > 0
    assert {name: (small[name], large[name]) for name in large if large[name] > small[name] + 100} == {}

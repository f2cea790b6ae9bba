"""What a scan waits for: all that its targets lead to, and nothing else."""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from kattegat.accounts import consent
from kattegat.cli import follow
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare
from kattegat.inventory.record import record
from kattegat.model.scope import Scope
from kattegat.plugin import Asset, Fact, Found, Hostname, IPAddress, Link, days, scanner
from kattegat.registry import Plugin, Registry
from kattegat.scheduler import dispatch, plan, queue
from kattegat.store.database import Database

OLD, NEW, ADDRESS = Hostname("old.test"), Hostname("new.test"), IPAddress("192.0.2.1")


class Lookup(Fact, about=Hostname):
    count: int = 0


class Knock(Fact, about=IPAddress):
    count: int = 0


@scanner("lookups", about=Hostname, clearance=1, every=days(1), yields=[Lookup])
class Lookups:
    """About a name."""


@scanner("knocks", about=IPAddress, clearance=1, every=days(1), yields=[Knock])
class Knocks:
    """About an address."""


class Bench:
    def __init__(self, conn: Connection) -> None:
        module = types.ModuleType("made_up")
        for thing in (Lookup, Knock, Lookups, Knocks):
            setattr(module, thing.__name__, thing)
        self.conn, self.registry = conn, Registry([Plugin("made_up", module)])
        self.organisation: int = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()
        consent.grant(conn, self.organisation, "test", "go")

    def begin(self, *assets: Asset, **choice: Any) -> tuple[list[int], datetime]:
        """As `kat scan` begins."""
        since: datetime = self.conn.execute(text("SELECT clock_timestamp()")).scalar_one()
        ids = declare(self.conn, self.organisation, [(asset, 1) for asset in assets], "test")
        plan.plan(self.conn, self.organisation, None, self.registry, **choice)
        dispatch.request(self.conn, self.organisation, follow.sources(self.conn, self.organisation, ids), "test")
        return ids, since

    def ran(self, scanner: str, asset: Asset, *found: Found, outcome: Any = "ok", reason: str = "") -> None:
        """As a worker records a run."""
        at = datetime.now(UTC)
        kinds = Scope.of("Lookup", "Knock")
        done = record(
            self.conn,
            [Report(self.organisation, scanner, asset, at, at, kinds, outcome=outcome, reason=reason, found=found)],
        )
        plan.plan(self.conn, self.organisation, None, self.registry)
        # Nothing has run that was not sent.
        self.conn.execute(dispatch.SENT, {"organisations": [self.organisation], "ids": [done[0].source_id]})
        dispatch.ran(self.conn, [dispatch.Ran(self.organisation, done[0].source_id, outcome, at, at)])

    def resolved(self, name: Hostname) -> None:
        self.ran("lookups", name, Found(name, Lookup(), "", (Link("resolves_to", name, ADDRESS),)))


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    with database.begin("kat_system") as conn:
        yield Bench(conn)


def later(bench: Bench) -> None:
    """As if all that was recorded so far was done an hour ago."""
    bench.conn.execute(text("UPDATE source SET last_started_at = last_started_at - interval '1 hour'"))


def test_what_was_known_and_only_now_belongs_to_the_scan_is_asked_for(bench: Bench) -> None:
    bench.begin(OLD)
    bench.resolved(OLD)
    bench.ran("knocks", ADDRESS, Found(ADDRESS, Knock()))
    later(bench)
    ids, since = bench.begin(NEW)
    assert follow.overlooked(bench.conn, bench.organisation, ids, since) == []
    bench.resolved(NEW)
    assert not follow.state(bench.conn, bench.organisation, ids, since).finished
    late = follow.overlooked(bench.conn, bench.organisation, ids, since)
    assert len(late) == 1
    assert dispatch.request(bench.conn, bench.organisation, late, "test").asked == late
    assert follow.overlooked(bench.conn, bench.organisation, ids, since) == []
    assert len(dispatch.dispatch(bench.conn)) >= 1
    assert follow.overlooked(bench.conn, bench.organisation, ids, since) == []
    (task,) = (t for t in queue.claim(bench.conn, ["scan"], "test", 9) if t.scanner == "knocks")
    bench.ran("knocks", ADDRESS, Found(ADDRESS, Knock()))
    queue.finish(bench.conn, task.id, task.token)
    assert follow.state(bench.conn, bench.organisation, ids, since).finished


def test_other_work_of_the_organisation_is_not_waited_for(bench: Bench) -> None:
    bench.begin(OLD)
    dispatch.dispatch(bench.conn)
    ids, since = bench.begin(NEW)
    bench.ran("lookups", NEW, Found(NEW, Lookup()))
    assert follow.state(bench.conn, bench.organisation, ids, since).finished


def test_a_target_that_nothing_may_look_at_was_not_measured(bench: Bench) -> None:
    ids, since = bench.begin(NEW, skip=["lookups"])
    assert follow.state(bench.conn, bench.organisation, ids, since).finished
    assert follow.unmeasured(bench.conn, bench.organisation, ids) == [
        ("new.test", "lookups has not run: skipped on request")
    ]


def test_a_target_left_out_on_request_does_not_spoil_the_rest(bench: Bench) -> None:
    ids, _ = bench.begin(NEW, ADDRESS, only=["knocks"])
    bench.ran("knocks", ADDRESS, Found(ADDRESS, Knock()))
    plan.plan(bench.conn, bench.organisation, None, bench.registry, only=["knocks"])
    assert follow.unmeasured(bench.conn, bench.organisation, ids) == []


def test_a_target_that_failed_says_why(bench: Bench) -> None:
    ids, since = bench.begin(NEW)
    bench.ran("lookups", NEW, outcome="failed", reason="no answer")
    assert follow.state(bench.conn, bench.organisation, ids, since + timedelta(0)).finished
    assert follow.unmeasured(bench.conn, bench.organisation, ids) == [("new.test", "no answer")]

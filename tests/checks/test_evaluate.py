"""The check engine on the real database: unknown is never absent, findings live by their evidence, time fires."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, event, text

from kattegat.checks import coverage, evaluate
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare, withdraw
from kattegat.inventory.record import record
from kattegat.model.scope import Scope
from kattegat.plugin import (
    Context,
    Fact,
    Facts,
    Fail,
    Found,
    Hostname,
    IPAddress,
    Item,
    Link,
    NotMeasured,
    Pass,
    Unknown,
    Verdict,
    check,
    days,
    scanner,
    verdict,
    via,
)
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

NOW = datetime.now(UTC)
TEXTS = {"severity": "high", "title": "t", "risk": "r", "fix": "f", "reference": "RFC 0"}


class Lamp(Fact, about=Hostname):
    broken: list[str]
    expires: datetime | None = None


class Wire(Fact, about=IPAddress):
    loose: bool


@scanner("lamps", about=Hostname, clearance=1, every=days(1), yields=[Lamp])
class Lamps:
    """Looks at lamps."""


@scanner("wires", about=IPAddress, clearance=2, every=days(1), yields=[Wire])
class Wires:
    """Looks at wires."""


@check("lamp-broken", about=Hostname, needs=[Lamp], **TEXTS)  # type: ignore[arg-type]
def lamp_broken(context: Context, lamps: Facts[Lamp]) -> Verdict:
    items = [Item(name, "{name} is broken", {"name": name}) for lamp in lamps for name in lamp.broken]
    return verdict(items, unknown=lamps.gap("cellar") or None)


@check("lamp-expires", about=Hostname, needs=[Lamp], **TEXTS)  # type: ignore[arg-type]
def lamp_expires(context: Context, lamps: Facts[Lamp]) -> Verdict:
    for lamp in lamps:
        if lamp.expires is not None:
            return Fail((Item("old", "too old"),)) if lamp.expires <= context.now else Pass(lamp.expires)
    return Pass()


@check("wire-loose", about=Hostname, needs=[via("resolves_to", Wire)], **TEXTS)  # type: ignore[arg-type]
def wire_loose(context: Context, wires: Facts[Wire]) -> Verdict:
    return verdict([Item("loose", "a wire is loose")] if any(wire.loose for wire in wires) else [])


@check("broken-check", about=IPAddress, needs=[Wire], **TEXTS)  # type: ignore[arg-type]
def broken_check(context: Context, wires: Facts[Wire]) -> Verdict:
    raise RuntimeError("oops")


@pytest.fixture
def registry() -> Registry:
    module = types.ModuleType("made_up")
    for thing in (Lamp, Wire, Lamps, Wires, lamp_broken, lamp_expires, wire_loose, broken_check):
        setattr(module, thing.__name__, thing)
    return Registry([Plugin("made_up", module)])


HOST = Hostname("x.test")
ADDRESS = IPAddress("192.0.2.1")


class Bench:
    """One organisation with one declared host, and short ways to say what a scan found."""

    def __init__(self, connection: Connection, registry: Registry) -> None:
        self.connection = connection
        self.registry = registry
        self.now = NOW
        self.organisation: int = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()
        (self.host,) = declare(connection, self.organisation, [(HOST, 2)], "test")

    def report(self, scanner: str, asset: object, kind: str, found: list[Found], **more: object) -> None:
        self.now += timedelta(minutes=1)
        report = Report(
            self.organisation, scanner, asset, self.now, self.now, Scope.of(kind), found=found, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        (done,) = record(self.connection, [report])
        touched = {*done.touched, *done.changed} if hasattr(done, "changed") else set(done.touched)
        evaluate.evaluate(self.connection, self.organisation, touched | {self.host}, self.registry, self.now)

    def lamps(self, *broken: str, expires: datetime | None = None, **more: object) -> None:
        links = (Link("resolves_to", HOST, ADDRESS),)
        self.report("lamps", HOST, "Lamp", [Found(HOST, Lamp(broken=list(broken), expires=expires), "", links)], **more)

    def failed(self) -> None:
        self.report("lamps", HOST, "Lamp", [], outcome="failed", reason="no answer")

    def said(self, check_name: str, asset: object = HOST) -> tuple[str, str]:
        for entry in coverage.read(self.connection, self.organisation, self.registry, self.now):
            if entry.check == check_name and entry.asset == asset:
                return entry.outcome, entry.reason
        raise LookupError(check_name)

    def findings(self) -> dict[str, str]:
        rows = self.connection.execute(text("SELECT \"check\" || ' ' || item AS name, state FROM finding"))
        return {row.name: row.state for row in rows}


@pytest.fixture
def bench(database: Database, registry: Registry):  # type: ignore[no-untyped-def]
    with database.begin("kat_system") as connection:
        yield Bench(connection, registry)


def test_before_any_scan_everything_is_unknown_with_the_reason(bench: Bench) -> None:
    evaluate.evaluate(bench.connection, bench.organisation, [bench.host], bench.registry, bench.now)
    assert bench.said("lamp-broken") == ("unknown", "lamps has not run yet")
    assert bench.findings() == {}


def test_items_open_resolve_and_reopen(bench: Bench) -> None:
    bench.lamps("hall", "attic")
    assert bench.findings() == {"lamp-broken hall": "open", "lamp-broken attic": "open"}
    bench.lamps("hall")
    assert bench.findings() == {"lamp-broken hall": "open", "lamp-broken attic": "resolved"}
    bench.lamps("attic")
    assert bench.findings() == {"lamp-broken hall": "resolved", "lamp-broken attic": "reopened"}
    bench.lamps()
    assert bench.said("lamp-broken") == ("pass", "")
    states = bench.connection.execute(text("SELECT was, became FROM finding_event ORDER BY id")).all()
    assert [tuple(row) for row in states].count(("resolved", "reopened")) == 1


def test_a_failed_scan_makes_unknown_and_resolves_nothing(bench: Bench) -> None:
    bench.lamps("hall")
    bench.failed()
    outcome, reason = bench.said("lamp-broken")
    assert outcome == "unknown"
    assert "lamps failed at" in reason
    assert reason.endswith("no answer")
    assert bench.findings() == {"lamp-broken hall": "open"}
    bench.lamps()
    assert bench.findings() == {"lamp-broken hall": "resolved"}


def test_a_part_that_was_not_measured_is_unknown_where_the_check_asks_for_it(bench: Bench) -> None:
    bench.lamps(unmeasured=[NotMeasured("Lamp", "the door is locked", "cellar")])
    assert bench.said("lamp-broken") == ("unknown", "the door is locked")
    bench.lamps("hall", unmeasured=[NotMeasured("Lamp", "the door is locked", "cellar")])
    assert bench.said("lamp-broken")[0] == "fail"


def test_without_clearance_nothing_is_judged(bench: Bench) -> None:
    declare(bench.connection, bench.organisation, [(HOST, 0)], "test")
    bench.lamps("hall")
    assert bench.said("lamp-broken") == ("unknown", "clearance 0, needs 1")
    assert bench.findings() == {}


def test_facts_over_a_link_and_their_gaps(bench: Bench) -> None:
    bench.lamps()
    outcome, reason = bench.said("wire-loose")
    assert (outcome, "wires has not run yet" in reason) == ("unknown", True)
    bench.report("wires", ADDRESS, "Wire", [Found(ADDRESS, Wire(loose=True))])
    assert bench.said("wire-loose") == ("fail", "")
    bench.report("wires", ADDRESS, "Wire", [Found(ADDRESS, Wire(loose=False))])
    assert bench.said("wire-loose") == ("pass", "")


def test_time_alone_fires_a_check(bench: Bench) -> None:
    expires = bench.now + timedelta(hours=6)
    bench.lamps(expires=expires)
    assert bench.said("lamp-expires") == ("pass", "")
    assert evaluate.evaluate_due(bench.connection, bench.registry, expires - timedelta(minutes=1)).assets == 0
    done = evaluate.evaluate_due(bench.connection, bench.registry, expires + timedelta(seconds=1))
    assert (done.assets, done.changed) == (1, 1)
    assert bench.findings() == {"lamp-expires old": "open"}


def test_stale_facts_are_unknown_in_time(bench: Bench) -> None:
    bench.lamps("hall")
    due = bench.connection.execute(text("SELECT due_at FROM check_due WHERE id = :id"), {"id": bench.host}).scalar_one()
    bench.now = due + timedelta(seconds=1)
    outcome, reason = bench.said("lamp-broken")
    assert outcome == "unknown"
    assert "too long ago to go by" in reason


def test_an_asset_that_is_gone_has_no_open_findings(bench: Bench) -> None:
    bench.lamps("hall")
    withdraw(bench.connection, bench.organisation, [HOST], "test")
    evaluate.evaluate(bench.connection, bench.organisation, [bench.host], bench.registry, bench.now)
    row = bench.connection.execute(text("SELECT state, state_reason FROM finding")).one()
    assert tuple(row) == ("resolved", "the asset is no longer present")


def test_a_check_that_breaks_stops_no_other(bench: Bench) -> None:
    bench.lamps("hall")
    bench.report("wires", ADDRESS, "Wire", [Found(ADDRESS, Wire(loose=False))])
    outcome, reason = bench.said("broken-check", ADDRESS)
    assert outcome == "unknown"
    assert "RuntimeError: oops" in reason
    assert bench.findings() == {"lamp-broken hall": "open"}


def test_an_unchanged_scan_writes_no_verdict(bench: Bench) -> None:
    bench.lamps("hall")
    before = bench.connection.execute(text("SELECT xmin, decided_at FROM verdict")).all()
    bench.lamps("hall")
    assert bench.connection.execute(text("SELECT xmin, decided_at FROM verdict")).all() == before
    assert bench.connection.execute(text("SELECT count(*) FROM verdict_event")).scalar() == 1


def test_a_new_version_of_a_check_makes_its_assets_due(bench: Bench) -> None:
    bench.lamps("hall")
    bench.connection.execute(text("DELETE FROM check_due"))
    evaluate.recheck_changed(bench.connection, bench.registry, bench.now)
    assert bench.host in bench.connection.execute(text("SELECT id FROM check_due")).scalars().all()
    bench.connection.execute(text("DELETE FROM check_due"))
    evaluate.recheck_changed(bench.connection, bench.registry, bench.now)
    assert bench.connection.execute(text("SELECT count(*) FROM check_due")).scalar() == 0


def test_a_fact_of_another_form_is_unknown_not_absent(bench: Bench) -> None:
    bench.lamps("hall")
    bench.connection.execute(text("UPDATE fact SET form = 7"))
    evaluate.evaluate(bench.connection, bench.organisation, [bench.host], bench.registry, bench.now)
    assert bench.findings() == {"lamp-broken hall": "open"}
    outcome, reason = bench.said("lamp-broken")
    assert (outcome, reason) == ("unknown", "Lamp was recorded in form 7, and this release reads form 1")


def test_the_number_of_statements_does_not_grow_with_the_batch(database: Database, registry: Registry) -> None:
    counts: list[int] = []
    with database.begin("kat_system") as connection:
        organisation = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('n', 'n') RETURNING id")
        ).scalar_one()
        statements: list[str] = []
        event.listen(connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
        for size in (1, 50):
            hosts = [Hostname(f"h{number}.n{size}.test") for number in range(size)]
            ids = declare(connection, organisation, [(host, 2) for host in hosts], "test")
            reports = [
                Report(organisation, "lamps", host, NOW, NOW, Scope.of("Lamp"), found=[Found(host, Lamp(broken=["a"]))])
                for host in hosts
            ]
            record(connection, reports)
            statements.clear()
            evaluate.evaluate(connection, organisation, ids, registry, NOW + timedelta(minutes=size))
            counts.append(len(statements))
    assert counts[0] == counts[1]
    assert counts[0] <= 16


def test_unknown_is_said_by_the_check_itself() -> None:
    assert isinstance(verdict([], unknown="why"), Unknown)


def test_another_value_of_an_option_makes_the_assets_of_its_check_due(bench: Bench) -> None:
    bench.lamps("hall")
    bench.connection.execute(text("DELETE FROM check_due"))
    evaluate.recheck_option(bench.connection, bench.registry, "lamp-broken", bench.organisation)
    assert bench.connection.execute(text("SELECT id FROM check_due")).scalars().all() == [bench.host]
    bench.connection.execute(text("DELETE FROM check_due"))
    evaluate.recheck_option(bench.connection, bench.registry, "no-such-check", None)
    assert bench.connection.execute(text("SELECT id FROM check_due")).scalars().all() == []

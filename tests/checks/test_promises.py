"""Attacks on the promises of the check engine: what is not measured is never absent, and mends nothing."""

from __future__ import annotations

import threading
import types
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from kattegat.checks import coverage, evaluate
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare, withdraw
from kattegat.inventory.record import Recorded, record
from kattegat.model.scope import Scope
from kattegat.plugin import (
    Asset,
    Certificate,
    Context,
    Fact,
    Facts,
    Found,
    Hostname,
    IPAddress,
    Item,
    Link,
    NotMeasured,
    Pass,
    Verdict,
    check,
    days,
    scanner,
    verdict,
    via,
)
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

START = datetime.now(UTC) - timedelta(days=30)
TEXTS: Any = {"severity": "high", "title": "t", "risk": "r", "fix": "f", "reference": "RFC 0"}
HOST, ONE, TWO = Hostname("x.test"), IPAddress("192.0.2.1"), IPAddress("192.0.2.2")
PAPER = Certificate("ab" * 32)


class Names(Fact, about=Hostname):
    broken: tuple[str, ...] = ()


class Doors(Fact, about=IPAddress):
    open: list[str]


class Paper(Fact, about=Certificate):
    expires: datetime


@scanner("names", about=Hostname, clearance=0, every=days(1), yields=[Names])
class NamesScanner:
    """About the host."""


@scanner("doors", about=IPAddress, clearance=1, every=days(1), yields=[Doors])
class DoorsScanner:
    """About an address."""


@scanner("more-doors", about=IPAddress, clearance=1, every=days(1), yields=[Doors])
class MoreDoorsScanner:
    """About the same."""


@scanner("papers", about=Hostname, clearance=1, every=days(1), yields=[Paper])
class PapersScanner:
    """About another asset than its subject."""


@check("name-broken", about=Hostname, needs=[Names], **TEXTS)
def name_broken(context: Context, names: Facts[Names]) -> Verdict:
    return verdict([Item(part, "{part}", {"part": part}) for fact in names for part in fact.broken])


@check("door-open", about=IPAddress, needs=[Doors], **TEXTS)
def door_open(context: Context, doors: Facts[Doors]) -> Verdict:
    return verdict([Item(name, "{name}", {"name": name}) for name in sorted({n for d in doors for n in d.open})])


@check("door-behind", about=Hostname, needs=[via("resolves_to", Doors)], **TEXTS)
def door_behind(context: Context, doors: Facts[Doors]) -> Verdict:
    return verdict([Item(name, "{name}", {"name": name}) for name in sorted({n for d in doors for n in d.open})])


@check("paper-old", about=Certificate, needs=[Paper], **TEXTS)
def paper_old(context: Context, papers: Facts[Paper]) -> Verdict:
    old = [paper for paper in papers if paper.expires <= context.now]
    return verdict([Item("old", "old")]) if old else Pass(min(paper.expires for paper in papers))


@check("both", about=Hostname, needs=[Names, via("", Names)], **TEXTS)
def both(context: Context, names: Facts[Names], again: Facts[Names]) -> Verdict:
    return Pass()


SCANNERS = (NamesScanner, DoorsScanner, MoreDoorsScanner, PapersScanner)
CHECKS = (name_broken, door_open, door_behind, paper_old)


def registry_of(*things: Any) -> Registry:
    module = types.ModuleType("made_up")
    for thing in (Names, Doors, Paper, *things):
        setattr(module, thing.__name__, thing)
    return Registry([Plugin("made_up", module)])


@pytest.fixture
def registry() -> Registry:
    return registry_of(*SCANNERS, *CHECKS)


class World:
    """An organisation with a host, scans of it, and what is said of it."""

    def __init__(self, connection: Connection, registry: Registry, clearance: int = 2) -> None:
        self.connection, self.registry, self.now = connection, registry, START
        self.organisation: int = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()
        declare(connection, self.organisation, [(HOST, clearance)], "test")

    def report(self, scanner: str, asset: Asset, kind: str, found: list[Found], **more: Any) -> Recorded:
        self.now += timedelta(minutes=1)
        scope = Scope.of(kind)
        report = Report(self.organisation, scanner, asset, self.now, self.now, scope, found=found, **more)
        (done,) = record(self.connection, [report])
        subject = self.number(asset)
        judged = {subject} | done.touched | done.stands | done.new_assets | done.presence_changed
        evaluate.evaluate(self.connection, self.organisation, judged, self.registry, self.now)
        return done

    def number(self, asset: Asset) -> int:
        found: int = self.connection.execute(
            text("SELECT id FROM asset WHERE key = :key"), {"key": asset.key}
        ).scalar_one()
        return found

    def resolves(self, *addresses: IPAddress) -> None:
        links = tuple(Link("resolves_to", HOST, address) for address in addresses)
        self.report("names", HOST, "Names", [Found(HOST, Names(), "", links)])

    def doors(self, address: IPAddress, *doors: str, scanner: str = "doors", **more: Any) -> None:
        self.report(scanner, address, "Doors", [Found(address, Doors(open=list(doors)))], **more)

    def fails(self, scanner: str, asset: Asset, **more: Any) -> None:
        self.report(scanner, asset, "Doors", [], outcome="failed", reason="no answer", **more)

    def said(self, name: str, asset: Asset) -> str:
        for entry in coverage.read(self.connection, self.organisation, self.registry, self.now):
            if entry.check == name and entry.asset == asset:
                return f"{entry.outcome} {entry.reason}".strip()
        raise LookupError(name)

    def open(self) -> set[str]:
        rows = self.connection.execute(
            text("""SELECT f."check" || ' ' || f.item FROM finding f WHERE state <> 'resolved'""")
        )
        return set(rows.scalars())


@pytest.fixture
def world(database: Database, registry: Registry):  # type: ignore[no-untyped-def]
    with database.begin("kat_system") as connection:
        yield World(connection, registry)


def test_one_of_two_vantages_that_fails_mends_nothing_that_it_saw(world: World) -> None:
    world.resolves(ONE)
    world.doors(ONE, "ssh", vantage="inside")
    world.doors(ONE, vantage="internet")
    world.fails("doors", ONE, vantage="inside")
    # Anything that makes it judged again.
    world.doors(ONE, vantage="internet")
    assert world.open() == {"door-open ssh", "door-behind ssh"}
    assert world.said("door-open", ONE).startswith("unknown doors failed at")
    world.doors(ONE, vantage="inside")
    assert world.open() == set()
    assert world.said("door-open", ONE) == "pass"


def test_what_one_of_two_scanners_saw_is_not_mended_by_the_other(world: World) -> None:
    world.resolves(ONE)
    world.doors(ONE, "telnet", scanner="more-doors")
    world.fails("more-doors", ONE)
    world.doors(ONE, "ssh")
    assert world.open() >= {"door-open telnet", "door-open ssh"}
    assert world.said("door-open", ONE) == "fail"
    world.doors(ONE)
    assert world.open() >= {"door-open telnet"}
    assert "door-open ssh" in world.open()
    world.doors(ONE, scanner="more-doors")
    assert world.open() == set()


def test_one_of_two_linked_assets_that_is_not_measured_makes_unknown(world: World) -> None:
    world.resolves(ONE, TWO)
    world.doors(ONE)
    assert world.said("door-behind", HOST).startswith("unknown doors has not run yet")
    world.doors(TWO, "ssh")
    assert world.said("door-behind", HOST) == "fail"
    world.fails("doors", TWO)
    world.doors(ONE)
    assert "door-behind ssh" in world.open()
    assert world.said("door-behind", HOST).startswith("unknown doors failed")
    world.resolves(ONE)
    assert world.open() == set()
    assert world.said("door-behind", HOST) == "pass"


def test_a_fact_that_stands_beside_a_gap_of_its_kind_is_not_fresh(world: World) -> None:
    world.resolves(ONE)
    world.doors(ONE)
    assert world.said("door-open", ONE) == "pass"
    world.report("doors", ONE, "Doors", [], unmeasured=[NotMeasured("Doors", "it was cut off")])
    assert world.said("door-open", ONE) == "unknown it was cut off"


def test_a_gap_about_another_asset_is_that_assets(world: World) -> None:
    links = (Link("presents", HOST, PAPER),)
    late = world.now + timedelta(days=300)
    world.report("papers", HOST, "Paper", [Found(PAPER, Paper(expires=late), "", links)])
    assert world.said("paper-old", PAPER) == "pass"
    world.report("papers", HOST, "Paper", [], unmeasured=[NotMeasured("Paper", "half of it came", None, PAPER)])
    assert world.said("paper-old", PAPER) == "unknown half of it came"


def test_what_expired_while_its_source_failed_is_found_when_it_answers_again(world: World) -> None:
    links = (Link("presents", HOST, PAPER),)
    soon = world.now + timedelta(hours=2)
    paper = [Found(PAPER, Paper(expires=soon), "", links)]
    world.report("papers", HOST, "Paper", paper)
    assert world.said("paper-old", PAPER) == "pass"
    world.fails("papers", HOST)
    world.now += timedelta(hours=3)
    evaluate.evaluate_due(world.connection, world.registry, world.now)
    assert world.said("paper-old", PAPER).startswith("unknown papers failed")
    world.report("papers", HOST, "Paper", paper)
    assert world.said("paper-old", PAPER) == "fail"
    assert world.open() == {"paper-old old"}


def test_what_has_expired_has_not_passed_before_it_was_judged_again(world: World) -> None:
    links = (Link("presents", HOST, PAPER),)
    soon = world.now + timedelta(hours=2)
    world.report("papers", HOST, "Paper", [Found(PAPER, Paper(expires=soon), "", links)])
    world.now += timedelta(hours=3)
    assert world.said("paper-old", PAPER) == f"unknown {coverage.NOT_YET}"
    evaluate.evaluate_due(world.connection, world.registry, world.now, organisation=world.organisation)
    assert world.said("paper-old", PAPER) == "fail"


def test_a_clearance_that_is_declared_later_makes_no_pass_without_judging(
    database: Database, registry: Registry
) -> None:
    with database.begin("kat_system") as connection:
        world = World(connection, registry, clearance=0)
        world.report("names", HOST, "Names", [Found(HOST, Names(broken=("mx",)))])
        assert world.said("name-broken", HOST) == "unknown clearance 0, needs 1"
        declare(connection, world.organisation, [(HOST, 1)], "test")
        world.now = datetime.now(UTC)
        world.registry = registry_of(*SCANNERS, name_broken)
        connection.execute(text("UPDATE source SET confirmed_at = now()"))
        assert world.said("name-broken", HOST) == f"unknown {coverage.NOT_YET}"
        evaluate.evaluate_due(connection, world.registry, datetime.now(UTC))
        assert world.said("name-broken", HOST) == "fail"
        assert world.open() == {"name-broken mx"}


def test_a_check_that_was_uninstalled_leaves_no_open_finding(world: World) -> None:
    evaluate.recheck_changed(world.connection, world.registry, world.now)
    world.report("names", HOST, "Names", [Found(HOST, Names(broken=("mx",)))])
    assert world.open() == {"name-broken mx"}
    rest = registry_of(*SCANNERS, door_open, door_behind, paper_old)
    evaluate.recheck_changed(world.connection, rest, world.now)
    evaluate.evaluate_due(world.connection, rest, world.now)
    assert world.open() == set()


def test_a_check_that_no_longer_applies_leaves_no_open_finding(world: World) -> None:
    evaluate.recheck_changed(world.connection, world.registry, world.now)
    world.report("names", HOST, "Names", [Found(HOST, Names(broken=("mx",)))])

    @check("name-broken", about=Hostname, needs=[Names], version=2, applies=lambda asset: False, **TEXTS)
    def never_again(context: Context, names: Facts[Names]) -> Verdict:
        return Pass()

    rest = registry_of(*SCANNERS, never_again)
    evaluate.recheck_changed(world.connection, rest, world.now)
    evaluate.evaluate_due(world.connection, rest, world.now)
    assert world.open() == set()


def test_an_item_may_be_as_long_and_as_odd_as_a_target_makes_it(world: World) -> None:
    odd = "".join(chr(0x20 + (index * 7919) % 0x7000) for index in range(20000)) + "\x00\ud800"

    @check("name-odd", about=Hostname, needs=[Names], **TEXTS)
    def name_odd(context: Context, names: Facts[Names]) -> Verdict:
        return verdict([Item(odd, "{odd}" + odd.replace("{", "").replace("}", ""), {"odd": odd}), Item(odd + "2", "b")])

    world.registry = registry_of(*SCANNERS, name_odd)
    world.report("names", HOST, "Names", [Found(HOST, Names())])
    assert len(world.open()) == 2
    world.report("names", HOST, "Names", [Found(HOST, Names())])
    assert len(world.open()) == 2


def test_a_check_that_cannot_say_whether_it_applies_stops_no_other(world: World) -> None:
    def breaks(_: object) -> bool:
        raise RuntimeError("oops")

    @check("name-other", about=Hostname, needs=[Names], applies=breaks, **TEXTS)
    def other(context: Context, names: Facts[Names]) -> Verdict:
        return Pass()

    world.registry = registry_of(*SCANNERS, other, name_broken)
    world.report("names", HOST, "Names", [Found(HOST, Names(broken=("mx",)))])
    assert world.open() == {"name-broken mx"}


@check("pair", about=IPAddress, needs=[Doors, via("resolves_to", Names, backwards=True)], **TEXTS)
def pair(context: Context, doors: Facts[Doors], names: Facts[Names]) -> Verdict:
    return verdict([Item("both", "both are known")])


def test_two_that_record_at_the_same_time_leave_nothing_unjudged(database: Database) -> None:
    registry = registry_of(*SCANNERS, pair)
    with database.begin("kat_system") as connection:
        world = World(connection, registry)
        world.resolves(ONE)
        world.fails("names", HOST)
        organisation, host, address = world.organisation, world.number(HOST), world.number(ONE)
    now = datetime.now(UTC)
    links = (Link("resolves_to", HOST, ONE),)
    names = Report(organisation, "names", HOST, now, now, Scope.of("Names"), found=[Found(HOST, Names(), "", links)])
    doors = Report(organisation, "doors", ONE, now, now, Scope.of("Doors"), found=[Found(ONE, Doors(open=[]))])
    evaluated, committed = threading.Event(), threading.Event()
    process: list[int] = []

    def second() -> None:
        with database.begin("kat_system") as connection:
            process.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            record(connection, [doors])
            evaluate.evaluate(connection, organisation, [address], registry, now)
            evaluated.set()
            committed.wait(60)

    with database.begin("kat_system") as connection:
        record(connection, [names])
        thread = threading.Thread(target=second)
        thread.start()
        waits = text("SELECT count(*) FROM pg_locks WHERE pid = ANY(CAST(:pids AS int[])) AND NOT granted")
        with database.begin("kat_system") as other:
            while not evaluated.is_set() and not other.execute(waits, {"pids": process}).scalar_one():
                evaluated.wait(0.01)
        evaluate.evaluate(connection, organisation, [host], registry, now)
    committed.set()
    thread.join()
    with database.begin("kat_system") as connection:
        said = {entry.check: entry.outcome for entry in coverage.read(connection, organisation, registry, now)}
        findings = connection.execute(text("SELECT count(*) FROM finding WHERE state = 'open'")).scalar_one()
    assert said["pair"] == "fail"
    assert findings == 1


def test_without_any_look_at_the_host_nothing_behind_it_passes(world: World) -> None:
    assert world.said("door-behind", HOST).startswith("unknown")
    evaluate.evaluate(world.connection, world.organisation, [world.number(HOST)], world.registry, world.now)
    assert world.said("door-behind", HOST) == "unknown nothing is known yet of what resolves_to leads to"
    world.resolves()
    assert world.said("door-behind", HOST) == "pass"


def test_what_a_host_that_is_gone_said_of_others_does_not_stay_unknown_for_ever(world: World) -> None:
    links = (Link("presents", HOST, PAPER),)
    other = Hostname("y.test")
    more = (Link("presents", other, PAPER),)
    declare(world.connection, world.organisation, [(other, 2)], "test")
    late = world.now + timedelta(days=300)
    world.report("papers", HOST, "Paper", [Found(PAPER, Paper(expires=late), "", links)])
    world.report("papers", other, "Paper", [Found(PAPER, Paper(expires=late), "", more)])
    withdraw(world.connection, world.organisation, [other], "test")
    world.now += timedelta(days=28)
    world.report("papers", HOST, "Paper", [Found(PAPER, Paper(expires=late), "", links)])
    assert world.said("paper-old", PAPER) == "pass"


def test_what_a_neighbour_changes_leaves_the_other_verdicts_of_an_asset_alone(world: World) -> None:
    links = (Link("resolves_to", HOST, ONE),)
    world.report("names", HOST, "Names", [Found(HOST, Names(broken=("mx",)), "", links)])
    assert world.open() == {"name-broken mx"}
    world.doors(ONE, "ssh")
    assert world.open() == {"name-broken mx", "door-open ssh", "door-behind ssh"}
    assert world.said("name-broken", HOST) == "fail"

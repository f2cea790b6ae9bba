"""Any sequence of scans, failures and changed links: findings and coverage are those of a naive model."""

from __future__ import annotations

import itertools
import types
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from sqlalchemy import Connection, text

from kattegat.checks import coverage, evaluate
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare
from kattegat.inventory.record import record
from kattegat.model.scope import Scope
from kattegat.plugin import (
    Context,
    Fact,
    Facts,
    Found,
    Hostname,
    IPAddress,
    Item,
    Link,
    Verdict,
    check,
    days,
    scanner,
    verdict,
    via,
)
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

TEXTS: Any = {"severity": "high", "title": "t", "risk": "r", "fix": "f", "reference": "RFC 0"}
HOST = Hostname("x.test")
ADDRESSES = (IPAddress("192.0.2.1"), IPAddress("192.0.2.2"))
LOOKS = [("doors", "internet"), ("doors", "inside"), ("more-doors", "internet")]
_numbers = itertools.count()


class Named(Fact, about=Hostname):
    pass


class Gates(Fact, about=IPAddress):
    open: tuple[str, ...]


@scanner("names", about=Hostname, clearance=0, every=days(900), yields=[Named])
class NamesScanner:
    """Where the host is."""


@scanner("doors", about=IPAddress, clearance=1, every=days(900), yields=[Gates])
class DoorsScanner:
    """About an address."""


@scanner("more-doors", about=IPAddress, clearance=1, every=days(900), yields=[Gates])
class MoreDoorsScanner:
    """About the same."""


def _items(gates: Facts[Gates]) -> Verdict:
    return verdict([Item(name, "{name}", {"name": name}) for name in sorted({n for g in gates for n in g.open})])


@check("here", about=IPAddress, needs=[Gates], **TEXTS)
def here(context: Context, gates: Facts[Gates]) -> Verdict:
    return _items(gates)


@check("behind", about=Hostname, needs=[via("resolves_to", Gates)], **TEXTS)
def behind(context: Context, gates: Facts[Gates]) -> Verdict:
    return _items(gates)


def registry() -> Registry:
    module = types.ModuleType("made_up")
    for thing in (Named, Gates, NamesScanner, DoorsScanner, MoreDoorsScanner, here, behind):
        setattr(module, thing.__name__, thing)
    return Registry([Plugin("made_up", module)])


class Model:
    """What is true, worked out from nothing but what the runs said."""

    def __init__(self) -> None:
        self.linked: frozenset[IPAddress] | None = None
        self.failed: set[tuple[str, str, IPAddress]] = set()
        self.said: dict[tuple[str, str, IPAddress], frozenset[str]] = {}
        self.open: set[tuple[str, Any, str]] = set()

    def seen(self, address: IPAddress) -> tuple[bool, set[str], bool]:
        """Whether anything is known of it, which items, and whether a part is not known."""
        known = [key for key in self.said if key[2] == address and key not in self.failed]
        lost = any(key[2] == address for key in self.failed)
        return bool(known), {item for key in known for item in self.said[key]}, lost or not known

    def judge(self) -> dict[tuple[str, Any], str]:
        """What each check must say; moves the findings."""
        said: dict[tuple[str, Any], str] = {}
        present = self.linked or frozenset()
        for address in ADDRESSES:
            if address in present:
                self._decide("here", address, *self.seen(address), said)
            else:
                self.open -= {entry for entry in self.open if entry[1] == address}
        parts = [self.seen(address) for address in sorted(present)]
        known = self.linked is not None and (not parts or any(part[0] for part in parts))
        items = {item for part in parts for item in part[1]}
        self._decide("behind", HOST, known, items, any(part[2] for part in parts), said)
        return said

    def _decide(
        self, name: str, asset: Any, known: bool, items: set[str], lost: bool, said: dict[tuple[str, Any], str]
    ) -> None:
        if known and not lost:
            self.open -= {entry for entry in self.open if entry[:2] == (name, asset)}
        if known:
            self.open |= {(name, asset, item) for item in items}
        said[name, asset] = "unknown" if not known else "fail" if items else "unknown" if lost else "pass"


STEPS = some.lists(
    some.one_of(
        some.tuples(some.just("links"), some.frozensets(some.sampled_from(ADDRESSES))),
        some.tuples(
            some.just("doors"), some.sampled_from(LOOKS), some.sampled_from(ADDRESSES),
            some.frozensets(some.sampled_from(["ssh", "telnet"])),
        ),
        some.tuples(some.just("fails"), some.sampled_from(LOOKS), some.sampled_from(ADDRESSES)),
        some.tuples(some.just("names fail")),
    ),
    min_size=3,
    max_size=14,
)  # fmt: skip


def play(connection: Connection, steps: list[Any]) -> None:
    known, model = registry(), Model()
    code = f"o{next(_numbers)}"
    organisation: int = connection.execute(
        text("INSERT INTO organisation (code, name) VALUES (:code, 'o') RETURNING id"), {"code": code}
    ).scalar_one()
    declare(connection, organisation, [(HOST, 2)], "test")
    evaluate.evaluate_due(connection, known, datetime.now(UTC))
    now = datetime.now(UTC)

    def run(name: str, vantage: str, asset: Any, kind: str, found: list[Found], outcome: Any) -> None:
        reason = "" if outcome == "ok" else "no answer"
        report = Report(
            organisation, name, asset, now, now, Scope.of(kind), vantage=vantage, outcome=outcome, reason=reason,
            found=found,
        )  # fmt: skip
        (done,) = record(connection, [report])
        subject = connection.execute(
            text("SELECT asset_id FROM source WHERE id = :source"), {"source": done.source_id}
        ).scalar_one()
        seen = {subject}
        if outcome == "ok":
            seen |= done.described | done.stands | done.presence_changed
        evaluate.evaluate(
            connection, organisation, seen | done.touched | done.new_assets, known, datetime.now(UTC), seen=seen
        )

    for step in steps:
        now += timedelta(milliseconds=1)
        if step[0] == "links":
            links = tuple(Link("resolves_to", HOST, address) for address in sorted(step[1]))
            run("names", "internet", HOST, "Named", [Found(HOST, Named(), "", links)], "ok")
            model.linked = step[1]
        elif step[0] == "names fail":
            run("names", "internet", HOST, "Named", [], "failed")
            if model.linked is not None:
                continue
        elif step[2] not in (model.linked or ()):
            continue
        else:
            name, vantage = step[1]
            source = (name, vantage, step[2])
            if step[0] == "doors":
                run(name, vantage, step[2], "Gates", [Found(step[2], Gates(open=tuple(sorted(step[3]))))], "ok")
                model.said[source] = step[3]
                model.failed.discard(source)
            else:
                run(name, vantage, step[2], "Gates", [], "failed")
                model.failed.add(source)
        expected = model.judge()
        for whole in (False, True):
            if whole:
                ids = connection.execute(
                    text("SELECT id FROM asset WHERE organisation_id = :organisation"), {"organisation": organisation}
                )
                assert (
                    evaluate.evaluate(connection, organisation, list(ids.scalars()), known, datetime.now(UTC)).changed
                    == 0
                )
            said = {
                (entry.check, entry.asset): entry.outcome
                for entry in coverage.read(connection, organisation, known, datetime.now(UTC))
            }
            assert said == expected
            rows = connection.execute(
                text(
                    'SELECT f."check", a.key, f.item FROM finding f JOIN asset a ON a.id = f.asset_id'
                    " WHERE f.organisation_id = :organisation AND f.state <> 'resolved'"
                ),
                {"organisation": organisation},
            )
            assert {tuple(row) for row in rows} == {(name, asset.key, item) for name, asset, item in model.open}


def test_findings_and_coverage_are_those_of_the_model(database: Database) -> None:
    with database.begin("kat_system") as connection:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STEPS)
        def machine(steps: list[Any]) -> None:
            play(connection, steps)

        machine()

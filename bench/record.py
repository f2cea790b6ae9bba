"""Facts recorded (and checked) per second, from the first asset to the last.

    python bench/record.py [--assets 10000] [--batch 200] [--organisations 1] [--durable] [--no-checks] [--profile]

Every asset is a host name whose DNS answers make ten facts and seven links, to addresses, a registrable domain and
shared mail and name servers. Three rounds: everything is new, nothing changed, one fact in ten changed. The server is
an embedded one of its own in a temporary folder, without fsync unless --durable.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import os
import pstats
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, text

from kattegat import registry
from kattegat.inventory.declare import declare
from kattegat.inventory.record import Recorded, Report, record
from kattegat.model.assets import Asset, Hostname, IPAddress
from kattegat.model.facts import Fact, Found, Link
from kattegat.model.scope import Scope
from kattegat.model.verdict import Fail, Item, Pass, Verdict
from kattegat.plugin import Context, Facts, check, days, scanner
from kattegat.store import migrate, server
from kattegat.store.database import ROLES, Database

TYPES = ("A", "AAAA", "MX", "NS", "TXT", "SOA", "CAA", "DMARC", "MTA-STS", "TLS-RPT")
ROWS = ("assets", "facts", "new", "same", "1 in 10 changed", "us per new fact", "recorded and checked")


class BenchRecords(Fact, about=Hostname):
    """The answer to one DNS question."""

    rdtype: str
    records: list[str]
    ttl: int


@scanner("bench-records", about=Hostname, clearance=0, every=days(1), yields=[BenchRecords])
class BenchScanner:
    """Stands for the scanner of DNS records; never run."""


def needs_some(number: int) -> Any:
    """One of several checks that each look at all records."""

    @check(
        f"bench-{number}",
        about=Hostname,
        needs=[BenchRecords],
        severity="low",
        title="t",
        risk="r",
        fix="f",
        reference="https://example.org/",
    )
    def judge(_context: Context, records: Facts[BenchRecords]) -> Verdict:
        short = [found for found in records if found.rdtype == TYPES[number] and len(found.records) < number % 3]
        return Fail(tuple(Item(found.rdtype, "has few records") for found in short)) if short else Pass()

    return judge


def plugin() -> registry.Registry:
    """A registry with these facts, the scanner and five checks."""
    module = ModuleType("bench_records")
    for number in range(5):
        setattr(module, f"check_{number}", needs_some(number))
    module.BenchScanner = BenchScanner  # type: ignore[attr-defined]
    module.BenchRecords = BenchRecords  # type: ignore[attr-defined]
    return registry.Registry([registry.Plugin("bench", module)])


def host(number: int) -> Hostname:
    return Hostname(f"host{number}.example{number // 100}.org")


def report(organisation: int, number: int, turn: int, changed: int) -> Report:
    """What the scan of one host says; `changed` goes into one fact of ten."""
    name = host(number)
    domain = Hostname(f"example{number // 100}.org")
    addresses: list[Asset] = [
        IPAddress(f"198.{18 + number // 65536 % 2}.{number // 256 % 256}.{number % 256}"),
        IPAddress(f"2001:db8::{number:x}"),
    ]
    servers: list[Asset] = [Hostname(f"mx{number % 7}.provider.example"), Hostname(f"ns{number % 5}.provider.example")]
    links: dict[str, tuple[Link, ...]] = {
        "A": (Link("resolves_to", name, addresses[0]), Link("part_of", name, domain)),
        "AAAA": (Link("resolves_to", name, addresses[1]),),
        "MX": (Link("mail_server", name, servers[0]), Link("mail_server", name, servers[1])),
        "NS": (Link("name_server", name, servers[1]), Link("name_server", name, servers[0])),
    }
    found = [
        Found(
            name,
            BenchRecords(
                rdtype=rdtype,
                records=[f"v=spf1 include:spf{part}.example.org ip4:192.0.2.{part} -all" for part in range(3)],
                ttl=3600 + (changed if rdtype == "TXT" else 0),
            ),
            rdtype,
            links.get(rdtype, ()),
        )
        for rdtype in TYPES
    ]
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=turn, seconds=number)
    return Report(
        organisation_id=organisation,
        scanner="bench-records",
        asset=name,
        started_at=started,
        ended_at=started + timedelta(seconds=2),
        scope=Scope.of("BenchRecords"),
        found=found,
    )


class Clock:
    """Adds up the seconds of parts of the work, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, int] = {}

    def add(self, name: str, started: float, facts: int) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self.facts[name] = self.facts.get(name, 0) + facts

    def rate(self, name: str) -> float:
        return self.facts[name] / self.seconds[name] if self.seconds.get(name) else 0.0


def evaluator() -> Any:
    """`kattegat.checks.evaluate.evaluate`, where it is there."""
    with suppress(ImportError):
        return importlib.import_module("kattegat.checks.evaluate").evaluate
    return None


def round_of(
    database: Database,
    organisations: list[int],
    numbers: range,
    batch: int,
    turn: tuple[str, int, int],
    clock: Clock,
    judge: Any,
    checks: registry.Registry,
) -> None:
    """Records every asset of `numbers` once, as `turn` (name, day, change) says, each batch in its transaction."""
    name, day, changed = turn
    for start in range(numbers.start, numbers.stop, batch):
        part = range(start, min(start + batch, numbers.stop))
        organisation = organisations[start // batch % len(organisations)]
        reports = [report(organisation, number, day, changed) for number in part]
        with database.begin("kat_system") as connection:
            if name == "new":
                declare(connection, organisation, [(host(number), 2) for number in part], "bench")
        started = time.perf_counter()
        with database.begin("kat_system") as connection:
            results = record(connection, reports)
        facts = len(part) * len(TYPES)
        clock.add(name, started, facts)
        if judge is not None:
            started = time.perf_counter()
            with database.begin("kat_system") as connection:
                judge(connection, organisation, touched(results), checks, datetime.now(UTC))
            clock.add(f"{name} checks", started, 0)


def touched(results: list[Recorded]) -> set[int]:
    """The assets whose checks are to run again."""
    return set().union(*(result.touched | result.presence_changed for result in results))


def table(database: Database, arguments: argparse.Namespace, organisations: list[int]) -> Iterator[tuple[Any, ...]]:
    judge = None if arguments.no_checks else evaluator()
    checks = plugin()
    step = max(arguments.assets // 5, arguments.batch)
    for start in range(0, arguments.assets, step):
        numbers = range(start, min(start + step, arguments.assets))
        clock = Clock()
        for turn in (("new", 0, 0), ("same", 1, 0), ("changed", 2, 1)):
            round_of(database, organisations, numbers, arguments.batch, turn, clock, judge, checks)
        with database.begin("kat_owner") as connection:
            facts = count(connection)
        both = clock.seconds["new"] + clock.seconds.get("new checks", 0.0)
        yield (
            numbers.stop,
            facts,
            f"{clock.rate('new'):,.0f}/s",
            f"{clock.rate('same'):,.0f}/s",
            f"{clock.rate('changed'):,.0f}/s",
            f"{1e6 / clock.rate('new'):.0f}",
            f"{clock.facts['new'] / both:,.0f}/s" if judge else "-",
        )


def count(connection: Connection) -> int:
    found: int = connection.execute(text("SELECT count(*) FROM fact")).scalar_one()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=200, help="reports in a batch")
    parser.add_argument("--organisations", type=int, default=1)
    parser.add_argument("--durable", action="store_true", help="with fsync")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kat-bench-"))
    folder.chmod(0o711)
    try:
        running = server.ensure(folder / "data", durable=arguments.durable)
        database = Database({role: running.dsn(role) for role in ROLES}, login=True)
        migrate.prepare(database)
        with database.engine("kat_owner").begin() as connection:
            made = connection.execute(
                text(
                    "INSERT INTO organisation (code, name)"
                    " SELECT 'o' || n, 'x' FROM generate_series(1, :n) n RETURNING id"
                ),
                {"n": arguments.organisations},
            )
            organisations = list(made.scalars())
        print(f"PostgreSQL {running.version}, {os.cpu_count()} cores, {'' if arguments.durable else 'no '}fsync")
        print(" | ".join(ROWS))
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        for row in table(database, arguments, organisations):
            print(" | ".join(f"{cell:>{len(name)}}" for cell, name in zip(row, ROWS, strict=True)), flush=True)
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        database.close()
    finally:
        server.stop(folder / "data", "immediate")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

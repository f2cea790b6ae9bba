"""Facts recorded and checked per second, while a database grows.

    python bench/record.py [--facts 14000] [--batch 64] [--organisations 1] [--durable] [--no-checks]
                           [--statements] [--profile]

Sites (see made/sites.py) are recorded and judged by the installed checks, batch by batch, each batch in two
transactions, until there are so many facts. At a hundredth, a tenth and the whole of that, the next sites are measured
three times: as new, again unchanged, and with one fact in fourteen changed. Declaring the sites is not measured. The
server is an embedded one of its own in a temporary folder, without fsync unless --durable, with its own autovacuum.

Other work on the machine makes the seconds longer, the processor time much less, so both are given: the latter is of
this process and of its backend in the server. Compare rows of one run, not of two.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from made import sites
from sqlalchemy import Connection, event, text

from kattegat import registry
from kattegat.checks.evaluate import Evaluated, evaluate
from kattegat.inventory.declare import declare
from kattegat.inventory.record import Recorded, record
from kattegat.store import migrate, server
from kattegat.store.database import ROLES, Database

COLUMNS = (
    "facts",
    "assets",
    "round",
    "facts/s",
    "record",
    "check",
    "CPU us/fact",
    "record",
    "check",
    "server",
    "checks",
    "load",
    "ratio",
)
TICK = os.sysconf("SC_CLK_TCK")


class Spent:
    """Seconds, processor seconds (here, backend) and facts of one part of the work."""

    def __init__(self) -> None:
        self.seconds = self.here = self.backend = 0.0

    def per_fact(self, facts: int) -> float:
        """Processor time for a fact, in microseconds."""
        return (self.here + self.backend) / facts * 1e6 if facts else 0.0


class Bench:
    """The database, what is installed, and where the time goes."""

    def __init__(self, database: Database, arguments: argparse.Namespace) -> None:
        self.database = database
        self.batch: int = arguments.batch
        self.checks = registry.load()
        self.judging: bool = not arguments.no_checks
        self.now = datetime.now(UTC)
        self.statements: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        with database.begin("kat_system") as connection:
            made = connection.execute(
                text(
                    "INSERT INTO organisation (code, name)"
                    " SELECT 'o' || n, 'x' FROM generate_series(1, :n) n RETURNING id"
                ),
                {"n": arguments.organisations},
            )
            self.organisations = list(made.scalars())
        if arguments.statements:
            self._listen()

    def _listen(self) -> None:
        engine = self.database.engine("kat_system")
        started: list[float] = []
        event.listen(engine, "before_cursor_execute", lambda *_: started.append(time.perf_counter()))

        @event.listens_for(engine, "after_cursor_execute")
        def ended(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            spent = self.statements[" ".join(statement.split())[:110]]
            spent[0] += time.perf_counter() - started.pop()
            spent[1] += 1

    def round(self, numbers: range, turn: int, changed: int) -> tuple[Spent, Spent, int]:
        """Records and judges these sites once; what each took, and how many checks ran."""
        recording, checking, ran = Spent(), Spent(), 0
        for start in range(numbers.start, numbers.stop, self.batch):
            part = range(start, min(start + self.batch, numbers.stop))
            organisation = self.organisations[start // self.batch % len(self.organisations)]
            reports = [
                entry for number in part for entry in sites.reports(organisation, number, turn, changed, self.now)
            ]
            if turn == 0:
                with self.database.begin("kat_system") as connection:
                    declare(connection, organisation, [(sites.domain(number), 2) for number in part], "bench")
            with self._measured(recording) as connection:
                results = record(connection, reports)
            if self.judging:
                with self._measured(checking) as connection:
                    ran += self.judge(connection, organisation, results).checks
        return recording, checking, ran

    def judge(self, connection: Connection, organisation: int, results: Sequence[Recorded]) -> Evaluated:
        """The checks of all that was scanned or touched, as the worker asks for them."""
        seen: set[int] = set().union(*(entry.described | entry.stands | entry.presence_changed for entry in results))
        ids = seen.union(*(entry.touched | entry.new_assets for entry in results))
        return evaluate(connection, organisation, ids, self.checks, datetime.now(UTC), seen=seen)

    @contextmanager
    def _measured(self, spent: Spent) -> Iterator[Connection]:
        # The connection is taken from the pool and given back within what is measured, as in the worker.
        with self.database.engine("kat_system").connect() as idle:
            pid = idle.execute(text("SELECT pg_backend_pid()")).scalar_one()
        backend, here, seconds = _processor(pid), time.process_time(), time.perf_counter()
        with self.database.begin("kat_system") as connection:
            yield connection
        spent.seconds += time.perf_counter() - seconds
        spent.here += time.process_time() - here
        spent.backend += _processor(pid) - backend

    def count(self) -> tuple[int, int]:
        """Facts and assets in the database."""
        with self.database.begin("kat_system") as connection:
            facts: int = connection.execute(text("SELECT count(*) FROM fact")).scalar_one()
            assets: int = connection.execute(text("SELECT count(*) FROM asset")).scalar_one()
        return facts, assets


def _processor(pid: int) -> float:
    """Seconds of processor time that a process has used (proc(5), fields utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rows(bench: Bench, facts: int) -> Iterator[tuple[str, ...]]:
    """A row for each round at a hundredth, a tenth and the whole of so many facts, and for each tenth in between."""
    total = facts // sites.FACTS
    probe = min(max(total // 25, 2 * bench.batch), 20 * bench.batch)
    first: dict[str, float] = {}
    done = 0
    for part in (100, 10, 1):
        upto = max(total // part - probe, 0)
        while done < upto:
            numbers = range(done, min(done + max(total // 10, 1), upto))
            yield row(bench, "filled", numbers, 0, 0, first)
            done = numbers.stop
        numbers = range(done, done + probe)
        for turn, name in enumerate(("new", "unchanged", "changed")):
            yield row(bench, name, numbers, turn, turn // 2, first)
        done = numbers.stop


def row(bench: Bench, name: str, numbers: range, turn: int, changed: int, first: dict[str, float]) -> tuple[str, ...]:
    recording, checking, ran = bench.round(numbers, turn, changed)
    facts = len(numbers) * sites.FACTS
    both = (recording.per_fact(facts), checking.per_fact(facts))
    whole = first.setdefault(name, sum(both))
    total, assets = bench.count()
    rates = [facts / seconds if seconds else 0.0 for seconds in (recording.seconds, checking.seconds)]
    return (
        f"{total:,}",
        f"{assets:,}",
        name,
        f"{facts / (recording.seconds + checking.seconds):,.0f}",
        *(f"{rate:,.0f}" for rate in rates),
        f"{sum(both):.0f}",
        *(f"{part:.0f}" for part in both),
        f"{(recording.backend + checking.backend) / facts * 1e6:.0f}",
        f"{ran / facts:.1f}",
        f"{os.getloadavg()[0]:.1f}",
        f"{sum(both) / whole:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=14_000)
    parser.add_argument("--batch", type=int, default=64, help="sites in a batch, of three results each")
    parser.add_argument("--organisations", type=int, default=1)
    parser.add_argument("--durable", action="store_true", help="with fsync")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--statements", action="store_true", help="add up the time of every statement")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    # Ended by a signal, it takes its server along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="kat-bench-"))
    folder.chmod(0o711)
    try:
        running = server.ensure(folder / "data", durable=arguments.durable)
        database = Database({role: running.dsn(role) for role in ROLES}, login=True)
        migrate.prepare(database)
        bench = Bench(database, arguments)
        print(
            f"PostgreSQL {running.version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores,"
            f" {'' if arguments.durable else 'no '}fsync, batches of {arguments.batch} sites"
        )
        widths = [max(len(name), 15 if name == "round" else 9) for name in COLUMNS]
        print(" | ".join(f"{name:>{width}}" for name, width in zip(COLUMNS, widths, strict=True)), flush=True)
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        for cells in rows(bench, arguments.facts):
            print(" | ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), flush=True)
            for statement, (seconds, times) in sorted(bench.statements.items(), key=lambda entry: -entry[1][0])[:12]:
                print(f"    {seconds:8.3f} s {times:6} x  {statement}")
            bench.statements.clear()
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        database.close()
    finally:
        server.stop(folder / "data", "immediate")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

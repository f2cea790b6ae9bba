"""How long a change of release keeps writers out and readers waiting, beside dumps of the same database.

    python bench/lifecycle.py [--rows 200000 | --large] [--jobs 2] [--no-fsync] [--everything] [--steps 12]

A database of the first revision is filled by set-based SQL (facts, evidence, runs, tasks and what they refer to;
--large: ten million rows). It is upgraded to the newest revision of this tree, downgraded to the first by the stored
plans, and upgraded again, each by `kattegat.lifecycle.run` as typed with --yes --no-backup. The server is an embedded
one of its own in a temporary folder.

Meanwhile, each in a process of its own:
- a reader asks for single rows and short ranges of the largest tables, one every 10 ms. For p50 and p99 a
  query's time counts from when it was due, so that one long wait counts for all the queries that it has held up; max
  is the longest that one query took itself. All are of the time that the database is closed; quiet is the same reader
  before the change.
- a watcher looks at pg_locks every few ms. What is printed is the most that a lock can have lasted, from the
  sample before the first that has it to the sample after the last: too long by up to two gaps between samples. (All of
  them together are given as least..most.) One shorter than a gap may be missed: its step's own time says how much that
  can be. Only ACCESS EXCLUSIVE makes a reader
  wait, and only on tables that were there before, so only these are counted; a transaction counts once.

Other work on the machine makes everything longer, readers' waits most of all: compare rows of one run.
"""

from __future__ import annotations

import argparse
import bisect
import gc
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from alembic import command

from kattegat import settings
from kattegat.lifecycle import backup, run
from kattegat.lifecycle.backup import reach, tools
from kattegat.lifecycle.run import Wish
from kattegat.lifecycle.way import Way
from kattegat.schema import ledger
from kattegat.schema.journal import Progress
from kattegat.schema.stored import PlanKey
from kattegat.store import migrate, server
from kattegat.store.database import ROLES, Database
from kattegat.store.release import Release, record

FIRST = "0001"
LARGE = 10_000_000
ORGANISATIONS = 10
EVERY = 0.010  # seconds between two queries of the reader
LOOK = 0.004  # seconds between two looks at the locks
BASELINE = 3.0  # seconds of the reader alone
AIM_LOCKS, AIM_LOCK, AIM_READER = 2.0, 0.2, 0.3  # seconds

# Parts of all rows; every row refers to those that it would refer to in use.
SHARES = {
    "asset": 0.04,
    "source": 0.04,
    "schedule": 0.04,
    "evidence_root": 0.03,
    "fact": 0.40,
    "evidence": 0.15,
    "run": 0.15,
    "task": 0.15,
}
FILL = {
    "asset": "(organisation_id, id, type, key, present) SELECT {o}, n, 'Hostname', 'host' || n || '.example', true",
    "source": "(organisation_id, id, scanner, asset_id, state, last_ended_at)"
    " SELECT {o}, n, 'dns-records', n, 'ok', now() - n % 1440 * interval '1 minute'",
    "schedule": "(organisation_id, id, due_at, every, requested_by)"
    " SELECT {o}, n, now() + n % 1440 * interval '1 minute', '1 day',"
    " CASE WHEN n % 10 = 0 THEN 'piet (command line)' ELSE '' END",
    "evidence_root": "(organisation_id, id, minute, sequence, first_leaf, leaves, root, previous, chained)"
    " SELECT {o}, n, now() - n * interval '1 minute', n, n * 5, 5, sha256(n::text::bytea),"
    " sha256((n - 1)::text::bytea), sha256((n + 1)::text::bytea)",
    "fact": "(organisation_id, id, source_id, asset_id, kind, item, value, digest, evidence_id, recorded_at)"
    " SELECT ({a} % {o_n}) + 1, n, {a}, {a}, 'DnsRecords', (n / {assets})::text, jsonb_build_object('type', 'A', 'ttl',"
    " 3600, 'name', 'host' || {a} || '.example', 'values', jsonb_build_array('192.0.2.' || n % 250, '192.0.2.7')),"
    " sha256(n::text::bytea), n, now() - n % 43200 * interval '1 minute'",
    "evidence": "(organisation_id, id, recorded_at, leaf_number, leaf, scanner, asset_type, asset_key, vantage, runner,"
    " started_at, ended_at, detail, size, content_hash) SELECT {o}, n, date_trunc('month', now()) - n % 20000"
    " * interval '1 minute', n, sha256(n::text::bytea), 'dns-records', 'Hostname', 'host' || n || '.example',"
    " 'internet', 'runner-1', now() - interval '9 s', now(), '{{\"questions\": 12}}', 2048, sha256((-n)::text::bytea)",
    "run": "(organisation_id, id, recorded_at, source_id, task_id, evidence_id, started_at, ended_at, outcome,"
    " facts_same) SELECT ({a} % {o_n}) + 1, n, date_trunc('month', now()) - n % 20000 * interval '1 minute', {a}, n, n,"
    " now() - interval '9 s', now(), 'ok', 3",
    # Most tasks are over; of one in twenty, a source's first, the turn has still to come.
    "task": "(id, organisation_id, kind, source_id, scanner, vantage, state, priority, started_at, ended_at)"
    " SELECT n, ({a} % {o_n}) + 1, 'scan', {a}, 'dns-records', 'internet', CASE WHEN n % 20 = 0 AND n <= {assets}"
    " THEN 'queued' ELSE 'done' END, n % 200, now() - interval '1 hour', now()",
}
# Of columns that every revision has; `n` is a number of a row, at random.
READS = {
    "fact row": "SELECT value FROM fact WHERE organisation_id = ({n} % {assets} + 1) % {o_n} + 1 AND id = {n}",
    "facts of an asset": "SELECT id, kind, value FROM fact WHERE asset_id = {n} % {assets} + 1 AND kind = 'DnsRecords'"
    " AND ended_at IS NULL",
    "evidence": "SELECT content_hash FROM evidence WHERE organisation_id = {n} % {o_n} + 1"
    " AND id BETWEEN {n} AND {n} + 99",
    "runs of a source": "SELECT outcome FROM run WHERE source_id = {n} % {assets} + 1 AND"
    " organisation_id = ({n} % {assets} + 1) % {o_n} + 1 ORDER BY recorded_at DESC LIMIT 20",
    "task row": "SELECT state, scanner FROM task WHERE id = {n}",
    "tasks": "SELECT id, state FROM task WHERE id BETWEEN {n} AND {n} + 99",
    "schedule row": "SELECT due_at FROM schedule WHERE organisation_id = {n} % {o_n} + 1 AND id = {n} % {assets} + 1",
}
EXISTING = (
    "SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
)
LOCKS = """
    SELECT l.virtualtransaction, l.relation FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock' AND l.relation >= 16384
"""


LOGGED = re.compile(r"duration: ([\d.]+) ms  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)")
LONG = 50  # milliseconds of a statement of the change that the server's log is asked for


class Read(NamedTuple):
    """A query: when it was due, sent and answered, Unix times; `began` is later than `due` behind one that waited."""

    due: float
    began: float
    ended: float
    name: str

    @property
    def late(self) -> float:
        """Seconds from when it was due."""
        return self.ended - self.due

    @property
    def own(self) -> float:
        """Seconds that it took itself."""
        return self.ended - self.began


class Held(NamedTuple):
    """ACCESS EXCLUSIVE in one transaction, and on which tables; Unix times of the samples around and with it."""

    before: float
    first: float
    last: float
    after: float
    tables: list[str]

    @property
    def least(self) -> float:
        """Seconds between the samples that have it."""
        return self.last - self.first

    @property
    def most(self) -> float:
        """Seconds between the samples around it."""
        return self.after - self.before


class Stretch(NamedTuple):
    """A step while it ran, Unix times."""

    start: float
    end: float
    label: str
    said: str


# -- processes of their own -----------------------------------------------------------------------------------------


def read(dsn: str, counts: dict[str, int], pipe: Pipe) -> None:
    """Asks on time until told to stop; sends a list of what was read."""
    gc.disable()
    queries = list(READS.items())
    made: list[Read] = []
    state = 1
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        connection.execute("SET application_name = 'bench reader'")
        due = time.time()
        while not pipe.poll():
            name, query = queries[len(made) % len(queries)]
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            number = (state >> 33) % counts["task"] + 1
            text = query.format(n=number, assets=counts["asset"], o_n=ORGANISATIONS)
            began = time.time()
            connection.execute(text.encode()).fetchall()
            made.append(Read(due, began, time.time(), name))
            due += EVERY
            wait = due - time.time()
            if wait > 0:
                time.sleep(wait)
    pipe.send(made)


def watch(dsn: str, pipe: Pipe) -> None:
    """Looks at the locks until told to stop; sends what was held and the times of all samples."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET application_name = 'bench watcher'")
        tables: dict[int, str] = dict(connection.execute(EXISTING).fetchall())
        times: list[float] = []
        # By transaction: its first and last sample, and the tables.
        seen: dict[str, tuple[int, int, set[str]]] = {}
        while not pipe.poll(LOOK):
            rows = connection.execute(LOCKS).fetchall()
            times.append(time.time())
            for transaction, relation in rows:
                if relation in tables:
                    first, _, names = seen.get(transaction, (len(times) - 1, 0, set()))
                    seen[transaction] = (first, len(times) - 1, names | {tables[relation]})
    times.append(time.time())
    held = [
        Held(times[max(first - 1, 0)], times[first], times[last], times[last + 1], sorted(names))
        for first, last, names in seen.values()
    ]
    pipe.send((held, times))


@contextmanager
def beside(target: Any, *arguments: Any) -> Iterator[list[Any]]:
    """Runs a function in a process of its own meanwhile; what it sent is in the list afterwards."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    found: list[Any] = []
    try:
        yield found
        mine.send(None)
        found.append(mine.recv())
    finally:
        process.terminate()
        process.join()


# -- the change -----------------------------------------------------------------------------------------------------


class Told:
    """Keeps when what happened."""

    def __init__(self) -> None:
        self.found: Way | None = None
        self.said: list[tuple[float, str]] = []
        self.stretches: list[Stretch] = []
        self.waits = 0
        self._began = 0.0

    def plan(self, found: Way, numbers: dict[str, int]) -> None:  # noqa: ARG002
        self.found = found

    def dry(self, found: Way) -> None:  # noqa: ARG002
        return None

    def say(self, sentence: str) -> None:
        self.said.append((time.time(), sentence))

    def step(self, progress: Progress) -> None:
        if progress.moment == "starts":
            self._began = time.time()
        elif progress.moment == "waits":
            self.waits += 1
        elif progress.moment == "done":
            step = progress.step
            label = f"{progress.number}/{progress.of} {step.kind} {step.target}"
            self.stretches.append(Stretch(self._began, time.time(), label, step.words))

    def part(self, what: str, done: int, total: int) -> None:  # noqa: ARG002
        return None

    def ask(self, question: str) -> bool:  # noqa: ARG002
        return True


class Changed(NamedTuple):
    name: str
    planned: float
    counted: float
    steps: float
    verified: float
    total: float
    held: list[Held]
    stretches: list[Stretch]
    quiet: list[Read]
    reads: list[Read]
    gap: float
    typical_gap: float
    waits: int
    statements: list[tuple[float, str]]
    load: float

    @property
    def closed(self) -> float:
        """Seconds closed to writers."""
        return self.counted + self.steps + self.verified


def measure(
    name: str, chosen: settings.Settings, database: Database, wish: Wish, dsn: str, counts: dict[str, int]
) -> Changed:
    told = Told()
    log = server.status(chosen.data_dir).log
    since = sizes(log)
    with beside(read, dsn, counts) as reading, beside(watch, dsn) as watching:
        # The processes start, and the reader has the database for itself for a while.
        time.sleep(BASELINE + 2.0)
        began = time.time()
        run.change(chosen, database, wish, told)
        ended = time.time()
    held, times = watching[0]
    closing = next(at for at, sentence in told.said if sentence.startswith("Closing"))
    first, last = told.stretches[0].start, told.stretches[-1].end
    gaps = sorted(b - a for a, b in itertools.pairwise(times) if closing <= b <= ended)
    return Changed(
        name=name,
        planned=closing - began,
        counted=first - closing,
        steps=last - first,
        verified=ended - last,
        total=ended - began,
        held=[one for one in held if one.first < ended and one.last > closing],
        stretches=told.stretches,
        quiet=[one for one in reading[0] if one.ended < began],
        reads=[one for one in reading[0] if one.ended >= closing and one.due <= ended],
        gap=gaps[-1] if gaps else 0.0,
        typical_gap=part(gaps, 0.5),
        waits=told.waits,
        statements=slow(log, since),
        load=os.getloadavg()[0],
    )


def part(numbers: Sequence[float], which: float) -> float:
    """The value that this part of the numbers does not exceed (nearest rank)."""
    ordered = sorted(numbers)
    return ordered[min(int(which * len(ordered)), len(ordered) - 1)] if ordered else 0.0


# -- the database ---------------------------------------------------------------------------------------------------


def build(database: Database, key: Path, admin: str, rows: int) -> dict[str, int]:
    """A database as the first release leaves it, filled; gives how many rows each table got."""
    with database.engine("kat_owner").begin() as connection:
        ledger.install(connection)
        own = migrate.config(connection)
        own.attributes["plan_key"] = lambda: PlanKey.open(key)
        command.upgrade(own, FIRST)
        record(connection, Release("0.1.0", FIRST))
        migrate.settle(connection)
    counts = {table: max(int(rows * share), ORGANISATIONS) for table, share in SHARES.items()}
    with psycopg.connect(admin, autocommit=True) as connection:
        # Keys are right as they are made, and the fence asks for the epoch.
        connection.execute("SET session_replication_role = replica")
        connection.execute("SELECT set_config('kat.epoch', last_value::text, false) FROM lifecycle.epoch")
        connection.execute(
            "INSERT INTO organisation (id, code, name) SELECT n, 'o' || n, 'Organisation ' || n"
            f" FROM generate_series(1, {ORGANISATIONS}) n"
        )
        connection.execute(f"ALTER ROLE kat_owner SET log_min_duration_statement = {LONG}".encode())
        for table, count in counts.items():
            text = FILL[table].format(
                o=f"(n % {ORGANISATIONS}) + 1",
                o_n=ORGANISATIONS,
                a=f"(n % {counts['asset']} + 1)",
                assets=counts["asset"],
            )
            connection.execute(f"INSERT INTO {table} {text} FROM generate_series(1, {count}) n".encode())
            if table not in ("schedule",):
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {count})".encode())
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    return counts


def timed(command_line: list[str], environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command_line, check=True, env=os.environ | environment)
    return time.monotonic() - began


def dumps(
    folder: Path, chosen: settings.Settings, database: Database, admin: str, jobs: int
) -> Iterator[tuple[str, float, int]]:
    """Names, seconds and bytes of dumping and restoring this database in different ways."""
    way = reach.of(chosen, database)
    found = tools.find(way)
    dsn, environment = way.for_tools(way.database)
    for name, more in ((f"pg_dump -Fd -j{jobs}", []), (f"pg_dump -Fd -j{jobs} --compress 1", ["--compress", "1"])):
        target = folder / "dump"
        shutil.rmtree(target, ignore_errors=True)
        seconds = timed(
            [f"{found.folder}/pg_dump", "-d", dsn, "-Fd", "-f", str(target), f"-j{jobs}", *more], environment
        )
        yield name, seconds, size(target)
    began = time.monotonic()
    made = backup.create(chosen, database, to=folder / "backups", jobs=jobs)
    yield "kat backup create", time.monotonic() - began, size(made.path)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE DATABASE bench_restored TEMPLATE template0")
    copy, environment = way.for_tools("bench_restored")
    yield (
        f"pg_restore -j{jobs}",
        timed([f"{found.folder}/pg_restore", "-d", copy, "-Fd", f"-j{jobs}", str(folder / "dump")], environment),
        0,
    )
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE bench_restored")
    began = time.monotonic()
    backup.verify(chosen, database, made)
    yield "kat backup verify", time.monotonic() - began, 0


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sizes(folder: Path) -> dict[Path, int]:
    """The server's logs, and how long each is."""
    return {path: path.stat().st_size for path in folder.glob("*.log")}


def slow(folder: Path, since: dict[Path, int]) -> list[tuple[float, str]]:
    """What the server's logs say since then of statements that took long: their seconds and texts."""
    found = []
    for path in sizes(folder):
        with path.open("rb") as file:
            file.seek(since.get(path, 0))
            for taken, statement in LOGGED.findall(file.read().decode(errors="replace")):
                found.append((float(taken) / 1000, " ".join(statement.split())))
    return found


# -- what is printed ------------------------------------------------------------------------------------------------

CHANGES = (
    ("change", 22),
    ("total s", 8),
    ("plan s", 7),
    ("closed s", 8),
    ("count s", 7),
    ("steps s", 7),
    ("verify s", 8),
    ("locks", 5),
    ("all s", 12),
    ("max ms", 8),
    ("p50 ms", 7),
    ("p99 ms", 8),
    ("max ms", 8),
    ("p99 quiet", 9),
    ("max quiet", 9),
    ("gap ms", 11),
    ("load", 5),
    ("total/dump", 10),
)


def line(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    return " | ".join(
        f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
        for place, (cell, (_, width)) in enumerate(zip(cells, columns, strict=True))
    )


def cells(one: Changed, dump: float) -> list[str]:
    late, quiet = [each.late for each in one.reads], [each.late for each in one.quiet]
    return [
        one.name,
        f"{one.total:.2f}",
        f"{one.planned:.2f}",
        f"{one.closed:.2f}",
        f"{one.counted:.2f}",
        f"{one.steps:.2f}",
        f"{one.verified:.2f}",
        str(len(one.held)),
        f"{sum(held.least for held in one.held):.2f}..{sum(held.most for held in one.held):.2f}",
        ms(max((held.most for held in one.held), default=0.0)),
        ms(part(late, 0.5)),
        ms(part(late, 0.99)),
        ms(max((each.own for each in one.reads), default=0.0)),
        ms(part(quiet, 0.99)),
        ms(max((each.own for each in one.quiet), default=0.0)),
        f"{ms(one.typical_gap)}..{ms(one.gap)}",
        f"{one.load:.1f}",
        f"{one.total / dump:.2f}",
    ]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def steps(one: Changed, most: int) -> Iterator[str]:
    """The longest steps, with the lock that a reader would wait for and the longest wait of one meanwhile."""
    ends = sorted(one.stretches, key=lambda each: each.end)
    locks = dict.fromkeys(ends, 0.0)
    names: dict[Stretch, set[str]] = {each: set() for each in ends}
    for held in one.held:
        # The transaction ended in the step that was under way, or just done, then.
        middle = (held.first + held.last) / 2
        place = min(bisect.bisect_left([each.end for each in ends], middle), len(ends) - 1)
        locks[ends[place]] += held.most
        names[ends[place]].update(held.tables)
    for each in sorted(ends, key=lambda each: each.start - each.end)[:most]:
        waits = [read.own for read in one.reads if read.began < each.end and read.ended > each.start]
        said = ", ".join(sorted(names[each])) or "no lock seen"
        yield (
            f"    {ms(each.end - each.start):>8} ms | lock {ms(locks[each]):>8} ms | reader"
            f" {ms(max(waits, default=0.0)):>8} ms | {each.label}: {said}"
        )


def report(changes: Sequence[Changed], dumped: Sequence[tuple[str, float, int]], most: int) -> None:
    plain = dumped[0][1]
    print(
        "closed = count + steps + verify; locks, all, max: ACCESS EXCLUSIVE on tables that were there; p50, p99, max:"
    )
    print("the reader while closed; gap: median..longest between samples of the locks; total/dump: to plain pg_dump.")
    print(line([name for name, _ in CHANGES], CHANGES))
    aims = ["aim"] + [""] * (len(CHANGES) - 1)
    aims[8], aims[9], aims[11] = f"<= {AIM_LOCKS:g}", f"<= {ms(AIM_LOCK)}", f"<= {ms(AIM_READER)}"
    print(line(aims, CHANGES))
    for one in changes:
        print(line(cells(one, plain), CHANGES))
    for one in changes:
        waited = f", {one.waits} tries for a lock given up and repeated" if one.waits else ""
        print(f"\nLongest steps of the {one.name} ({len(one.stretches)} steps{waited}):")
        print("\n".join(steps(one, most)))
        print("    longest statements of it, as the server says:")
        for seconds, statement in sorted(one.statements, reverse=True)[:most]:
            print(f"    {ms(seconds):>8} ms | {statement[:140]}")
        worst = max(one.reads, key=lambda each: each.own)
        during = next((s.label for s in one.stretches if s.start <= worst.ended and s.end >= worst.began), "no step")
        print(f"    longest query of the reader: {ms(worst.own)} ms, {worst.name}, during {during}")
    print()
    table = (("the same database", 30), ("seconds", 9), ("MB", 8), ("/ plain dump", 12), ("aim", 6))
    print(line([name for name, _ in table], table))
    for name, taken, stored in dumped:
        aim = "<= 1" if name == "kat backup create" else ""
        print(line([name, f"{taken:.2f}", f"{stored / 1e6:.0f}" if stored else "", f"{taken / plain:.2f}", aim], table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="in all tables together")
    parser.add_argument("--large", action="store_true", help="ten million rows")
    parser.add_argument("--jobs", type=int, default=2, help="of pg_dump, pg_restore and kat backup")
    parser.add_argument("--no-fsync", action="store_true")
    parser.add_argument("--everything", action="store_true", help="compare the values of large tables too")
    parser.add_argument("--steps", type=int, default=12, help="how many of the longest steps are printed")
    given = parser.parse_args()
    rows = LARGE if given.large else given.rows
    # Ended by a signal, it takes its server along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="kat-bench-"))
    folder.chmod(0o711)
    data = folder / "data"
    # What the environment of this process says of an install is not about this one.
    os.environ["KAT_DATA_DIR"] = str(data)
    try:
        chosen = settings.load({"KAT_DATA_DIR": str(data)})
        running = server.ensure(data, durable=not given.no_fsync)
        admin = running.dsn("kat_admin")
        database = Database({role: running.dsn(role) for role in ROLES}, login=True)
        began = time.monotonic()
        counts = build(database, migrate.key_path(chosen), admin, rows)
        filled = time.monotonic() - began
        with psycopg.connect(admin) as connection:
            found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        print(
            f"PostgreSQL {running.version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores,"
            f" {'no ' if given.no_fsync else ''}fsync; revision {FIRST} <-> {migrate.head()};"
            f" {sum(counts.values()):,} rows ({', '.join(f'{table} {count:,}' for table, count in counts.items())}),"
            f" {(found or (0,))[0] / 1e6:,.0f} MB, filled in {filled:.0f} s",
            flush=True,
        )
        dumped = list(dumps(folder, chosen, database, admin, given.jobs))
        changes = []
        for name, kind in (("upgrade", "upgrade"), ("downgrade", "downgrade"), ("upgrade again", "upgrade")):
            to = FIRST if kind == "downgrade" else None
            wish = Wish(kind=kind, to=to, yes=True, backup=False, everything=given.everything)  # type: ignore[arg-type]
            changes.append(measure(name, chosen, database, wish, admin, counts))
            print(f"{name}: {changes[-1].total:.1f} s", flush=True)
        database.close()
        report(changes, dumped, given.steps)
    finally:
        server.stop(data, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

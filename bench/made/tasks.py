"""What bench/queue.py measures."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
from sqlalchemy import text

from kattegat.evidence import vault as vaults
from kattegat.model.work import Claim, Jobs
from kattegat.registry import Plugin, Registry
from kattegat.scheduler import beat, history, listing, queue, runners
from kattegat.scheduler.queue import NewTask
from kattegat.settings import load
from kattegat.store import migrate, server
from kattegat.store.database import ROLES, Database
from kattegat.web import process
from kattegat.web.app import create_app

ORGANISATIONS = 100
SAMPLES = Path(__file__).resolve().parents[2] / "tests" / "samples"

SEED = text(
    """
    INSERT INTO task (organisation_id, kind, source_id, scanner, vantage, turn)
    SELECT s.organisation_id, 'scan', s.id, 'sample-names', 'internet', 1 + n / :organisations
    FROM (SELECT organisation_id, id, row_number() OVER (ORDER BY id) AS n FROM source) AS s
    WHERE n <= :depth
    """
)
SOURCES = text(
    """
    WITH a AS (
      INSERT INTO asset (organisation_id, type, key, present)
      SELECT 1 + n % :organisations, 'Hostname', n || '.example.org', true
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n
      RETURNING organisation_id, id
    )
    INSERT INTO source (organisation_id, scanner, asset_id) SELECT organisation_id, 'sample-names', id FROM a
    """
)
PAST = text(
    f"""
    INSERT INTO task_history ({history.NAMES})
    SELECT -n, 1 + n % 100, 'scan', NULL, 'sample-names', 'internet',
           CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'done' END, 100, n, at, NULL, 7, 'runner 1', 0, 3,
           CASE WHEN n % 20 = 0 THEN 'no answer' ELSE '' END, '{{}}', at, at, at + interval '2 seconds'
    FROM (
      SELECT n, now() - interval '30 days' * (CAST(n AS double precision) / :history) AS at
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n
    ) AS made
    """
)
TALLY = text(
    """
    INSERT INTO task_tally (hour, organisation_id, kind, scanner, state, tasks, seconds)
    SELECT date_trunc('hour', ended_at, 'UTC'), organisation_id, kind, scanner, state, count(*), 2.0 * count(*)
    FROM task_history GROUP BY 1, 2, 3, 4, 5
    """
)


class Bench:
    """A database with organisations and sources, and the door's web process in front of it."""

    def __init__(self, folder: Path) -> None:
        running = server.ensure(folder / "data", durable=True)
        self.folder = folder
        self.conninfo = {role: running.dsn(role) for role in ROLES}
        self.database = Database(self.conninfo, login=True)
        migrate.prepare(self.database)
        self.sources = 0
        self.history = 0
        with self.database.begin("kat_system") as conn:
            conn.execute(
                text("INSERT INTO organisation (code, name) SELECT 'o' || n, 'o' FROM generate_series(1, :n) n"),
                {"n": ORGANISATIONS},
            )

    def depth(self, depth: int) -> None:
        """So many scans wait, and nothing else does."""
        with self.database.begin("kat_system") as conn:
            if depth > self.sources:
                made = {"organisations": ORGANISATIONS, "first": self.sources + 1, "last": depth}
                conn.execute(SOURCES, made)
                self.sources = depth
        with self.database.begin("kat_owner") as conn:
            conn.execute(text("TRUNCATE task"))
        with self.database.begin("kat_system") as conn:
            conn.execute(SEED, {"depth": depth, "organisations": ORGANISATIONS})
        with self.database.engine("kat_owner").connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE task"))
            conn.execute(text("VACUUM ANALYZE source"))

    def past(self, length: int) -> None:
        """So many tasks in the history, over the last thirty days."""
        if length == self.history:
            return
        with self.database.begin("kat_owner") as conn:
            conn.execute(text("TRUNCATE task_history, task_tally"))
        for first in range(1, length + 1, 500_000):
            with self.database.begin("kat_system") as conn:
                conn.execute(PAST, {"history": length, "first": first, "last": min(length, first + 499_999)})
        with self.database.begin("kat_system") as conn:
            conn.execute(TALLY)
        with self.database.engine("kat_owner").connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE task_history"))
        self.history = length


def registry() -> Registry:
    """The scanners of the samples for tests."""
    sys.path.insert(0, str(SAMPLES))
    return Registry([Plugin("katsample", importlib.import_module("katsample"))])


def serve(conninfo: dict[Any, str], folder: str) -> None:
    """The web process, until it is ended."""
    database = Database(conninfo, login=True)
    install = load({"KAT_DATA_DIR": folder})
    app = create_app(database, vaults.open_vault(install), registry(), install)
    made = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    made.run(sockets=[process.listen_unix(Path(folder) / "door")])


def claiming(
    conninfo: dict[Any, str], door: str, token: str, most: int, seconds: float, answers: Any, ready: Any, go: Any
) -> None:
    """One runner: claims until the time is up or nothing is left; directly, or over HTTP when there is a door."""
    times: list[float] = []
    ids: list[int] = []
    database = Database(conninfo, login=True)
    client = httpx.Client(transport=httpx.HTTPTransport(uds=door), base_url="http://door", timeout=60) if door else None
    body = msgspec.msgpack.encode(Claim("x", beat.release(), "internet", {"sample-names": 1}, {}, most))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/msgpack"}
    # Connected and compiled before the clock runs.
    with database.begin("kat_system") as conn:
        queue.claim(conn, ["backup"], token, 1)
    if client is not None:
        client.get("/health")
    ready.put(True)
    go.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        if client is None:
            with database.begin("kat_system") as conn:
                got = [task.id for task in queue.claim(conn, ["scan"], token, most)]
        else:
            answer = client.post("/door/v1/claim", content=body, headers=headers)
            answer.raise_for_status()
            got = [job.task_id for job in msgspec.msgpack.decode(answer.content, type=Jobs).jobs]
        times.append(time.perf_counter() - begun)
        ids += got
        if not got:
            break
    database.close()
    answers.put((times, ids))


def row(what: str, depth: int, past: int, count: int, seconds: float, times: Sequence[float], note: str = "") -> None:
    """Prints one line."""
    p50 = statistics.median(times) * 1000 if times else 0.0
    p99 = sorted(times)[int(len(times) * 0.99)] * 1000 if times else 0.0
    print(f"{what:<34}{depth:>10,}{past:>12,}{count / seconds:>12,.0f}{p50:>10.2f}{p99:>10.2f}  {note}", flush=True)


def push(bench: Bench, depth: int, past: int, batch: int, seconds: float) -> None:
    """Queues tasks without a source, so many at once."""
    bench.depth(depth)
    times: list[float] = []
    number = 0
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        tasks = [
            NewTask("scan", 1 + (number + n) % ORGANISATIONS, None, "sample-names", "internet") for n in range(batch)
        ]
        at = time.perf_counter()
        with bench.database.begin("kat_system") as conn:
            queue.push(conn, tasks)
        times.append(time.perf_counter() - at)
        number += batch
    row(f"push, {batch} at once, direct", depth, past, number, time.monotonic() - begun, times)


def claim(bench: Bench, depth: int, past: int, runners_: int, most: int, seconds: float, door: str) -> None:
    """So many runners claim at once; says if a task was given twice."""
    bench.depth(depth)
    with bench.database.begin("kat_system") as conn:
        tokens = [runners.register(conn, f"runner {n}") for n in range(runners_)]
    context = multiprocessing.get_context("spawn")
    go, answers, ready = context.Event(), context.Queue(), context.Queue()
    started = [
        context.Process(target=claiming, args=(bench.conninfo, door, token, most, seconds, answers, ready, go))
        for token in tokens
    ]
    for one in started:
        one.start()
    for _ in started:
        ready.get()
    begun = time.monotonic()
    go.set()
    got = [answers.get() for _ in started]
    took = time.monotonic() - begun
    for one in started:
        one.join()
    ids = [task for _, given in got for task in given]
    note = "none twice" if len(ids) == len(set(ids)) else f"{len(ids) - len(set(ids))} GIVEN TWICE"
    how = "HTTP" if door else "direct"
    times = [value for times, _ in got for value in times]
    row(f"claim, {runners_} runners, {most} at once, {how}", depth, past, len(ids), took, times, note)


def look(bench: Bench, depth: int, past: int) -> None:
    """Pages, counts and statistics, as a person looks at them."""
    bench.depth(depth)
    since = datetime.now(UTC) - timedelta(days=7)
    looks: dict[str, Callable[[Any], object]] = {
        "newest page": lambda conn: listing.tasks(conn, listing.Filter()),
        "page of an organisation": lambda conn: listing.tasks(conn, listing.Filter(organisations=[7])),
        "page of what failed": lambda conn: listing.tasks(conn, listing.Filter(states=["failed"])),
        "count of what failed": lambda conn: listing.count(conn, listing.Filter(states=["failed"])),
        "counts by kind and state": lambda conn: listing.counts(conn),
        "statistics of 7 days": lambda conn: history.statistics(conn, since),
    }
    for name, act in looks.items():
        times = []
        for _ in range(10):
            at = time.perf_counter()
            with bench.database.begin("kat_system") as conn:
                act(conn)
            times.append(time.perf_counter() - at)
        row(name, depth, past, 10, sum(times), times)


@contextmanager
def web(bench: Bench) -> Iterator[str]:
    """The door, in a process of its own; gives the path of its socket."""
    context = multiprocessing.get_context("spawn")
    started = context.Process(target=serve, args=(bench.conninfo, str(bench.folder)))
    started.start()
    path = bench.folder / "door"
    try:
        while not path.exists():
            time.sleep(0.1)
        yield str(path)
    finally:
        started.terminate()
        started.join()


def main(description: str) -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", default="1000,100000")
    parser.add_argument("--history", default="0,100000")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--no-http", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kat-bench-"))
    folder.chmod(0o711)
    try:
        bench = Bench(folder)
        print(f"{'':<34}{'depth':>10}{'history':>12}{'tasks/s':>12}{'p50 ms':>10}{'p99 ms':>10}")
        for past in [int(part) for part in given.history.split(",")]:
            bench.past(past)
            for depth in [int(part) for part in given.depths.split(",")]:
                for batch in (1, 100):
                    push(bench, depth, past, batch, given.seconds)
                for runners_, most in ((1, 1), (4, 1), (8, 1), (1, 100)):
                    claim(bench, depth, past, runners_, most, given.seconds, "")
                if not given.no_http:
                    with web(bench) as door:
                        for runners_, most in ((1, 1), (4, 1), (8, 1), (1, 100)):
                            claim(bench, depth, past, runners_, most, given.seconds, door)
                look(bench, depth, past)
        bench.database.close()
    finally:
        server.stop(folder / "data", "immediate")
        shutil.rmtree(folder)

"""Results on their way to facts: real database, real vault, real parsing processes, the door in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from kattegat.evidence import vault as vaults
from kattegat.inventory import declare
from kattegat.model.assets import Asset, Hostname
from kattegat.model.evidence import Evidence, Part
from kattegat.model.work import Claim, Detail, Job, Result
from kattegat.registry import Registry
from kattegat.scheduler import beat, dispatch, listing, queue, runners, scans
from kattegat.scheduler.plan import plan
from kattegat.settings import load
from kattegat.store.database import Database
from kattegat.web.door import Door
from kattegat.worker import process
from kattegat.worker.ingest import Ingest
from kattegat.worker.sandbox import Sandbox


class Install:
    """An organisation with a door to hand results in at, and a worker's ingest."""

    def __init__(self, database: Database, registry: Registry, sandbox: Sandbox, folder: Path) -> None:
        self.database = database
        self.registry = registry
        self.sandbox = sandbox
        self.vault = vaults.open_vault(load({"KAT_DATA_DIR": str(folder)}))
        with database.begin("kat_system") as conn:
            self.organisation: int = conn.execute(
                text("INSERT INTO organisation (code, name) VALUES ('acme', 'Acme') RETURNING id")
            ).scalar_one()
            conn.execute(
                text("INSERT INTO consent (organisation_id, granted_by, text) VALUES (:o, 'me', 'yes')"),
                {"o": self.organisation},
            )
            token = runners.register(conn, "here")
        self.door = Door(database, registry, lambda c, o, entry: vaults.put(c, self.vault, o, [entry])[0])
        self.runner = self.door.runner(f"Bearer {token}")
        self.ingest = self.make_ingest()

    def make_ingest(self, **more: Any) -> Ingest:
        return Ingest(self.database, self.vault, self.registry, self.sandbox, by="worker", **more)

    def declare(self, *subjects: Asset, clearance: int = 2) -> None:
        with self.database.begin("kat_system") as conn:
            ids = declare.declare(conn, self.organisation, [(subject, clearance) for subject in subjects], "me")
            plan(conn, self.organisation, ids, self.registry)

    def claim(self) -> list[Job]:
        with self.database.begin("kat_system") as conn:
            dispatch.dispatch(conn)
        known = {spec.name: spec.version for spec in self.registry.scanners.values()}
        message = Claim("here", beat.release(), "internet", known, {"sampletool": "1"}, 100)
        return self.door.claim(self.runner, message).jobs

    def hand_in(self, job: Job, *parts: tuple[str, str], **more: Any) -> None:
        now = datetime.now(UTC)
        evidence = Evidence(tuple(Part(name, content.encode()) for name, content in parts)).pack()
        fields = {
            "outcome": "ok",
            "reason": "",
            "started_at": now - timedelta(seconds=1),
            "ended_at": now,
            "evidence": evidence,
            "detail": Detail(),
            **more,
        }
        assert self.door.hand_in(self.runner, Result(job.task_id, job.lease_token, **fields)).taken

    def rows(self, sql: str) -> list[Any]:
        with self.database.begin("kat_system") as conn:
            return list(conn.execute(text(sql)).all())

    def counts(self) -> dict[tuple[str, str], int]:
        with self.database.begin("kat_system") as conn:
            return listing.counts(conn)


@pytest.fixture
def install(database: Database, registry: Registry, sandbox: Sandbox, tmp_path: Path) -> Install:
    return Install(database, registry, sandbox, tmp_path)


def by_scanner(jobs: list[Job]) -> dict[str, Job]:
    return {job.scanner: job for job in jobs}


def test_a_result_becomes_facts_assets_and_further_scans(install: Install) -> None:
    install.declare(Hostname("www.example.org"))
    jobs = by_scanner(install.claim())
    assert set(jobs) == {"sample-names", "sample-banner"}
    install.hand_in(jobs["sample-names"], ("address", "192.0.2.7"))
    install.hand_in(jobs["sample-banner"], ("say", "hello"))
    assert install.ingest.step() == 2
    assert install.ingest.step() == 0
    assert install.rows("SELECT kind, value FROM fact ORDER BY kind") == [
        ("Addresses", {"addresses": ["192.0.2.7"]}),
        ("Banner", {"text": "hello"}),
    ]
    assert install.rows("SELECT state, confirmed_at IS NOT NULL FROM source WHERE scanner = 'sample-names'") == [
        ("ok", True)
    ]
    (port_scan,) = install.claim()
    assert (port_scan.scanner, port_scan.asset_key) == ("sample-ports", "internet|192.0.2.7")
    install.hand_in(port_scan, ("443", ""))
    install.ingest.step()
    # The ports of an address that the name resolves to are what sample-banner asked for.
    (again,) = install.claim()
    assert again.scanner == "sample-banner"
    assert [known.value for known in again.known] == [{"ports": [443]}]
    install.hand_in(again, ("say", "hello"))
    install.ingest.step()
    assert install.claim() == []
    assert install.counts() == {("scan", "done"): 4, ("ingest", "done"): 4}
    waits = install.rows("SELECT extract(epoch FROM due_at - now()) / extract(epoch FROM every) FROM schedule")
    assert all(0.9 < float(wait) < 1.1 for (wait,) in waits)


def test_what_a_scan_finds_is_planned_with_its_choice_of_scanners(install: Install) -> None:
    install.declare(Hostname("www.example.org"))
    with install.database.begin("kat_system") as conn:
        scans.open_(conn, install.organisation, ["www.example.org"], scans.Choice(None, ("sample-ports",)), "me")
    install.hand_in(by_scanner(install.claim())["sample-names"], ("address", "192.0.2.7"))
    install.ingest.step()
    assert install.claim() == []
    holds = install.rows("SELECT h.hold FROM schedule h JOIN source s ON s.id = h.id WHERE s.scanner = 'sample-ports'")
    assert holds == [("skipped on request",)]


def test_a_failed_scan_records_only_that_it_failed(install: Install) -> None:
    install.declare(Hostname("www.example.org"))
    jobs = by_scanner(install.claim())
    install.hand_in(jobs["sample-names"], ("address", "192.0.2.7"))
    install.hand_in(jobs["sample-banner"], ("say", "hello"))
    install.ingest.step()
    with install.database.begin("kat_system") as conn:
        sources = [row.id for row in conn.execute(text("SELECT id FROM source WHERE scanner = 'sample-names'"))]
        dispatch.request(conn, install.organisation, sources, "me")
    jobs = by_scanner(install.claim())
    install.hand_in(jobs["sample-names"], outcome="failed", reason="no answer from 192.0.2.53")
    install.ingest.step()
    assert install.rows("SELECT state, reason FROM source WHERE scanner = 'sample-names'") == [
        ("failed", "no answer from 192.0.2.53")
    ]
    assert install.rows("SELECT value FROM fact WHERE kind = 'Addresses' AND ended_at IS NULL") == [
        ({"addresses": ["192.0.2.7"]},)
    ]
    ((wait,),) = install.rows(
        "SELECT extract(epoch FROM due_at - now()) FROM schedule h JOIN source s ON s.id = h.id"
        " WHERE s.scanner = 'sample-names'"
    )
    assert 500 < float(wait) < 700


@pytest.mark.parametrize("what", ["exit", "memory", "raise", "fork"])
def test_a_broken_parser_costs_its_own_run_and_the_evidence_is_kept(install: Install, what: str) -> None:
    install.declare(Hostname("bad.example.org"), Hostname("good.example.org"))
    jobs = [job for job in install.claim() if job.scanner == "sample-banner"]
    for job in jobs:
        install.hand_in(job, (what if job.asset_key.startswith("bad") else "say", "hello"))
    install.ingest.step()
    states = install.rows(
        "SELECT a.key, s.state, s.reason FROM source s JOIN asset a ON a.id = s.asset_id"
        " WHERE s.scanner = 'sample-banner' ORDER BY a.key"
    )
    assert [row.state for row in states] == ["failed", "ok"]
    assert states[0].reason.startswith("its evidence could not be read: ")
    assert install.counts()["ingest", "done"] == 2
    kept = install.rows("SELECT e.id FROM evidence e JOIN run r ON r.evidence_id = e.id WHERE r.outcome = 'failed'")
    assert len(kept) == 1


def test_changed_evidence_is_not_read(install: Install, tmp_path: Path) -> None:
    install.declare(Hostname("www.example.org"))
    install.hand_in(by_scanner(install.claim())["sample-names"], ("address", "192.0.2.7"))
    for pack in (path for path in (tmp_path / "evidence").rglob("*") if path.is_file()):
        content = bytearray(pack.read_bytes())
        content[-1] ^= 1
        pack.write_bytes(content)
    install.ingest.step()
    ((state, reason),) = install.rows("SELECT state, reason FROM source WHERE scanner = 'sample-names'")
    assert state == "failed"
    assert reason.startswith("its evidence could not be read: ")


def poisoned(key: str) -> Callable[..., None]:
    def evaluate(conn: Connection, organisation: int, ids: Collection[int], *_: Any) -> None:
        keys = conn.execute(text("SELECT key FROM asset WHERE id = ANY(:ids)"), {"ids": list(ids)}).scalars()
        if key in set(keys):
            conn.execute(text("SELECT 1 / 0"))

    return evaluate


def test_a_result_that_breaks_everything_ends_dead_and_stops_nothing_else(install: Install) -> None:
    install.declare(*(Hostname(f"{name}.example.org") for name in ("a", "poison", "b")))
    for job in install.claim():
        if job.scanner == "sample-banner":
            install.hand_in(job, ("say", "hello"))
    ingest = install.make_ingest(evaluator=poisoned("poison.example.org"))
    assert ingest.step() == 3
    assert install.counts()["ingest", "done"] == 2
    assert len(install.rows("SELECT 1 FROM fact")) == 2
    for _ in range(2):
        with install.database.begin("kat_system") as conn:
            conn.execute(text("UPDATE task SET run_after = now()"))
        assert ingest.step() == 1
    with install.database.begin("kat_system") as conn:
        (dead,) = listing.tasks(conn, listing.Filter(kinds=["ingest"], states=["dead"]))
        assert "division by zero" in dead.reason
        # What became of it still gets into its source.
        (follow,) = listing.tasks(conn, listing.Filter(kinds=["ingest"], states=["queued"]))
        assert follow.payload["outcome"] == "failed"
    install.ingest.step()
    ((state, reason),) = install.rows(
        "SELECT s.state, s.reason FROM source s JOIN asset a ON a.id = s.asset_id"
        " WHERE s.scanner = 'sample-banner' AND a.key = 'poison.example.org'"
    )
    assert state == "failed"
    assert reason.startswith("given up after 3 tries: its result could not be recorded: ")


def test_a_lost_lease_leaves_no_trace(install: Install) -> None:
    install.declare(Hostname("www.example.org"), Hostname("other.example.org"))
    for job in install.claim():
        if job.scanner == "sample-names":
            install.hand_in(job, ("address", "192.0.2.7"))

    def steal(conn: Connection, organisation: int, ids: Collection[int], *_: Any) -> None:
        """While the worker records, one of its two tasks is cancelled by somebody."""
        if not stolen:
            with install.database.begin("kat_system") as other:
                (task, _) = listing.tasks(other, listing.Filter(kinds=["ingest"], states=["leased"]))
                stolen.append(task.id)
                queue.cancel(other, stolen, "me", "not wanted")

    stolen: list[int] = []
    install.make_ingest(evaluator=steal).step()
    assert install.counts() == {
        ("scan", "done"): 2,
        ("scan", "leased"): 2,
        ("ingest", "done"): 1,
        ("ingest", "cancelled"): 1,
    }
    assert len(install.rows("SELECT 1 FROM fact")) == 1
    assert len(install.rows("SELECT 1 FROM run")) == 1


def test_the_worker_signs_in_works_and_stops_cleanly(install: Install) -> None:
    install.declare(Hostname("www.example.org"))
    worker = process.Worker(install.database, install.vault, install.registry, install.sandbox)
    stop = threading.Event()
    thread = threading.Thread(target=process.serve, args=(worker, install.database, stop))
    thread.start()
    try:
        install.hand_in(by_scanner(install.claim())["sample-names"], ("address", "192.0.2.7"))
        for _ in range(300):
            if install.counts().get(("ingest", "done")):
                break
            stop.wait(0.05)
        with install.database.begin("kat_system") as conn:
            assert [entry.role for entry in beat.running(conn)] == ["worker"]
    finally:
        stop.set()
        thread.join(30)
    assert install.counts()["ingest", "done"] == 1
    with install.database.begin("kat_system") as conn:
        assert beat.running(conn) == []
        queue.push(conn, [queue.NewTask("ingest")])
        queue.claim(conn, ["ingest"], worker.name, 1)
    worker.end()
    assert install.counts()["ingest", "queued"] == 1


KILLED = """
import json, os, signal, sys, importlib
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from kattegat.registry import Plugin, Registry
from kattegat.evidence import vault as vaults
from kattegat.settings import load
from kattegat.store.database import Database
from kattegat.worker.ingest import Ingest
from kattegat.worker.sandbox import Sandbox
database = Database(json.loads(sys.argv[1]), login=True)
registry = Registry([Plugin("katsample", importlib.import_module("katsample"))])
vault = vaults.open_vault(load({"KAT_DATA_DIR": sys.argv[3]}))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
Ingest(database, vault, registry, Sandbox(registry, 1, modules=["katsample"]), by="dying", evaluator=die).step()
"""


def test_a_killed_worker_leaves_nothing_half_done(install: Install, tmp_path: Path) -> None:
    import json

    install.declare(*(Hostname(f"h{number}.example.org") for number in range(5)))
    for job in install.claim():
        if job.scanner == "sample-names":
            install.hand_in(job, ("address", "192.0.2.7"))
    conninfo = json.dumps({"kat_system": install.database.conninfo("kat_system")})
    samples = str(Path(__file__).parents[1] / "samples")
    run = subprocess.run([sys.executable, "-c", KILLED, conninfo, samples, str(tmp_path)], timeout=120)
    assert run.returncode == -signal.SIGKILL
    assert install.rows("SELECT 1 FROM fact") == []
    assert install.counts()["ingest", "leased"] == 5
    with install.database.begin("kat_system") as conn:
        conn.execute(text("UPDATE task SET lease_until = now() - interval '1 second' WHERE kind = 'ingest'"))
        queue.reap(conn)
        conn.execute(text("UPDATE task SET run_after = now()"))
    assert install.ingest.step() == 5
    assert len(install.rows("SELECT 1 FROM fact WHERE ended_at IS NULL")) == 5
    assert install.counts()["ingest", "done"] == 5

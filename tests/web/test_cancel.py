"""A running scan that is cancelled: its connections and the programs it started are gone within five seconds."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import text

from kattegat.evidence import vault as vaults
from kattegat.registry import Plugin, Registry
from kattegat.scheduler import acts, dispatch, listing, runners
from kattegat.scheduler.plan import plan
from kattegat.settings import load
from kattegat.store.database import Database
from kattegat.web import process
from kattegat.web.app import create_app

SAMPLES = Path(__file__).parents[1] / "samples"
PROMISED_SECONDS = 5.0
RUNNER = """
import importlib, sys
sys.path.insert(0, sys.argv.pop(1))
from kattegat import registry
loaded = registry.Registry([registry.Plugin("kathang", importlib.import_module("kathang"))])
registry.load = lambda: loaded
from kattegat.runner.main import main
sys.exit(main(sys.argv[1:]))
"""
# A child in the group, one in a session of its own, and one whose parent has gone, all of them deaf to SIGTERM.
PROGRAM = """#!/bin/bash
if [ "$1" = --version ]; then echo 1.0; exit; fi
trap "" TERM
sleep 1000 & echo $! >> "{pids}"
setsid bash -c 'trap "" TERM; echo $$ >> "{pids}"; while :; do sleep 1; done' &
( setsid bash -c 'trap "" TERM; echo $$ >> "{pids}"; while :; do sleep 1; done' & )
echo $$ >> "{pids}"
while :; do sleep 1; done
"""


class Target:
    """A server on loopback that counts who is connected."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.open = 0
        self.ever = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with self._lock:
                self.open += 1
                self.ever += 1
            threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(100):
                    pass
            except OSError:
                pass
        with self._lock:
            self.open -= 1


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.listening.close()


def until(true: Callable[[], bool], seconds: float = 60.0) -> float:
    """Waits until something is so; gives how long it took."""
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > seconds:
            pytest.fail(f"it was not so after {seconds} seconds")
        time.sleep(0.02)
    return time.monotonic() - begun


def alive(numbers: list[int]) -> list[int]:
    found = []
    for number in numbers:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(number)
    return found


@pytest.mark.parametrize("name", ["www.example.org", "deaf.example.org"])
def test_a_cancelled_scan_stops_with_all_that_it_started(
    database: Database, tmp_path: Path, target: Target, name: str
) -> None:
    sys.path.insert(0, str(SAMPLES))
    registry = Registry([Plugin("kathang", importlib.import_module("kathang"))])
    pids = tmp_path / "pids"
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kat-test-hang").write_text(PROGRAM.replace("{pids}", str(pids)))
    (tools / "kat-test-hang").chmod(0o755)
    install = load({"KAT_DATA_DIR": str(tmp_path)})
    with database.begin("kat_system") as conn:
        organisation = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('acme', 'Acme') RETURNING id")
        ).scalar_one()
        asset = conn.execute(
            text(
                "INSERT INTO asset (organisation_id, type, key, present) VALUES (:o, 'Hostname', :k, true) RETURNING id"
            ),
            {"o": organisation, "k": name},
        ).scalar_one()
        conn.execute(
            text(
                "INSERT INTO own_network (organisation_id, zone, network, declared_by)"
                " VALUES (:o, 'internet', '127.0.0.0/8', 't')"
            ),
            {"o": organisation},
        )
        plan(conn, organisation, [asset], registry)
        (task,) = dispatch.dispatch(conn)
        (tmp_path / "token").write_text(runners.register(conn, "near"))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(database, vaults.open_vault(install), registry, install),
            log_config=None,
            access_log=False,
            lifespan="on",
        )
    )
    listening = process.listen_unix(tmp_path / "door")
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KAT_")} | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KAT_TEST_TARGET": str(target.port),
        "KAT_DATA_DIR": str(tmp_path),
        "KAT_DNS_SERVER": "127.0.0.1:9",
    }
    where = {"--door": f"unix:{tmp_path / 'door'}", "--token-file": tmp_path / "token", "--spool": tmp_path / "spool"}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(SAMPLES), *(str(part) for pair in where.items() for part in pair)],
        env=environment,
    )
    started: list[int] = []
    try:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 4)
        started = [int(number) for number in pids.read_text().split()]
        assert alive(started) == started
        assert target.open == 1
        with database.begin("kat_system") as conn:
            assert acts.cancel(conn, [task], "piet", "wrong target").tasks == [task]
        took = until(lambda: target.open == 0 and not alive(started))
        assert took < PROMISED_SECONDS
        # A scanner that goes on trying reaches nobody any more.
        time.sleep(1)
        assert target.ever == 1
        assert not alive([int(number) for number in pids.read_text().split()])
        with database.begin("kat_system") as conn:
            assert listing.counts(conn) == {("scan", "cancelled"): 1}
    finally:
        runner.kill()
        runner.wait()
        server.should_exit = True
        serving.join(20)
        listening.close()
        for number in alive(started):
            os.kill(number, 9)

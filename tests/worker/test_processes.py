"""The three processes as programs: they sign in, answer, and stop cleanly at SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from kattegat.scheduler import beat
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import Database

START = (
    "import sys; from pathlib import Path; from kattegat.settings import load; from kattegat.{0} import process; {1}"
)
STARTS = {
    "web": START.format("web", "process.run(load(), tcp=False, unix=Path(sys.argv[1]))"),
    "scheduler": START.format("scheduler", "process.run(load())"),
    "worker": START.format("worker", "process.run(load())"),
}


def test_processes_start_and_stop(server: embedded.Running, tmp_path: Path) -> None:
    database = Database.embedded(server)
    migrate.prepare(database)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    environment |= {"KAT_DATA_DIR": str(server.data_dir)}
    socket = tmp_path / "door.sock"
    started = {
        role: subprocess.Popen(
            [sys.executable, "-c", code, str(socket)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for role, code in STARTS.items()
    }
    pids = {process.pid for process in started.values()}
    try:
        for _ in range(600):
            with database.begin("kat_system") as conn:
                listed = {entry.role for entry in beat.running(conn) if entry.pid in pids}
            if listed == set(STARTS) and socket.exists():
                break
            assert all(process.poll() is None for process in started.values())
            time.sleep(0.1)
        assert listed == set(STARTS)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://door") as client:
            assert client.get("/health").json()["status"] == "ok"
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        errors = {role: process.communicate(timeout=60)[1] for role, process in started.items()}
    assert {role: process.returncode for role, process in started.items()} == dict.fromkeys(STARTS, 0), errors
    with database.begin("kat_system") as conn:
        assert not [entry for entry in beat.running(conn) if entry.pid in pids]
    assert not socket.exists()
    database.close()

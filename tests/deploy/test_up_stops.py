"""What a service manager relies on: `kat up` ends by itself at SIGTERM, and takes its PostgreSQL with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from kattegat.store import server


def test_kat_up_stops_its_database_too(run_dir: Path) -> None:
    data = run_dir / f"up-stops-{os.getpid()}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    environment = {**clean, "KAT_DATA_DIR": str(data), "KAT_PORT": str(port)}
    command = [sys.executable, "-m", "kattegat", "up"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = next((line for line in process.stderr if "Kattegat is up" in line), "")
        assert said
        assert server.status(data).state == server.State.RUNNING
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 0
        # A server that was killed would have to recover at its next start.
        assert server.status(data).state == server.State.STOPPED
    finally:
        process.kill()
        server.stop(data, "immediate")
        shutil.rmtree(data, ignore_errors=True)

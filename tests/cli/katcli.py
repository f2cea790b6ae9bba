"""A web server of our own on loopback that can change, hang and go away, and installs in folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kattegat.store import server

HOSTILE = "<script>alert(1)</script>\x1b[31m/1.0"


class Site:
    """`headers` is what every answer carries; `hold()` lets requests wait until `release()`."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {"Server": HOSTILE}
        self.asked = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._server: ThreadingHTTPServer | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def key(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.set()
                site._free.wait(60)
                body = b"<html><title>hello</title></html>"
                self.send_response_only(200)
                for name, value in {"Content-Type": "text/html", **site.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A scanner that goes away in the middle is what some tests are about."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def hold(self) -> None:
        self.asked.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()


class Install:
    """`kat` with a data directory of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        self.environment = {**clean, "KAT_DATA_DIR": str(data), "KAT_DNS_SERVER": "127.0.0.1:9", "COLUMNS": "140"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kattegat", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; `code` is the exit code that it must have."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        if code is not None:
            assert process.returncode == code, f"{arguments} ended with {process.returncode}: {err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        """The one document that a command prints with --json."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def scan(self, site: Site, *arguments: str, code: int | None = 1) -> Any:
        """The document of a scan of this site."""
        return self.json("scan", site.url, "--allow", "127.0.0.0/8", *arguments, code=code)

    def processes(self) -> list[str]:
        """The command lines of what still runs of this install, the database left out."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if environment else ""
            except OSError:
                continue
            if f"KAT_DATA_DIR={self.data}".encode() in environment and line:
                found.append(line)
        return found

    def remove(self) -> None:
        server.stop(self.data, "immediate")
        shutil.rmtree(self.data, ignore_errors=True)

"""`kat` as a user types it, inside the laboratory's scanner, with a data directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from kattegat.store import server
from lab import Lab

ALLOWED = ("--allow", "10.77.0.0/16", "--allow", "fd77::/64")


class Kat:
    """One install. `scan` gives the JSON document; `last` holds the last finished command."""

    def __init__(self, lab: Lab, data: Path) -> None:
        self.lab = lab
        self.data = data
        self.last: subprocess.CompletedProcess[str] | None = None
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        self.environment = {
            **clean,
            "KAT_DATA_DIR": str(data),
            "KAT_DNS_SERVER": lab.resolver,
            "KAT_TRUST_ANCHOR": str(lab.trust_anchor),
            "KAT_CA_FILE": str(lab.ca),
            "COLUMNS": "120",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kattegat", *arguments]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs `kat` to its end."""
        self.last = self.lab.run(self.command(*arguments), env=self.environment, **options)
        return self.last

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts `kat`; its output goes to a file in the data directory's parent."""
        with (self.data.parent / f"{self.data.name}.out").open("ab") as out:
            return self.lab.popen(self.command(*arguments), env=self.environment, stdout=out, stderr=out)

    def scan(self, *arguments: str, codes: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
        """`kat scan --json` with the laboratory's networks allowed."""
        done = self.run("scan", *arguments, *ALLOWED, "--json")
        assert done.returncode in codes, f"kat scan ended with {done.returncode}: {done.stderr}"
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection past row-level security, for looking at what was recorded."""
        running = server.ensure(self.data)
        with psycopg.connect(running.dsn("kat_system")) as connection:
            yield connection

    def remove(self) -> None:
        """Stops the database and takes the data directory away."""
        server.stop(self.data, "immediate")
        shutil.rmtree(self.data, ignore_errors=True)

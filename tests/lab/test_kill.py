"""kill -9 of runner, worker, scheduler, web and PostgreSQL at random moments of a scan: nothing is lost or doubled.

A few hosts and kills in the usual run; 200 hosts and 20 kills at night. The seed is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kat import ALLOWED, Kat

from kattegat.store import server
from lab import Lab

pytestmark = [pytest.mark.lab]

VICTIMS = ("runner", "worker", "scheduler", "web", "postgres")

# Of what is present: an address is visited as a website until its name is known to lead there, so in some orders its
# sites come and go, and what is gone keeps what was last said of it.
FACTS = """
    SELECT a.type, a.key, f.kind, f.item, s.scanner, b.type, b.key, count(*)
    FROM fact f JOIN asset a ON a.organisation_id = f.organisation_id AND a.id = f.asset_id
    JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
    JOIN asset b ON b.organisation_id = s.organisation_id AND b.id = s.asset_id
    JOIN organisation o ON o.id = f.organisation_id
    WHERE o.code = %s AND f.ended_at IS NULL AND a.present AND b.present GROUP BY 1, 2, 3, 4, 5, 6, 7
"""
OPEN_TASKS = "SELECT count(*) FROM task WHERE state IN ('queued', 'leased')"
DEAD_TASKS = "SELECT id, kind, scanner, reason FROM task WHERE state = 'dead'"
NEVER = """
    SELECT a.key, s.scanner FROM source s JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id AND a.present
    WHERE s.state = 'never' AND h.hold = ''
"""
# Spans of one (source, asset, kind, item) that overlap: a fact recorded twice.
DOUBLED = """
    SELECT f.kind, f.item FROM fact f JOIN fact g ON g.organisation_id = f.organisation_id
      AND g.source_id = f.source_id AND g.asset_id = f.asset_id AND g.kind = f.kind AND g.item = f.item AND g.id > f.id
      AND tstzrange(f.recorded_at, f.ended_at) && tstzrange(g.recorded_at, g.ended_at)
"""


def pids(data: Path, role: str) -> list[int]:
    """The processes of this install in a role, by their command line and data directory."""
    if role == "postgres":
        pid = server.status(data).pid
        return [pid] if pid else []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().split(b"\0")
                inside = f"KAT_DATA_DIR={data}".encode() in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if inside and b"process" in line and role.encode() in line:
                found.append(int(entry.name))
    return found


def strike(data: Path, role: str) -> bool:
    """kill -9; False when there was nobody to kill just now."""
    struck = False
    for pid in pids(data, role):
        try:
            os.kill(pid, signal.SIGKILL)
            struck = True
        except ProcessLookupError:
            continue
    return struck


def current(connection: psycopg.Connection[Any], code: str) -> dict[tuple[Any, ...], int]:
    return {tuple(row[:7]): row[7] for row in connection.execute(FACTS, (code,)).fetchall()}


def storm(lab: Lab, folder: Path, hosts: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    names = sorted(lab.many(hosts))[:hosts]
    listed = folder / f"hosts-{hosts}.txt"
    listed.write_text("\n".join(names))
    kat = Kat(lab, folder / f"kill-{hosts}")
    up = kat.start("up", "--port", "8481")
    try:
        wait_until(lambda: len(alive(kat)) == len(VICTIMS), 60)
        kat.scan(str(listed), "--organisation", "calm")
        scan = kat.start("scan", str(listed), "--organisation", "storm", *ALLOWED)
        struck: list[str] = []
        while len(struck) < kills:
            time.sleep(chance.uniform(0.2, 3.0))
            role = chance.choice(VICTIMS)
            if strike(kat.data, role):
                struck.append(role)
            assert scan.poll() is None or len(struck) >= kills // 2, (
                f"the scan ended after {len(struck)} of {kills} kills (seed {seed}): {last_words(kat)}"
            )
            if scan.poll() is not None:
                break
        assert scan.wait(900) in (0, 1), last_words(kat)
        print(f"seed {seed}: killed {struck}")
        with kat.database() as connection:
            assert connection.execute(OPEN_TASKS).fetchone() == (0,)
            assert connection.execute(DEAD_TASKS).fetchall() == []
            assert connection.execute(NEVER).fetchall() == []
            assert connection.execute(DOUBLED).fetchall() == []
            calm, stormy = current(connection, "calm"), current(connection, "storm")
        assert set(stormy) == set(calm)
        assert set(stormy.values()) == {1}
        verified = kat.run("evidence", "verify", "--organisation", "storm", "--json")
        assert verified.returncode == 0, verified.stdout[-2000:]
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()
        kat.remove()


def last_words(kat: Kat) -> str:
    """The end of what the commands and each process said."""
    files = [kat.data.parent / f"{kat.data.name}.out", *sorted((kat.data / "log").glob("*.log"))]
    return "\n".join(f"== {file.name}\n{file.read_text()[-1500:]}" for file in files if "postgres" not in file.name)


def alive(kat: Kat) -> list[str]:
    return [role for role in VICTIMS if pids(kat.data, role)]


def wait_until(true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.2)


def test_a_scan_survives_kills(lab: Lab, run_dir: Path) -> None:
    storm(lab, run_dir, hosts=12, kills=5, seed=20261122)


@pytest.mark.nightly
def test_a_scan_of_200_hosts_survives_20_kills(lab: Lab, run_dir: Path) -> None:
    storm(lab, run_dir, hosts=200, kills=20, seed=random.SystemRandom().randrange(1_000_000))

"""A change that is killed, or loses a server in its middle, ends at one of its two ends; nobody gets in meanwhile."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat import change, facts, place
from kattegat.lifecycle.openkat.change import Install
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import Shapes
from kattegat.schema.journal import Progress
from kattegat.store import server as embedded


class Killed(BaseException):
    """What ends a process in a test without ending the test's own."""


@pytest.fixture(scope="session")
def shapes(server: embedded.Running) -> Shapes:
    return Shapes(server.dsn("kat_admin", "postgres"))


def install(dsns: dict[Part, Dsn], shapes: Shapes) -> Install:
    return Install({part: place.find(part, dsn) for part, dsn in dsns.items()}, dict.fromkeys(dsns, shapes))


def count(part_dsns: dict[Part, Dsn], contents: Any, release: str, admin: Dsn) -> dict[str, Any]:
    found = {}
    for part, dsn in part_dsns.items():
        with psycopg.connect(dsn.login(admin).conninfo()) as connection:
            found[part] = contents(connection, facts.shape(part, facts.revision_of(part, release)))
    return found


def test_killed_at_any_step_it_goes_on_or_goes_back(make_part, admin, contents, shapes) -> None:
    dsns: dict[Part, Dsn] = {"scheduler": make_part("scheduler", "0010", rows=6),
                             "katalogus": make_part("katalogus", "fdeaea4481b8", rows=5)}  # fmt: skip
    before = count(dsns, contents, "1.20.1", admin)
    steps = 0

    def counting(_part: Part, progress: Progress) -> None:
        nonlocal steps
        steps += progress.moment == "done"

    # Twice: what the first time makes, the later ones bring back, in another number of steps.
    for _ in range(2):
        steps = 0
        change.go(install(dsns, shapes), "1.16.0", report=counting)
        after = count(dsns, contents, "1.16.0", admin)
        change.cancel(install(dsns, shapes))
        assert count(dsns, contents, "1.20.1", admin) == before
        assert steps > 50
    seed = random.randrange(2**32)
    print("seed", seed)
    for number in sorted(random.Random(seed).sample(range(1, steps), 6)):
        left = number

        def killing(_part: Part, progress: Progress) -> None:
            nonlocal left
            left -= progress.moment == "done"
            if left == 0:
                raise Killed

        with pytest.raises(Killed):
            change.go(install(dsns, shapes), "1.16.0", report=killing)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(dsns["scheduler"].conninfo())
        with pytest.raises(KattegatError, match="has not ended"):
            change.open_all(install(dsns, shapes))
        if number % 2:
            change.go(install(dsns, shapes), "1.16.0")
            assert count(dsns, contents, "1.16.0", admin).keys() == after.keys()
        change.cancel(install(dsns, shapes))
        assert count(dsns, contents, "1.20.1", admin) == before
    assert set(change.open_all(install(dsns, shapes))) == set(dsns)


def test_one_server_stops_in_the_middle(make_part, admin, shapes, run_dir: Path, pg_bin: Path | None) -> None:
    """The other part is changed already; both stay closed until the server is back and the same command is typed."""
    folder = run_dir / "second"
    second = embedded.ensure(folder, durable=False, binaries=pg_bin)
    here = make_part("scheduler", "0010", rows=3)
    try:
        there = admin.with_(host=str(second.socket_dir), user="kat_admin", password=second.password("kat_admin"))
        with psycopg.connect(there.conninfo(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE bytes")
        there = there.with_(dbname="bytes")
        from kattegat.schema import ddl

        with psycopg.connect(there.conninfo()) as connection:
            for statement in ddl.build(facts.shape("bytes", "1dde0213e9fe")):
                connection.execute(statement.encode())
            connection.execute("INSERT INTO alembic_version VALUES ('1dde0213e9fe')")
        dsns: dict[Part, Dsn] = {"scheduler": here, "bytes": there}
        found = install(dsns, shapes)

        def stopping(part: Part, progress: Progress) -> None:
            if part == "bytes" and progress.moment == "done":
                embedded.stop(folder, "immediate")

        with pytest.raises(KattegatError):
            change.go(found, "1.12.0", report=stopping)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            psycopg.connect(here.conninfo())
        embedded.ensure(folder, durable=False, binaries=pg_bin)
        change.go(install(dsns, shapes), "1.12.0")
        assert set(change.open_all(install(dsns, shapes))) == {"scheduler", "bytes"}
        with psycopg.connect(there.conninfo()) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("d216ad75177d",)
    finally:
        embedded.stop(folder, "immediate")


def test_a_process_that_is_killed_leaves_a_change_that_can_be_gone_on_with(make_part, contents, admin, shapes) -> None:
    dsn = make_part("bytes", "1dde0213e9fe", rows=6)
    dsns: dict[Part, Dsn] = {"bytes": dsn}
    before = count(dsns, contents, "1.20.1", admin)
    command = [sys.executable, "-m", "kattegat", "openkat", "downgrade", "--bytes", dsn.conninfo(), "--to", "1.5.0"]
    process = subprocess.Popen(
        [*command, "--yes", "--no-backup"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "(done" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    process.wait()
    done = subprocess.run([*command, "--yes", "--no-backup"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OpenKAT 1.5.0–1.6.2" in done.stdout
    change.go(install(dsns, shapes), "1.20.1")
    assert count(dsns, contents, "1.20.1", admin) == before

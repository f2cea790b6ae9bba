"""Killed anywhere: the tool by SIGKILL at every step and at random instants, the server under it: two legal states."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from kattegat import settings
from kattegat.lifecycle import run
from kattegat.lifecycle.run import Wish
from kattegat.schema import fence, runs, snapshot
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store import release as this_code
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

sys.path.insert(0, str(Path(__file__).parent))
import changekit
from changekit import LAST, Told

SCRIPT = Path(__file__).parent / "killed_change.py"
WAYS = ("resume", "cancel")
# Said before and after the steps: closing the fence, comparing.
SAID = (1, 2)
ENDS = {"done": migrate.head(), "cancelled": LAST}


def started(chosen: Settings, database: Database, act: str, moment: str, number: int) -> subprocess.Popen[str]:
    given = {
        "conninfo": {role: database.conninfo(role) for role in ROLES},
        "data_dir": str(chosen.data_dir),
        "act": act,
        "moment": moment,
        "number": number,
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def shape(database: Database) -> str:
    with database.begin("kat_owner") as connection:
        return snapshot.read(connection).fingerprint()


def rows(database: Database) -> list[tuple[object, ...]]:
    """Values that every state has."""
    with psycopg.connect(database.conninfo("kat_owner")) as connection:
        return connection.execute("SELECT organisation_id, key FROM public.asset ORDER BY 1, 2").fetchall()


def is_legal(database: Database, legal: dict[str, str], values: list[tuple[object, ...]]) -> str:
    """Which of the two states it is in; open to its release, and to no other."""
    with database.begin("kat_owner") as connection:
        at = migrate.current(connection)
        recorded = this_code.recorded(connection)
        assert fence.epoch(connection) % 2 == 0
        assert runs.open_run(connection) is None
    assert recorded is not None
    assert recorded.revision == at
    assert shape(database) == legal[str(at)]
    assert rows(database) == values
    return str(at)


def ended(database: Database, way: str, legal: dict[str, str], values: list[tuple[object, ...]]) -> None:
    """Resumed or cancelled by a fresh process, unless the kill came too early or too late for there to be anything."""
    with database.begin("kat_owner") as connection:
        closed = fence.epoch(connection) % 2 == 1
        open_run = runs.open_run(connection)
    if closed:
        other = Database({role: database.conninfo(role) for role in ROLES}, login=True)
        with pytest.raises(this_code.WrongReleaseError), other.begin("kat_system") as connection:
            connection.execute(text("UPDATE public.organisation SET name = 'stranger'"))
        other.close()
    if closed or open_run is not None:
        outcome = (run.resume if way == "resume" else run.cancel)(database, Told())
        at = is_legal(database, legal, values)
        assert outcome is None or at == ENDS[outcome.state]
    else:
        is_legal(database, legal, values)


class Field:
    """Copies of a database that a newer release has used, and the two states that are legal for them."""

    def __init__(self, make: Callable[[], Database], chosen: Settings) -> None:
        self.make, self.chosen = make, chosen
        database = make()
        self.values = rows(database)
        newer = shape(database)
        told = Told()
        begun = time.monotonic()
        run.change(chosen, database, Wish(kind="downgrade", yes=True, backup=False), told)
        self.seconds = time.monotonic() - begun
        assert told.found is not None
        self.steps = len(told.found.plan.steps)
        self.legal = {LAST: newer, migrate.head(): shape(database)}
        assert rows(database) == self.values

    def kill(self, way: str, moment: str, number: int) -> None:
        database = self.make()
        process = started(self.chosen, database, "change", moment, number)
        _, error = process.communicate()
        assert process.returncode == -signal.SIGKILL, error
        ended(database, way, self.legal, self.values)
        database.close()


@pytest.fixture
def field(make_newer: Callable[[], Database], chosen: Settings) -> Field:
    return Field(make_newer, chosen)


@pytest.mark.parametrize("way", WAYS)
def test_the_tool_is_killed_at_some_steps(field: Field, way: str) -> None:
    moments = [("said", SAID[0]), ("starts", 1), ("starts", field.steps // 2), ("done", field.steps), ("said", SAID[1])]
    for moment, number in moments:
        field.kill(way, moment, number)


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
def test_the_tool_is_killed_at_every_step(field: Field, way: str) -> None:
    for number in range(1, field.steps + 1):
        for moment in ("starts", "done"):
            field.kill(way, moment, number)


def test_the_tool_is_killed_while_it_cancels_and_while_it_resumes(field: Field) -> None:
    for act, moment, number in (("cancel", "undone", field.steps - 1), ("resume", "done", field.steps)):
        database = field.make()
        first = started(field.chosen, database, "change", "starts", field.steps)
        first.communicate()
        second = started(field.chosen, database, act, moment, number)
        _, error = second.communicate()
        assert second.returncode == -signal.SIGKILL, error
        # What was being cancelled is cancelled on, also by --resume.
        outcome = run.resume(database, Told())
        assert outcome is not None
        assert outcome.state == ("cancelled" if act == "cancel" else "done")
        is_legal(database, field.legal, field.values)


def random_kills(field: Field, times: int, seed: int) -> None:
    dice = random.Random(seed)
    for number in range(times):
        database = field.make()
        process = started(field.chosen, database, "change", "never", 0)
        # Most of the time is the start of the process; the change itself is at the end of it.
        time.sleep(dice.uniform(0.3, 1.5 + 1.2 * field.seconds))
        process.kill()
        process.communicate()
        ended(database, WAYS[number % 2], field.legal, field.values)
        database.close()


def test_the_tool_is_killed_at_some_instants(field: Field) -> None:
    random_kills(field, 3, 1)


@pytest.mark.nightly
def test_the_tool_is_killed_at_two_hundred_instants(field: Field) -> None:
    random_kills(field, 200, 2)


class Fragile:
    """A server of its own that is stopped under the tool."""

    def __init__(self, folder: Path, binaries: Path | None) -> None:
        self.folder, self.binaries = folder, binaries
        running = embedded.ensure(folder, binaries=binaries)
        self.chosen = settings.load({"KAT_DATA_DIR": str(folder)})
        self.database = Database.embedded(running)
        migrate.prepare(self.database, plan_key=migrate.key_path(self.chosen))
        changekit.fill(self.database)
        self.up = Wish(kind="upgrade", to=LAST, yes=True, backup=False)
        run.change(self.chosen, self.database, self.up, Told(), config=changekit.newer())
        self.values = rows(self.database)
        self.legal = {LAST: shape(self.database)}
        began = time.monotonic()
        run.change(self.chosen, self.database, Wish(kind="downgrade", yes=True, backup=False), Told())
        self.seconds = time.monotonic() - began
        self.legal[migrate.head()] = shape(self.database)

    def crash(self, delay: float, way: str) -> None:
        """One crash: from the newer state, on the way back."""
        with self.database.begin("kat_owner") as connection:
            at = migrate.current(connection)
        if at != LAST:
            run.change(self.chosen, self.database, self.up, Told(), config=changekit.newer())
        process = started(self.chosen, self.database, "change", "never", 0)
        time.sleep(delay)
        embedded.stop(self.folder, "immediate")
        process.communicate()
        assert process.returncode != -signal.SIGKILL
        embedded.ensure(self.folder, binaries=self.binaries)
        self.database.close()
        ended(self.database, way, self.legal, self.values)


@pytest.fixture
def fragile(run_dir: Path, pg_bin: Path | None) -> Iterator[Fragile]:
    folder = run_dir / "fragile"
    try:
        made = Fragile(folder, pg_bin)
        yield made
        made.database.close()
    finally:
        embedded.stop(folder, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def crashes(fragile: Fragile, times: int, seed: int) -> None:
    dice = random.Random(seed)
    for number in range(times):
        fragile.crash(dice.uniform(0.5, 1.5 + 1.2 * fragile.seconds), WAYS[number % 2])


def test_the_server_is_stopped_under_the_tool_at_some_instants(fragile: Fragile) -> None:
    crashes(fragile, 2, 3)


@pytest.mark.nightly
def test_the_server_is_stopped_under_the_tool_at_fifty_instants(fragile: Fragile) -> None:
    crashes(fragile, 50, 4)

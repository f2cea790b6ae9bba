"""The older release installed on a database that the newer one has used, as a person types it.

It has none of the newer release's files: what it knows of them is stored in the database. The code of both is what the
releases really had.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from kattegat.store import server as embedded

sys.path.insert(0, str(Path(__file__).parent))
import earlier
import pairkit
from earlier import Place, Release, Said
from pairkit import State

NAMES = earlier.names()
# The newest release and the one before in every run; all others, and the longest way, in the nightly one.
PAIRS = [
    pytest.param(pair, marks=[] if pair == (NAMES[-2], NAMES[-1]) else pytest.mark.nightly, id="-".join(pair))
    for pair in sorted({*itertools.pairwise(NAMES), (NAMES[0], NAMES[-1])})
]

# What a command needs to get past its own parser. The sentence must come before anything it asks for is looked up.
ARGUMENTS = {
    "asset": ["host.example.org"],
    "run": ["host.example.org"],
    "scan": ["127.0.0.1"],
    "pause": ["--reason", "a test"],
    "task show": ["1"],
    "task cancel": ["1", "--reason", "a test"],
    "task retry": ["1", "--reason", "a test"],
    "task move": ["1", "--to", "first", "--reason", "a test"],
    "runner drain": ["local", "--reason", "a test"],
    "runner undrain": ["local"],
    "schedule set": ["scan.every", "1d"],
    "schedule unset": ["scan.every"],
    "block add": ["192.0.2.0/24", "--reason", "a test"],
    "block remove": ["192.0.2.0/24", "--reason", "a test"],
    "plugins set": ["mail-policy.selectors", "a"],
    "plugins unset": ["mail-policy.selectors"],
    "evidence show": ["1"],
}
# These answer on a database of whatever release, or need none; what they say of it is tested below.
ANSWERS = {
    "status",
    "doctor",
    "history",
    "upgrade",
    "downgrade",
    "parked list",
    "parked show",
    "parked export",
    "parked purge",
    "backup create",
    "backup list",
    "backup verify",
    "backup restore",
    "backup discard",
    "keys recovery set",
    "keys recovery check",
    "keys recovery show",
    "plugins list",
    "plugins show",
    "plugin new",
    "plugin try",
    "process runner",
    "process health",
}
ANOTHER_PRODUCT = "openkat "


class Story:
    """One install, and the two releases that take turns on it."""

    def __init__(self, older: Release, newer: Release, data: Path) -> None:
        self.older, self.newer = older, newer
        self.place = Place(data)
        running = embedded.ensure(data, durable=False)
        self.dsn = running.dsn("kat_admin")
        newer.make(self.place)
        pairkit.filled(self.dsn)
        # A backup needs the packs that rows name, and those of the filler do not exist.
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SELECT set_config('kat.epoch', last_value::text, false) FROM lifecycle.epoch")
            connection.execute("UPDATE evidence SET pack = NULL, pack_offset = NULL, pack_length = NULL")

    def is_for(self) -> str:
        """The release that the database is for, as the newer release says."""
        said: str = json.loads(self.newer.kat(self.place, "status", "--json").out)["revision"]
        return said

    def at_newer(self) -> State:
        """Back where the story begins, whatever the test before has done."""
        if self.is_for() != self.newer.revision:
            self.newer.kat(self.place, "upgrade", "--yes", "--no-backup")
        return pairkit.state(self.dsn)

    def sentence(self, said: Said) -> str:
        """The one sentence on stderr: which release is needed, and what to type."""
        assert said.code == 4, said
        assert said.err.count("\n") == 1, said
        assert said.err.startswith("kat: "), said
        # A command that opens the install, and a process that is given one, say it in words of their own.
        assert any(f"{verb} {self.newer.name}" in said.err for verb in ("install release", "start Kattegat")), said
        assert "kat downgrade" in said.err, said
        assert self.older.name in said.err, said
        return said.err


@pytest.fixture(scope="module")
def releases(run_dir: Path) -> dict[str, Release]:
    """Every release by its name."""
    return {release.name: release for release in earlier.every(run_dir / "releases")}


@pytest.fixture(scope="module", params=PAIRS)
def story(request: pytest.FixtureRequest, releases: dict[str, Release], run_dir: Path) -> Iterator[Story]:
    """A database that the newer release has made and filled, in an install with a server of its own."""
    older, newer = request.param
    data = run_dir / f"older-{older}-{newer}-{os.getpid()}"
    try:
        yield Story(releases[older], releases[newer], data)
    finally:
        embedded.stop(data, "immediate")
        shutil.rmtree(data, ignore_errors=True)


def test_every_command_says_which_release_is_needed_and_what_to_type(story: Story) -> None:
    before = story.at_newer()
    needed = story.older.commands(story.place)
    commands = [name for name in needed if name not in ANSWERS and not name.startswith(ANOTHER_PRODUCT)]
    assert {"scan", "up", "assets", "findings", "tasks", "evidence verify", "process worker"} <= set(commands)
    unknown = [name for name in commands if needed[name] and name not in ARGUMENTS]
    assert not unknown, f"{unknown} need {[needed[name] for name in unknown]}: say here what to type"
    typed = [[*name.split(), *ARGUMENTS.get(name, [])] for name in commands]
    said = story.older.kats(story.place, *typed)
    assert not [one for one in said if one.code != 4]
    assert len({story.sentence(one) for one in said}) <= 2
    assert not pairkit.state(story.dsn).differs(before)


def test_what_answers_all_the_same_says_so_too(story: Story) -> None:
    story.at_newer()
    status, plain, doctor, history, parked, upgrade, listed, dry = story.older.kats(
        story.place,
        ["status", "--json"],
        ["status"],
        ["doctor"],
        ["history", "--json"],
        ["parked", "list", "--json"],
        ["upgrade", "--yes"],
        ["backup", "list"],
        ["downgrade", "--dry-run", "--json"],
    )
    said = json.loads(status.out)
    assert said["needed"]["release"] == story.newer.name
    assert said["needed"]["revision"] == story.newer.revision == said["revision"]
    assert "`kat downgrade`" in said["problem"]
    assert f"release {story.newer.name}" in said["problem"]
    assert plain.code == 0, plain
    assert story.newer.name in plain.out
    assert "`kat downgrade`" in plain.out
    assert doctor.code == 3, doctor
    assert "`kat" in " ".join(doctor.out.split()), doctor
    assert history.code == parked.code == listed.code == 0, (history, parked, listed)
    assert upgrade.code in (2, 4), upgrade
    assert upgrade.err.count("\n") == 1, upgrade
    assert "kat downgrade" in upgrade.err, upgrade
    assert dry.code == 0, dry
    shown = json.loads(dry.out)
    assert shown["to"]["release"] == story.older.name
    assert any("UPDATE public.alembic_version" in text for text in shown["sql"])


def test_it_takes_the_database_back_with_the_plan_that_is_stored_there(story: Story) -> None:
    before = story.at_newer()
    done = json.loads(story.older.kat(story.place, "downgrade", "--yes", "--json").out)
    assert done["outcome"]["state"] == "done"
    assert done["outcome"]["release"] == story.older.name
    assert done["outcome"]["backup"]
    status = json.loads(story.older.kat(story.place, "status", "--json").out)
    assert status["problem"] is None
    assert status["revision"] == story.older.revision
    assert status["backup"]["proven_at"]
    story.older.kat(story.place, "assets", "--organisation", "another")
    assert "`kat upgrade`" in story.newer.kat(story.place, "assets", code=4).err
    assert not story.at_newer().differs(before)


def test_plain_alembic_of_the_older_release_does_it_too(story: Story) -> None:
    before = story.at_newer()
    done = story.older.alembic(story.place, "downgrade", story.older.revision)
    assert done.code == 0, done
    assert f"{story.older.revision} (head)" in story.older.alembic(story.place, "current").out
    story.older.kat(story.place, "assets", "--organisation", "another")
    assert "`kat upgrade`" in story.newer.kat(story.place, "assets", code=4).err
    shape = pairkit.shape_of(story.dsn)
    up = story.newer.alembic(story.place, "upgrade", "head")
    assert up.code == 0, up
    assert not pairkit.state(story.dsn).differs(before)
    assert story.older.alembic(story.place, "downgrade", story.older.revision).code == 0
    assert pairkit.shape_of(story.dsn) == shape


def test_plain_alembic_of_the_older_release_answers_what_is_asked(story: Story) -> None:
    before = story.at_newer()
    current, history, show, older = (
        story.older.alembic(story.place, *words.split())
        for words in ("current", "history -v", f"show {story.newer.revision}", f"show {story.older.revision}")
    )
    for said in (current, history, show, older):
        assert said.code == 0, said
    assert f"{story.newer.revision} (head)" in current.out
    assert f"Rev: {story.newer.revision} (head)" in history.out
    assert f"Rev: {story.older.revision}" in history.out
    assert f"stored by Kattegat {story.newer.name}" in show.out
    assert "The way back to" in show.out
    assert not pairkit.state(story.dsn).differs(before)


@pytest.mark.parametrize("words", ["upgrade head", "stamp head", "stamp --purge {older}", "check", "downgrade nowhere"])
def test_plain_alembic_of_the_older_release_stops_before_harm(story: Story, words: str) -> None:
    before = story.at_newer()
    said = story.older.alembic(story.place, *words.format(older=story.older.revision).split())
    assert said.code != 0, said
    line = said.out.strip() or said.err.strip()
    assert line.startswith("FAILED: "), said
    assert line.count("\n") == 0, said
    if "nowhere" in words:
        assert "There is no revision nowhere; there are: " in line
    else:
        assert f"install release {story.newer.name}" in line
        assert "`kat downgrade`" in line
    assert not pairkit.state(story.dsn).differs(before)

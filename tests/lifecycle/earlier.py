"""Earlier releases as they were: their code out of the repository's history, run beside the code under test.

A release is the newest commit whose subject begins with `Release X.Y.Z:`; which there are is said by
`kattegat/lifecycle/releases.toml`. The newest of them is the checkout itself. Each gets a folder whose `src` comes
first on PYTHONPATH, with a dist-info beside the package, so that `importlib.metadata` tells that release's version.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from kattegat.lifecycle import releases
from kattegat.store import migrate

ROOT = Path(__file__).parents[2]
WORK = Path(__file__).with_name("earlier_work.py")
UNLOCATED = "Can't locate revision identified by"
SECONDS = 600


@dataclass(frozen=True)
class Place:
    """An install: what an operator would set in the environment."""

    data: Path
    url: str = ""

    def environment(self) -> dict[str, str]:
        """The environment of a process of this install, nothing of the test run's own settings in it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        given = {"KAT_DATABASE_URL": self.url} if self.url else {}
        return {**clean, **given, "KAT_DATA_DIR": str(self.data), "KAT_DNS_SERVER": "127.0.0.1:9", "COLUMNS": "140"}


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"{' '.join(self.words)} ended with {self.code}:\n{self.out[-4000:]}\n{self.err[-6000:]}"


@dataclass(frozen=True)
class Release:
    """A release whose code can be run. `commit` is None for the checkout."""

    name: str
    revision: str
    commit: str | None
    tree: Path = field(compare=False)

    def __str__(self) -> str:
        return self.name

    def environment(self, place: Place) -> dict[str, str]:
        """As `place`'s, with this release's code first."""
        return {**place.environment(), "PYTHONPATH": str(self.tree / "src")}

    def python(
        self, place: Place, *words: str, cwd: Path | None = None, further: Mapping[str, str] | None = None
    ) -> Said:
        """Runs Python with this release's code; fails on what no command of a release may ever print."""
        done = subprocess.run(
            [sys.executable, *words],
            env={**self.environment(place), **(further or {})},
            cwd=cwd or self.tree,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        said = Said(tuple(words), done.returncode, done.stdout, done.stderr)
        assert UNLOCATED not in done.stdout + done.stderr, f"Kattegat {self}: {said}"
        assert "Traceback" not in done.stderr, f"Kattegat {self}: {said}"
        return said

    def kat(self, place: Place, *words: str, code: int | None = 0) -> Said:
        """Runs a `kat` command; `code` is the exit code it must have."""
        said = self.python(place, "-m", "kattegat", *words)
        assert code is None or said.code == code, f"Kattegat {self}: {said}"
        return said

    def kats(self, place: Place, *commands: Sequence[str]) -> list[Said]:
        """Runs many `kat` commands, each in a process of its own that is forked from one with everything imported."""
        found = self._work(place, "kats", [list(each) for each in commands])
        said = [Said(tuple(one["words"]), one["code"], one["out"], one["err"]) for one in found]
        for one in said:
            assert UNLOCATED not in one.out + one.err, f"Kattegat {self}: {one}"
            assert "Traceback" not in one.err, f"Kattegat {self}: {one}"
        return said

    def commands(self, place: Place) -> dict[str, list[str]]:
        """Every command of this release's `kat`, with the parameters that it can't do without."""
        found: dict[str, list[str]] = self._work(place, "commands", None)
        return found

    def alembic(self, place: Place, *words: str) -> Said:
        """Runs plain Alembic with this release's configuration."""
        return self.python(place, "-m", "alembic", "-c", str(self.tree / "src/kattegat/store/alembic.ini"), *words)

    def make(self, place: Place) -> None:
        """Makes the schema in an empty database, as the release's first start does."""
        self.kat(place, "process", "prepare")

    def work(self, place: Place, mark: str) -> dict[str, Any]:
        """Lets the release's own functions write: an organisation `mark`, assets, facts, a task from push to end."""
        found: dict[str, Any] = self._work(place, "work", mark)
        return found

    def version(self, place: Place) -> tuple[str, str]:
        """What the code itself says: its version, and the newest revision it has a file of."""
        name, revision = self._work(place, "version", None)
        return name, revision

    def _work(self, place: Place, act: str, given: object) -> Any:
        said = self.python(place, str(WORK), act, json.dumps(given))
        assert said.code == 0, f"Kattegat {self}: {said}"
        return json.loads(said.out)


def every(folder: Path) -> list[Release]:
    """Every release, oldest first, each built in `folder` unless it is there.

    Skips the test where a shallow clone has no history, and fails where history lacks a release.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return [build(name, folder) for name in names()]


def names() -> list[str]:
    """The names of all releases, oldest first; the last is the checkout's."""
    listed = [entry.name for entry in releases.everything()]
    own = _version()
    return listed if own in listed else [*listed, own]


def build(name: str, folder: Path) -> Release:
    """The code of a release; one caller at a time."""
    revisions = {entry.name: entry.revision for entry in releases.everything()}
    newest = name == names()[-1]
    tree = folder / name
    commit = None if newest else _commit(name)
    if not tree.exists():
        half = tree.with_name(f"{name}.half")
        (half / "src").mkdir(parents=True)
        if commit is None:
            (half / "src" / "kattegat").symlink_to(ROOT / "src" / "kattegat")
        else:
            packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=BytesIO(packed)) as archive:
                archive.extractall(half, filter="data")
        _dist_info(half / "src", name)
        half.rename(tree)
    return Release(name, migrate.head() if newest else revisions[name], commit, tree)


def _version() -> str:
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _dist_info(folder: Path, name: str) -> None:
    place = folder / f"kattegat-{name}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kattegat\nVersion: {name}\n")
    (place / "entry_points.txt").write_text("[console_scripts]\nkat = kattegat.cli.main:run\n")


def _commit(name: str) -> str:
    found = _commits().get(name)
    if found is None:
        missing = f"the history at hand has no commit `Release {name}: ...`"
        if _shallow():
            pytest.skip(f"a shallow clone: {missing}")
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@functools.cache
def _commits() -> Mapping[str, str]:
    """The newest commit of each release."""
    said = _git("log", "--format=%H %s", "HEAD")
    found: dict[str, str] = {}
    for line in said.splitlines():
        commit, _, subject = line.partition(" ")
        release = re.match(r"Release (\d+\.\d+\.\d+):", subject)
        if release:
            found.setdefault(release[1], commit)
    return found


def _shallow() -> bool:
    # Neither is a checkout without any history (an unpacked archive) a repository that lost its releases.
    return _git("rev-parse", "--is-shallow-repository").strip() != "false"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""

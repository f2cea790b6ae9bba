"""From any release to any other and back, with the code that each release really had.

A database is made by one release, filled (every table, every column, boundary rows), taken to another release by the
code of the one that goes, looked at and worked on there, and taken back. Every value is then equal, or written by the
other release, or on record in schema `parked`. `make test` has the neighbours, there and back and there again; the
nightly run has every pair, three times, and the target's own tests on a database that came from elsewhere.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from kattegat.schema.shape import Snapshot, differences
from kattegat.store import server as embedded

sys.path.insert(0, str(Path(__file__).parent))
import earlier
import pairkit
from earlier import Place, Release, Said
from pairkit import Names, Records, State, Story

NAMES = earlier.names()
PAIRS = list(itertools.permutations(NAMES, 2))
NEIGHBOURS = [pair for pair in PAIRS if abs(NAMES.index(pair[0]) - NAMES.index(pair[1])) == 1]
CYCLES = 3
# Of the releases' own tests those that take an empty database of a fresh install, and are quick.
OWN_TESTS = ("tests/inventory", "tests/store/test_schema.py", "tests/store/test_tenancy.py")
CODE = "another"  # an organisation that the filler makes
_numbers = itertools.count(1)


class Databases:
    """Databases on the test server, made by a release of choice, copied from one that it made first."""

    def __init__(self, server: embedded.Running, folder: Path, releases: dict[str, Release]) -> None:
        self._server, self._folder, self._releases = server, folder, releases
        folder.mkdir(exist_ok=True)

    def dsn(self, name: str) -> str:
        """As a superuser."""
        return self._server.dsn("kat_admin", name)

    def copy(self, made_by: str, name: str, data: Path, *, rows: bool = True) -> Place:
        """A database of that name, and the data directory that belongs to it."""
        like = self.template(made_by, rows=rows)
        self._create(name, like)
        shutil.copytree(self._folder / like, data)
        return self._place(data, name)

    def template(self, made_by: str, *, rows: bool) -> str:
        """The name of a database to copy, or to look at."""
        name = f"made_{made_by.replace('.', '_')}{'_full' if rows else ''}"
        data = self._folder / name
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not data.with_suffix(".whole").exists():
                shutil.rmtree(data, ignore_errors=True)
                data.mkdir(mode=0o700)
                self.drop(name)
                self._create(name, "template0")
                self._releases[made_by].make(self._place(data, name))
                if rows:
                    pairkit.filled(self.dsn(name))
                data.with_suffix(".whole").touch()
        return name

    def drop(self, name: str) -> None:
        """For good."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _place(self, data: Path, name: str) -> Place:
        info = psycopg.conninfo.conninfo_to_dict(self.dsn(name))
        reached = f"host={info['host']}&port={info['port']}"
        return Place(data, f"postgresql://kat_admin:{info['password']}@/{name}?{reached}")

    def _create(self, name: str, like: str) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            create = sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(like.partition(".")[0])))


@pytest.fixture(scope="module")
def releases(run_dir: Path) -> dict[str, Release]:
    """Every release by its name."""
    return {release.name: release for release in earlier.every(run_dir / "releases")}


@pytest.fixture(scope="module")
def databases(server: embedded.Running, run_dir: Path, releases: dict[str, Release]) -> Databases:
    """Where the tests' databases come from."""
    return Databases(server, run_dir / "pairs", releases)


@pytest.fixture(scope="module")
def fresh(databases: Databases) -> Callable[[str], Snapshot]:
    """The schema of a fresh install of a release, made by its own code."""
    return lambda name: pairkit.shape_of(databases.dsn(databases.template(name, rows=False)))


class Journey:
    """A database on its way between two releases."""

    def __init__(self, databases: Databases, place: Place, name: str, fresh: Callable[[str], Snapshot]) -> None:
        self.place, self._fresh = place, fresh
        self.dsn = databases.dsn(name)

    def go(self, release: Release, start: Release) -> State:
        """To this release, by its own code: the newer one's going up, the older one's coming back."""
        kind = "upgrade" if NAMES.index(release.name) > NAMES.index(start.name) else "downgrade"
        refused = release.kat(self.place, "assets", code=4)
        assert f"kat {kind}" in refused.err, refused
        release.kat(self.place, kind, "--yes", "--no-backup")
        refused = start.kat(self.place, "assets", code=4)
        assert refused.err.count("\n") == 1, refused
        found = pairkit.state(self.dsn)
        assert not differences(found.shape, self._fresh(release.name))
        return found

    def probe(self, release: Release) -> None:
        """What a person would look at first."""
        status, *others = release.kats(
            self.place,
            ["status", "--json"],
            ["assets", "--organisation", CODE, "--json"],
            ["findings", "--organisation", CODE, "--json"],
            ["tasks", "--json"],
            ["parked", "list", "--json"],
            ["doctor", "--json"],
        )
        said = json.loads(status.out)
        assert (status.code, said["problem"], said["release"]) == (0, None, release.name), status
        assert said["revision"] == release.revision
        for one in others[:-1]:
            assert one.code == 0, one
            json.loads(one.out)
        database = [part for part in json.loads(others[-1].out)["parts"] if part["name"] == "database"]
        assert all(part["fine"] for part in database), others[-1]

    def work(self, release: Release) -> State:
        """Inserts, updates and deletes, by SQL and by the release's own functions."""
        done = pairkit.write(self.dsn, pairkit.state(self.dsn))
        assert min(done.values()) > 10, done
        found = release.work(self.place, f"by{release.name.replace('.', '')}n{next(_numbers)}")
        assert (found["assets"], found["state"]) == (2, "cancelled")
        return pairkit.state(self.dsn)


@pytest.fixture
def journey(
    databases: Databases, fresh: Callable[[str], Snapshot], tmp_path: Path
) -> Iterator[Callable[[Release], Journey]]:
    """Call it for a filled database that this release has made."""
    with ExitStack() as after:

        def begin(release: Release) -> Journey:
            name = f"pair_{os.getpid()}_{next(_numbers)}"
            after.callback(databases.drop, name)
            return Journey(databases, databases.copy(release.name, name, tmp_path / name), name, fresh)

        yield begin


def there_and_back(journey: Journey, home: Release, other: Release, *, cycles: int) -> None:
    """The whole story of a pair; `cycles` times without a write in between first."""
    before = pairkit.state(journey.dsn)
    came = journey.go(other, home)
    for _ in range(cycles):
        assert not journey.go(home, other).differs(before)
        assert not journey.go(other, home).differs(came)
    journey.probe(other)
    left = journey.work(other)
    after = journey.go(home, other)
    older, newer = sorted((home, other), key=lambda one: NAMES.index(one.name))
    shapes = {home.name: before.shape, other.name: came.shape}
    names = Names.between(shapes[older.name], shapes[newer.name], (older.revision, newer.revision))
    names = names if home == newer else names.inverted()
    records = Records.read(journey.dsn)
    assert not pairkit.unaccounted(Story(before, came, left, after, names), records)
    journey.probe(home)
    # What the other release wrote and this one can't show is there as it was left, as often as one goes.
    for _ in range(max(1, cycles)):
        assert not journey.go(other, home).differs(left)
        assert not journey.go(home, other).differs(after)
    assert {"organisation", "assets"} <= home.work(journey.place, f"home{next(_numbers)}").keys()


@pytest.mark.parametrize(("home", "other"), NEIGHBOURS, ids=lambda name: str(name))
def test_to_the_next_release_and_back_with_work_in_between(
    releases: dict[str, Release], journey: Callable[[Release], Journey], home: str, other: str
) -> None:
    there_and_back(journey(releases[home]), releases[home], releases[other], cycles=0)


@pytest.mark.nightly
@pytest.mark.parametrize(("home", "other"), PAIRS, ids=lambda name: str(name))
def test_to_any_release_and_back_three_times(
    releases: dict[str, Release], journey: Callable[[Release], Journey], home: str, other: str
) -> None:
    there_and_back(journey(releases[home]), releases[home], releases[other], cycles=CYCLES)


@pytest.mark.nightly
@pytest.mark.parametrize(("maker", "target"), PAIRS, ids=lambda name: str(name))
def test_the_targets_own_tests_run_on_a_database_from_another_release(
    releases: dict[str, Release], tmp_path: Path, maker: str, target: str
) -> None:
    said = own_tests(releases[target], releases[maker], tmp_path)
    assert said.code == 0, said
    assert " passed" in said.out, said


def own_tests(target: Release, maker: Release, folder: Path) -> Said:
    """Runs the target's own tests, on databases that the maker made and the target took over."""
    kind = "upgrade" if NAMES.index(target.name) > NAMES.index(maker.name) else "downgrade"
    root = target.tree if target.commit is not None else earlier.ROOT
    words = ["-m", "pytest", "-q", "-p", "earlier_work", "-p", "no:cacheprovider", "-m", "not nightly and not lab"]
    return target.python(
        Place(folder),
        *words,
        *(name for name in OWN_TESTS if (root / name).exists()),
        cwd=root,
        further={
            "EARLIER_MAKER": str(maker.tree / "src"),
            "EARLIER_KIND": kind,
            "PYTHONPATH": os.pathsep.join((str(target.tree / "src"), str(earlier.WORK.parent))),
        },
    )


def test_each_release_is_what_its_code_says_it_is(releases: dict[str, Release], tmp_path: Path) -> None:
    for release in releases.values():
        assert release.version(Place(tmp_path)) == (release.name, release.revision)

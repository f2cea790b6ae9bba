"""Processes of the wrong release end by themselves, idle or not, with the sentence; and nobody starts them again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Connection, text

from kattegat import settings
from kattegat.cli.install import Install
from kattegat.cli.scan import Watcher, runner_token
from kattegat.scheduler import beat
from kattegat.schema import fence
from kattegat.store import migrate, release, server
from kattegat.store.database import Database
from kattegat.store.release import ChangeUnderWayError, Release, WrongReleaseError

KAT = "import sys; from kattegat.cli.main import main; sys.exit(main(sys.argv[1:]))"
OLD_RUNNER = "import kattegat.runner.process as process; process.version = lambda name: '0.0.9'; " + KAT
UNDER_WAY = "A change of release is under way"
PATIENCE_SECONDS = 60.0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


class Home:
    """An install of its own: processes look at one place for their database."""

    def __init__(self, folder: Path, running: server.Running) -> None:
        self.folder = folder
        self.database = Database.embedded(running)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        self.environment = clean | {"KAT_DATA_DIR": str(folder)}

    def start(self, *arguments: str, code: str = KAT) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def roles(self) -> set[str]:
        with self.database.begin("kat_owner") as connection:
            return {entry.role for entry in beat.running(connection) if entry.seconds < 10}

    def epochs(self) -> set[int | None]:
        with self.database.begin("kat_owner") as connection:
            return {entry.epoch for entry in beat.running(connection)}

    @contextmanager
    def changed(self) -> Iterator[Connection]:
        """A change of release, for as long as the block takes."""
        with self.database.engine("kat_owner").connect() as owner:
            fence.close(owner, seconds=0.5)
            yield owner
            fence.open_(owner)


@pytest.fixture
def home(run_dir: Path, pg_bin: Path | None) -> Iterator[Home]:
    """A prepared install with its server running."""
    folder = run_dir / f"home-{os.getpid()}"
    running = server.ensure(folder, durable=False, binaries=pg_bin)
    made = Home(folder, running)
    try:
        migrate.prepare(made.database)
        yield made
    finally:
        made.database.close()
        server.stop(folder, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def test_idle_processes_end_with_the_sentence(home: Home) -> None:
    path = home.folder / "run" / "test.sock"
    started = {
        "web": home.start("process", "web", "--no-http", "--socket", str(path)),
        "scheduler": home.start("process", "scheduler"),
        "worker": home.start("process", "worker"),
    }
    try:
        until(lambda: home.roles() == set(started))
        assert home.epochs() == {0}
        with home.changed():
            errors = {role: process.communicate(timeout=PATIENCE_SECONDS)[1] for role, process in started.items()}
        for role, process in started.items():
            assert process.returncode == release.EXIT_CODE, (role, errors[role])
            assert UNDER_WAY in errors[role].strip().splitlines()[-1], errors[role]
        # While the change works nobody begins, and says why.
        with home.changed():
            late = home.start("process", "worker")
            said = late.communicate(timeout=PATIENCE_SECONDS)[1]
        assert (late.returncode, UNDER_WAY in said) == (release.EXIT_CODE, True)
    finally:
        for process in started.values():
            process.kill()
            process.communicate()


def test_a_runner_of_another_release_ends_when_the_door_says_so(home: Home) -> None:
    path = home.folder / "run" / "test.sock"
    web = home.start("process", "web", "--no-http", "--socket", str(path))
    try:
        until(path.exists)
        install = Install(settings.load({"KAT_DATA_DIR": str(home.folder)}), home.database, started_server=False)
        token = str(runner_token(install))
        runner = home.start(
            "process", "runner", "--door", f"unix:{path}", "--token-file", token, "--name", "local", code=OLD_RUNNER
        )
        said = runner.communicate(timeout=PATIENCE_SECONDS)[1]
        assert runner.returncode == release.EXIT_CODE, said
        assert f"install {beat.release()} on the runner" in said.strip().splitlines()[-1]
    finally:
        web.terminate()
        web.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_kat_up_ends_with_all_its_processes_and_starts_none_again(run_dir: Path, pg_bin: Path | None) -> None:
    folder = run_dir / f"up-{os.getpid()}"
    home: Home | None = None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    # It makes the server, so it would stop it at its end: not while a change of release needs it.
    up = subprocess.Popen(
        [sys.executable, "-c", KAT, "up", "--port", str(free_port())],
        env=clean | {"KAT_DATA_DIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: up.poll() is not None or (folder / "run" / "door.sock").exists())
        assert up.poll() is None, up.communicate()[1]
        home = Home(folder, server.ensure(folder, binaries=pg_bin))
        until(lambda: home.roles() == {"web", "scheduler", "worker"})
        with home.database.begin("kat_owner") as connection:
            pids = {entry.pid for entry in beat.running(connection)}
        with home.changed() as owner:
            said = up.communicate(timeout=PATIENCE_SECONDS)[1]
            assert up.returncode == release.EXIT_CODE, said
            assert UNDER_WAY in said.strip().splitlines()[-1]
            assert [pid for pid in pids if alive(pid)] == []
            with owner.begin():
                assert owner.execute(text("SELECT 1")).scalar() == 1
    finally:
        up.kill()
        up.communicate()
        if home is not None:
            home.database.close()
        with suppress(server.ServerError):
            server.stop(folder, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def changed(database: Database) -> None:
    with database.engine("kat_owner").connect() as owner:
        fence.close(owner)
        fence.open_(owner)


def test_a_scan_ends_and_no_step_of_it_is_waited_for(database: Database, tmp_path: Path) -> None:
    install = Install(settings.load({"KAT_DATA_DIR": str(tmp_path)}), database, started_server=False)
    install.check_release()
    changed(database)
    tries: list[int] = []

    def step() -> None:
        tries.append(1)
        with database.begin("kat_system") as connection:
            connection.execute(text("INSERT INTO organisation (code, name) VALUES ('a', 'a')"))

    with pytest.raises(WrongReleaseError, match="was changed after this session began"):
        install.patiently(step)
    assert tries == [1]
    watcher = Watcher(Install(install.settings, database, started_server=False), Console(stderr=True))
    with pytest.raises(WrongReleaseError, match="was changed after this session began"):
        watcher.look()


def test_what_a_start_learns(make_database: Callable[[], Database]) -> None:
    database = make_database()
    again = Database(database._conninfo, login=True)
    assert database.learn() == 0
    with database.engine("kat_owner").connect() as owner:
        fence.close(owner)
        with pytest.raises(ChangeUnderWayError), again.begin("kat_system"):
            pass
        with again.begin("kat_owner") as connection:
            assert migrate.current(connection) == migrate.head()
        fence.open_(owner)
    assert again.learn() == 2
    again.close()


@pytest.mark.parametrize(
    ("revision", "fact", "said"),
    [
        ("9999", Release("9.9.0", "9999"), "is for Kattegat 9.9.0 (revision 9999), which is newer"),
        ("9999", None, "is for revision 9999, which is newer"),
        (None, Release("9.9.0", "same", oldest_reader="9.8"), "needs Kattegat 9.8 or newer"),
    ],
)
def test_a_database_of_another_release_is_learned_from_by_nobody(
    make_database: Callable[[], Database], revision: str | None, fact: Release | None, said: str
) -> None:
    database = make_database()
    with database.begin("kat_owner") as connection:
        if revision is not None:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        if fact is not None:
            release.record(connection, fact)
    fresh = Database(database._conninfo, login=True)
    with pytest.raises(WrongReleaseError) as raised, fresh.begin("kat_app", [1]):
        pass
    assert said in str(raised.value)
    assert "kat downgrade" in str(raised.value)
    # The owner may look and repair, and writes to no table of the application before that.
    with pytest.raises(WrongReleaseError, match="has not learned"), fresh.begin("kat_owner") as connection:  # noqa: PT012
        assert migrate.current(connection) is not None
        connection.execute(text("UPDATE organisation SET name = 'x'"))
    fresh.close()


def test_the_release_on_record_is_this_one(database: Database) -> None:
    with database.begin("kat_system") as connection:
        assert release.recorded(connection) == release.this()

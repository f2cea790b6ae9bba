"""Plain `python -m alembic` of an older and of a newer release on one database, as a person types it.

The older release is this one. The newer one has two revisions more, which the older has no file of.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg import sql

from kattegat.schema import fence, snapshot, stored
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

NEWER = Path(__file__).parent / "newer"
OWN = migrate.INI.parent / "migrations" / "versions"
UNKNOWN = "Can't locate revision"


class Install:
    """A database on the test server, with the command line of the two releases."""

    def __init__(self, running: embedded.Running, folder: Path) -> None:
        self.name = f"plain_{os.getpid()}_{time.monotonic_ns()}"
        self.folder = folder
        self.admin = running.dsn("kat_admin", self.name)
        self.database = Database({role: running.dsn(role, self.name) for role in ROLES}, login=True)
        info = psycopg.conninfo.conninfo_to_dict(running.dsn("kat_admin", self.name))
        self.url = f"postgresql://kat_admin:{info['password']}@/{self.name}?host={info['host']}&port={info['port']}"
        self.ini = folder / "newer.ini"
        self.ini.write_text(migrate.INI.read_text() + f"version_locations = {OWN}:{NEWER}\n")

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KAT_")}
        return {**clean, "KAT_DATABASE_URL": self.url, "KAT_DATA_DIR": str(self.folder / "data")}

    def run(self, *words: str, newer: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(self.ini if newer else migrate.INI), *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert UNKNOWN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *words: str, newer: bool = False) -> str:
        done = self.run(*words, newer=newer)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def refused(self, *words: str, newer: bool = False) -> str:
        done = self.run(*words, newer=newer)
        assert done.returncode != 0, (words, done.stdout)
        return done.stdout

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        with psycopg.connect(self.admin) as connection:
            connection.execute("SELECT set_config('kat.epoch', last_value::text, false) FROM lifecycle.epoch")
            for statement in statements:
                cursor = connection.execute(statement.encode())
                found = cursor.fetchall() if cursor.description else []
        return found

    def shape(self) -> snapshot.Snapshot:
        with self.database.engine("kat_owner").connect() as connection:
            found = snapshot.read(connection)
        self.database.close()
        return found


FILL = (
    "INSERT INTO organisation (code, name) VALUES ('a', 'A')",
    "INSERT INTO asset (organisation_id, type, key, label) SELECT id, 'Hostname', 'x.test', 'L 100%' FROM organisation",
    "INSERT INTO place (organisation_id, name) SELECT id, 'rack room' FROM organisation",
    "INSERT INTO scan (organisation_id, actor, outcome) SELECT id, 'me', 'paused' FROM organisation",
    "INSERT INTO network (organisation_id, place, network, declared_by)"
    " SELECT id, 'internet', '10.0.0.0/8', 'me' FROM organisation",
)


@contextmanager
def made(server: embedded.Running, folder: Path, template: str | None = None) -> Iterator[Install]:
    install = Install(server, folder)
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:
        name = sql.Identifier(install.name)
        like = sql.Identifier(template or "template0")
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE {}").format(name, like))
        try:
            yield install
        finally:
            install.database.close()
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="module")
def template(server: embedded.Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """An install used by the newer release, with rows that only that one can hold. No test changes it."""
    with made(server, tmp_path_factory.mktemp("newer")) as install:
        install.ok("upgrade", "head")
        install.ok("upgrade", "head", newer=True)
        install.sql(*FILL)
        yield install


@pytest.fixture
def newer(server: embedded.Running, template: Install, tmp_path: Path) -> Iterator[Install]:
    """A copy of it to change."""
    (tmp_path / "data").mkdir()
    shutil.copy2(template.folder / "data" / "plan-key", tmp_path / "data" / "plan-key")
    with made(server, tmp_path, template.name) as install:
        yield install


@pytest.fixture
def install(server: embedded.Running, tmp_path: Path) -> Iterator[Install]:
    """An install of this release, made by plain Alembic."""
    with made(server, tmp_path) as install:
        install.ok("upgrade", "head")
        yield install


def every_revision() -> list[str]:
    """Those that this release has files of, oldest first."""
    return sorted(script.revision for script in ScriptDirectory.from_config(migrate.config()).walk_revisions())


def test_a_first_install_by_plain_alembic_is_as_any_other(install: Install, database: Database) -> None:
    with database.begin("kat_owner") as connection:
        assert install.shape() == snapshot.read(connection)
        assert fence.present(connection)
    rows = install.sql("SELECT revision, signature IS NOT NULL FROM lifecycle.plan ORDER BY revision")
    assert rows == [(revision, True) for revision in every_revision()]
    assert install.sql("SELECT value->>'revision' FROM lifecycle.fact WHERE name = 'release'") == [(migrate.head(),)]
    assert f"{migrate.head()} (head)" in install.ok("current")


def test_the_older_release_reads_a_newer_database(template: Install) -> None:
    assert "t3 (head)" in template.ok("current")
    history = template.ok("history", "--indicate-current")
    assert [line.partition(",")[0] for line in history.splitlines()[:2]] == [
        "t2 -> t3 (head) (current)",
        f"{migrate.head()} -> t2",
    ]
    shown = template.ok("show", "t2")
    assert "The way back to" in shown
    assert "label of public.asset" in shown
    assert "table lifecycle.plan of the database" in shown
    assert "Rev: t3" in template.ok("show", "current")
    assert "Rev: t3" in template.ok("history", "-v", "-r", f"{migrate.head()}:t3")


@pytest.mark.parametrize(
    "words",
    ["upgrade head", "upgrade 0001", "stamp head", "stamp --purge 0001", "check", "revision -m more", "ensure_version"],
)
def test_what_would_harm_a_newer_database_stops_with_what_to_type(template: Install, words: str) -> None:
    said = template.refused(*words.split())
    assert said.startswith("FAILED: This database is used by release ")
    assert "revision t3: install release" in said
    assert "`kat downgrade`, which takes it back" in said
    assert template.sql("SELECT version_num FROM alembic_version") == [("t3",)]


@pytest.mark.parametrize("words", ["downgrade zz", "show zz", "history -r 0001:zz", "downgrade zz:0001 --sql"])
def test_a_revision_that_nobody_knows_is_answered_with_those_there_are(template: Install, words: str) -> None:
    said = template.refused(*words.split())
    assert "FAILED: There is no revision zz; there are: 0001" in said
    assert "t2, t3." in said


def test_the_older_release_takes_the_database_back_and_the_newer_one_up_again(newer: Install) -> None:
    was = newer.shape()
    newer.ok("downgrade", migrate.head())
    assert f"{migrate.head()} (head)" in newer.ok("current")
    assert newer.sql("SELECT revision, back FROM lifecycle.plan WHERE back ORDER BY 1") == [("t2", True), ("t3", True)]
    assert newer.sql("SELECT outcome FROM scan") == [("open",)]
    assert newer.sql("SELECT zone, network::text FROM own_network") == [("internet", "10.0.0.0/8")]
    assert "No new upgrade operations" in newer.ok("check")
    newer.ok("upgrade", "head")
    assert "taken back" in newer.ok("history")
    assert "there are: 0001" in newer.refused("upgrade", "t2")
    # The older release works here meanwhile.
    newer.sql("INSERT INTO asset (organisation_id, type, key) SELECT id, 'Hostname', 'y.test' FROM organisation")
    newer.ok("upgrade", "head", newer=True)
    assert newer.shape() == was
    assert newer.sql("SELECT key, label FROM asset ORDER BY key") == [
        ("x.test", "L 100%"),
        ("y.test", "made by the older release: 100%"),
    ]
    assert newer.sql("SELECT name FROM place") == [("rack room",)]
    assert newer.sql("SELECT outcome FROM scan") == [("paused",)]
    assert newer.sql("SELECT place, network::text FROM network") == [("internet", "10.0.0.0/8")]
    assert newer.sql("SELECT count(*) FROM lifecycle.plan WHERE back") == [(0,)]


def test_one_revision_at_a_time_in_either_release(newer: Install) -> None:
    newer.ok("downgrade", "-1")
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t2",)]
    newer.ok("downgrade", "-1", newer=True)
    assert newer.sql("SELECT version_num FROM alembic_version") == [(migrate.head(),)]
    newer.ok("upgrade", "+1", newer=True)
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t2",)]


def test_a_change_is_on_record_and_moves_the_epoch_on(newer: Install) -> None:
    before = newer.sql("SELECT last_value FROM lifecycle.epoch")[0][0]
    newer.ok("downgrade", migrate.head())
    ((after,),) = newer.sql("SELECT last_value FROM lifecycle.epoch")
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after > before
    assert after % 2 == 0
    runs = newer.sql("SELECT kind, from_revision, to_revision, state FROM lifecycle.run ORDER BY id DESC LIMIT 1")
    assert runs == [("alembic", "t3", migrate.head(), "done")]
    assert newer.sql("SELECT DISTINCT state FROM lifecycle.journal") == [("done",)]
    assert newer.sql("SELECT value->>'revision' FROM lifecycle.fact WHERE name = 'release'") == [(migrate.head(),)]


def test_base_is_no_revision_to_go_to(template: Install) -> None:
    for release in (False, True):
        said = template.refused("downgrade", "base", newer=release)
        assert "Before the first revision there is no install" in said
    assert template.sql("SELECT version_num FROM alembic_version") == [("t3",)]


def test_the_sql_of_a_way_back_is_printed_and_leads_there(newer: Install) -> None:
    printed = newer.ok("downgrade", f"t3:{migrate.head()}", "--sql")
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t3",)]
    with newer.database.engine("kat_owner").connect() as connection:
        rows = stored.everything(connection)
    newer.database.close()
    for row in rows[-2:]:
        for step in row.plan().steps[:-1]:
            for statement in step.do:
                assert statement in printed
    with psycopg.connect(newer.admin, autocommit=True) as connection:
        connection.execute(printed.encode())
    assert newer.shape() == rows[-3].shape_after()
    assert f"{migrate.head()} (head)" in newer.ok("current")
    assert newer.sql("SELECT count(*) FROM lifecycle.plan WHERE back") == [(2,)]


def test_the_sql_of_an_upgrade_is_not_printed_without_its_way_back(install: Install) -> None:
    said = install.refused("upgrade", f"{migrate.head()}:t3", "--sql", newer=True)
    assert "kat upgrade --dry-run" in said


def test_nothing_is_changed_while_processes_are_connected(newer: Install) -> None:
    with psycopg.connect(newer.url, autocommit=True):
        said = newer.refused("downgrade", migrate.head())
        assert "This database is in use (session " in said
    newer.sql("INSERT INTO process (role, host, pid, release) VALUES ('worker', 'far', 7, '9.9.0')")
    newer.sql("UPDATE process SET seen_at = now() + interval '1 hour'")
    assert "worker on far, process 7, release 9.9.0" in newer.refused("downgrade", migrate.head())
    newer.sql("UPDATE process SET seen_at = now() - interval '1 minute'")
    newer.ok("downgrade", migrate.head())


def test_a_tampered_plan_is_not_run_and_a_lost_key_needs_its_sum(newer: Install) -> None:
    (newer.folder / "data" / "plan-key").unlink()
    said = newer.refused("downgrade", "t2")
    assert "The stored plan of revision t3 can't be verified" in said
    sha256 = said.rpartition("accept-plan=")[2].partition(")")[0].strip()
    newer.ok("-x", f"accept-plan={sha256}", "downgrade", "t2")
    newer.sql("UPDATE lifecycle.plan SET document = replace(document, 'place', 'asset') WHERE revision = 't2'")
    said = newer.refused("-x", f"accept-plan={sha256}", "downgrade", migrate.head())
    assert "revision t2 can't be verified" in said
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t2",)]


def test_a_plan_that_was_changed_in_the_database_is_not_run(newer: Install) -> None:
    newer.sql("UPDATE lifecycle.plan SET document = replace(document, 'is taken off', 'is gone') WHERE revision = 't3'")
    assert "not the one that was signed" in newer.refused("downgrade", "t2")
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t3",)]


def test_a_schema_changed_by_hand_is_not_run_over(newer: Install) -> None:
    newer.sql("ALTER TABLE asset ADD COLUMN surprise text")
    said = newer.refused("downgrade", "t2")
    assert "public.asset.surprise: this column is not expected" in said
    assert newer.sql("SELECT version_num FROM alembic_version") == [("t3",)]


def test_killed_in_the_middle_nothing_has_changed(newer: Install) -> None:
    was = newer.shape()
    # As the owner, which no process is connected as: so this session is in the way of nothing but its lock.
    with psycopg.connect(newer.database.conninfo("kat_owner")) as holder:
        holder.execute("LOCK TABLE asset IN ACCESS SHARE MODE")
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic", "-c", str(migrate.INI), "downgrade", migrate.head()],
            env=newer.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(300):
                found = holder.execute(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'asset'::regclass"
                ).fetchone()
                if found == (1,):
                    break
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        holder.rollback()
    assert newer.shape() == was
    assert newer.sql("SELECT count(*) FROM lifecycle.run WHERE state = 'running'") == [(0,)]
    newer.ok("downgrade", migrate.head())
    ((epoch,),) = newer.sql("SELECT last_value FROM lifecycle.epoch")
    assert isinstance(epoch, int)
    assert epoch % 2 == 0

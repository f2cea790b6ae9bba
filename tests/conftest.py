"""Fixtures for every test: one real PostgreSQL server per run, and a database of its own for each test that wants one.

KAT_TEST_PG_BIN names a folder with other binaries (such as /usr/lib/postgresql/15/bin) to run the tests on.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql

from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

# Set by the first process of a run and inherited by the workers of pytest-xdist.
RUN_DIR = "KAT_TEST_RUN_DIR"
TEMPLATE = "kat_template"


def fast_folder() -> str | None:
    """Memory to make databases in where there is plenty (half the time of the tests of the server), or None."""
    if os.environ.get("TMPDIR") or not os.access("/dev/shm", os.W_OK):
        return None
    found = os.statvfs("/dev/shm")
    return "/dev/shm" if found.f_bavail * found.f_frsize > 4 << 30 else None


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        run_dir = Path(tempfile.mkdtemp(prefix="kat-test-", dir=fast_folder()))
        # As root the server runs as a user of its own, who has to pass through.
        run_dir.chmod(0o711)
        os.environ[RUN_DIR] = str(run_dir)
        # What a test lets be made in its own process (the key that signs plans) goes with the run, not into an install.
        os.environ["KAT_DATA_DIR"] = str(run_dir / "install")


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or RUN_DIR not in os.environ:
        return
    run_dir = Path(os.environ.pop(RUN_DIR))
    os.environ.pop("KAT_DATA_DIR", None)
    embedded.stop(run_dir / "data", "immediate")
    shutil.rmtree(run_dir)


@contextmanager
def run_lock(name: str) -> Iterator[Path]:
    """Held by one process of the test run at a time; gives the run's folder."""
    run_dir = Path(os.environ[RUN_DIR])
    with (run_dir / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield run_dir


def roles_of(server: embedded.Running, name: str) -> Database:
    """The database of this name on the test server, reached as each role with a login of its own."""
    return Database({role: server.dsn(role, name) for role in ROLES}, login=True)


def build_template(database: Database) -> None:
    """Migrate the database that the tests' databases are copied from."""
    migrate.prepare(database)


@pytest.fixture(scope="session")
def pg_bin() -> Path | None:
    """The folder of the binaries under test, or None for those that come with Kattegat."""
    given = os.environ.get("KAT_TEST_PG_BIN")
    return Path(given) if given else None


@pytest.fixture(scope="session")
def run_dir() -> Path:
    """A folder of this run that other users may pass through, unlike tmp_path; it goes when the run ends."""
    return Path(os.environ[RUN_DIR])


@pytest.fixture(scope="session")
def server(pg_bin: Path | None) -> embedded.Running:
    """The server of this test run, with the template that databases are copied from."""
    with run_lock("server") as run_dir:
        running = embedded.ensure(run_dir / "data", durable=False, binaries=pg_bin)
        with psycopg.connect(running.dsn("kat_admin", "postgres"), autocommit=True) as connection:
            names = {row[0] for row in connection.execute("SELECT datname FROM pg_database").fetchall()}
            if TEMPLATE not in names:
                # Under another name until it is whole: a worker that died half-way leaves no template.
                half = sql.Identifier(f"{TEMPLATE}_half")
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(half))
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner").format(half))
                template = roles_of(running, f"{TEMPLATE}_half")
                build_template(template)
                template.close()
                connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(half, sql.Identifier(TEMPLATE)))
    return running


@pytest.fixture(autouse=True)
def log_of_this_test() -> None:
    """A command run in this process sets the log up for a stderr that ends with its test; the next has none of it."""
    structlog.reset_defaults()


_numbers = itertools.count(1)


@pytest.fixture
def make_database(server: embedded.Running) -> Iterator[Callable[[], Database]]:
    """Call it for one more fresh database; all go when the test ends."""
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection, ExitStack() as after:

        def make() -> Database:
            name = f"test_{os.getpid()}_{next(_numbers)}"
            create = sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            after.callback(connection.execute, drop)
            made = roles_of(server, name)
            after.callback(made.close)
            return made

        yield make


@pytest.fixture
def database(make_database: Callable[[], Database]) -> Database:
    """A fresh, migrated database for this test alone."""
    return make_database()

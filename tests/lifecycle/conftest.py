"""Fixtures of the tests of a change of release."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from kattegat.lifecycle import run
from kattegat.lifecycle.run import Wish
from kattegat.settings import Settings
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

sys.path.insert(0, str(Path(__file__).parent))
import changekit

NEWER_TEMPLATE = "kat_newer"
_numbers = itertools.count(1)


@pytest.fixture
def chosen(tmp_path: Path, server: embedded.Running) -> Settings:
    """Settings of an install that has no server of its own."""
    return changekit.settings_for(tmp_path / "data", server)


def _reached(server: embedded.Running, name: str) -> Database:
    return Database({role: server.dsn(role, name) for role in ROLES}, login=True)


@pytest.fixture(scope="session")
def newer_template(server: embedded.Running, run_dir: Path) -> Path:
    """A database that a newer release has used, to be copied; gives the file of the key that signed its plans."""
    import fcntl

    folder = run_dir / "newer"
    with (run_dir / "newer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = folder / "plan-key"
        if not (run_dir / "newer-made").exists():
            with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:
                name = sql.Identifier(NEWER_TEMPLATE)
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE kat_template").format(name))
            database = _reached(server, NEWER_TEMPLATE)
            changekit.fill(database)
            wish = Wish(kind="upgrade", to=changekit.LAST, yes=True, backup=False)
            settings = changekit.settings_for(folder, server)
            run.change(settings, database, wish, changekit.Told(), config=changekit.newer())
            database.close()
            (run_dir / "newer-made").touch()
    return key


@pytest.fixture
def make_newer(server: embedded.Running, newer_template: Path, chosen: Settings) -> Iterator[Callable[[], Database]]:
    """Call it for a database that a newer release has used, with its key in the settings' data directory."""
    shutil.copy(newer_template, chosen.data_dir / "plan-key")
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection, ExitStack() as after:

        def make() -> Database:
            name = f"newer_{os.getpid()}_{next(_numbers)}"
            create = sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE {}")
            connection.execute(create.format(sql.Identifier(name), sql.Identifier(NEWER_TEMPLATE)))
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            after.callback(connection.execute, drop)
            made = _reached(server, name)
            after.callback(made.close)
            return made

        yield make


@pytest.fixture
def used(make_newer: Callable[[], Database]) -> Database:
    """A database that a newer release has used."""
    return make_newer()

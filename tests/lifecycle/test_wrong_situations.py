"""A hundred wrong situations: each is refused before anything is changed, with a sentence that says what to do."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
import pytest
from psycopg import sql

from kattegat import settings
from kattegat.errors import KattegatError
from kattegat.lifecycle import run
from kattegat.lifecycle.run import Wish
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

sys.path.insert(0, str(Path(__file__).parent))
import changekit
import wrongs
from changekit import Told
from wrongs import Ground, Wrong

NAME = "wrong"
_numbers = itertools.count(1)


class Made(NamedTuple):
    """A server of its own, whose roles may be spoilt, with a database that a newer release has used."""

    running: embedded.Running
    settings: Settings


def reached(running: embedded.Running, name: str) -> Database:
    return Database({role: running.dsn(role, name) for role in ROLES}, login=True)


@pytest.fixture(scope="module")
def made(run_dir: Path, pg_bin: Path | None) -> Iterator[Made]:
    folder = run_dir / "wrong"
    running = embedded.ensure(folder, durable=False, binaries=pg_bin)
    try:
        with psycopg.connect(running.dsn("kat_admin", "postgres"), autocommit=True) as admin:
            for line in ("max_prepared_transactions = 2", "wal_level = logical"):
                admin.execute(f"ALTER SYSTEM SET {line}".encode())
        embedded.stop(folder)
        running = embedded.ensure(folder, durable=False, binaries=pg_bin)
        with psycopg.connect(running.dsn("kat_admin", "postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {NAME} OWNER kat_owner".encode())
        chosen = settings.load({"KAT_DATA_DIR": str(folder)})
        database = reached(running, NAME)
        migrate.prepare(database, plan_key=migrate.key_path(chosen))
        changekit.fill(database)
        wish = Wish(kind="upgrade", to=changekit.LAST, yes=True, backup=False)
        run.change(chosen, database, wish, Told(), config=changekit.newer())
        database.close()
        yield Made(running, chosen)
    finally:
        embedded.stop(folder, "immediate")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ground(made: Made, tmp_path: Path) -> Iterator[Ground]:
    name = f"{NAME}_{next(_numbers)}"
    with psycopg.connect(made.running.dsn("kat_admin", "postgres"), autocommit=True) as admin:
        create = sql.SQL("CREATE DATABASE {} OWNER kat_owner TEMPLATE {}")
        admin.execute(create.format(sql.Identifier(name), sql.Identifier(NAME)))
        database = reached(made.running, name)
        chosen = wrongs.settings_of(tmp_path / "data", made.settings, migrate.key_path(made.settings))

        def connect(role: str, **more: object) -> psycopg.Connection[tuple[object, ...]]:
            return psycopg.connect(made.running.dsn(role, name), **more)  # type: ignore[arg-type]

        here = Ground(name, database, chosen, connect)
        with here.after:
            yield here
        database.close()
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def refused(ground: Ground, made: Made, wish: Wish) -> str:
    """The sentence, and the proof that nothing was changed."""
    place = made.running.dsn("kat_admin", ground.name)
    before = changekit.state(place)
    if (ground.settings.data_dir / "bin").exists():
        ground.settings = msgspec.structs.replace(ground.settings, pg_bin=ground.settings.data_dir / "bin")
    with pytest.raises(KattegatError) as told:
        run.change(ground.settings, ground.database, wish, Told())
    assert changekit.state(place) == before
    return str(told.value)


ALL = wrongs.everything()


def test_there_are_a_hundred() -> None:
    assert len({wrong.name for wrong in ALL}) == len(ALL) >= 100


# Each has a database of its own: a sample always, all of them at night.
CASES = [pytest.param(wrong, id=wrong.name, marks=[pytest.mark.nightly] * (n % 5 > 0)) for n, wrong in enumerate(ALL)]


@pytest.mark.parametrize("wrong", CASES)
def test_is_refused_with_its_sentence(ground: Ground, made: Made, wrong: Wrong) -> None:
    if callable(wrong.arrange):
        wrong.arrange(ground)
    else:
        ground.admin(*([wrong.arrange] if wrong.arrange.startswith("DO ") else wrong.arrange.split("; ")))
    said = refused(ground, made, wrong.wish)
    assert re.search(wrong.says, said), said
    assert "\n" not in said
    assert said.endswith(".")

"""Runs inside a release's own code: `earlier_work.py ACT JSON`. Uses only what every release since 0.1.0 has.

Also a plugin of pytest's (`-p earlier_work`): the release's own tests then run on a database that another release made.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAKER = "EARLIER_MAKER"
KIND = "EARLIER_KIND"


def kats(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Runs each in a fork of this process."""
    from kattegat.cli import main

    found = []
    for words in commands:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
                sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
                code = 1
                try:
                    code = main.main(words)
                except SystemExit as end:
                    code = end.code if isinstance(end.code, int) else 1
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            _, status = os.waitpid(child, 0)
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
            code = os.waitstatus_to_exitcode(status)
            found.append({"words": words, "code": code, "out": texts[0], "err": texts[1]})
    return found


def commands(_: object) -> dict[str, list[str]]:
    """Every command that does something, with the names of its required parameters."""
    from kattegat.cli.main import app

    found: dict[str, list[str]] = {}

    def walk(group: Any, path: tuple[str, ...]) -> None:
        for name in group:
            if name.startswith("-"):
                continue
            here = group[name]
            if here.default_command is not None:
                needed = [str(one.name) for one in here.assemble_argument_collection() if one.required]
                found[" ".join((*path, name))] = needed
            walk(here, (*path, name))

    walk(app, ())
    return found


def told(_: object) -> list[str]:
    """This release's version and its newest revision."""
    from kattegat.store import migrate

    return [version("kattegat"), migrate.head()]


def work(mark: str) -> dict[str, Any]:
    """Writes with the functions that the release's processes write with."""
    from sqlalchemy import text

    from kattegat import settings
    from kattegat.inventory.declare import declare
    from kattegat.model.assets import Hostname, IPAddress
    from kattegat.scheduler import queue
    from kattegat.store.database import open_database

    database = open_database(settings.load())
    with database.begin("kat_system") as connection:
        organisation = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES (:code, :code) RETURNING id"), {"code": mark}
        ).scalar_one()
        assets = [(Hostname(f"{mark}.example.org"), 2), (IPAddress("192.0.2.77"), None)]
        declare(connection, organisation, assets, mark)
        pushed = queue.push(
            connection, [queue.NewTask(kind="sweep", organisation_id=organisation, priority=0, payload={"by": mark})]
        )
    with database.begin("kat_system") as connection:
        counted = connection.execute(
            text("SELECT count(*) FROM asset WHERE organisation_id = :o"), {"o": organisation}
        ).scalar_one()
        queue.cancel(connection, pushed, mark, "done with")
        state = connection.execute(text("SELECT state FROM task WHERE id = :id"), {"id": pushed[0]}).scalar_one()
    database.close()
    return {"organisation": organisation, "assets": counted, "task": pushed[0], "state": state}


def pytest_collection(session: Any) -> None:
    """Another release makes the database that every test gets a copy of; this one goes there with its own code."""
    if MAKER not in os.environ:
        return
    for plugin in session.config.pluginmanager.get_plugins():
        if hasattr(plugin, "build_template"):
            plugin.build_template = _arrive
            return
    raise RuntimeError("the tests of this release have no build_template")


def _arrive(database: Any) -> None:
    import psycopg

    info = psycopg.conninfo.conninfo_to_dict(database.conninfo("kat_owner"))
    secret = (Path(os.environ["KAT_TEST_RUN_DIR"]) / "data" / "secrets" / "kat_admin").read_text().strip()
    url = f"postgresql://kat_admin:{secret}@/{info['dbname']}?host={info['host']}&port={info['port']}"
    place = {**os.environ, "KAT_DATABASE_URL": url}
    maker = {**place, "PYTHONPATH": os.environ[MAKER]}
    for environment, words in (
        (maker, ["process", "prepare"]),
        (place, [os.environ[KIND], "--yes", "--no-backup"]),
    ):
        subprocess.run([sys.executable, "-m", "kattegat", *words], env=environment, check=True, capture_output=True)


ACTS: dict[str, Callable[[Any], Any]] = {"kats": kats, "commands": commands, "work": work, "version": told}

if __name__ == "__main__":
    print(json.dumps(ACTS[sys.argv[1]](json.loads(sys.argv[2]))))

"""The dry run is exact and read-only: what it prints is what the server's log shows when it is done."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from kattegat.lifecycle import run, shown
from kattegat.lifecycle.run import Wish
from kattegat.settings import Settings
from kattegat.store import server as embedded
from kattegat.store.database import Database

sys.path.insert(0, str(Path(__file__).parent))
import changekit
from changekit import LAST, Told

LINE = re.compile(r"^\d{4}-\d\d-\d\d \S+ \S+ \[(\d+)\] (?:(\S+)@(\S+) )?(\w+):  (.*)$")
SENT = re.compile(r"^(?:statement|execute [^:]*): (.*)$", re.DOTALL)
READING = re.compile(
    r"^\s*(SELECT|WITH|SHOW|SET|RESET|BEGIN|COMMIT|ROLLBACK|DEALLOCATE|SAVEPOINT|RELEASE|DISCARD)\b|^;$", re.IGNORECASE
)
# A plan is made in a database of its own, which is asked for by whoever made it and gone before anything is shown.
SCRATCH = re.compile(
    r"""^\s*((CREATE|DROP|ALTER) DATABASE (IF EXISTS )?"?kat_scratch_|SELECT pg_advisory_lock\(\$1, hash)"""
)
# What keeps the record of the change, and the fence; none of it is a step.
MACHINERY = re.compile(
    r"^\s*((INSERT INTO|UPDATE) lifecycle\.(run|journal|fact)\b|SELECT setval\('(lifecycle\.epoch|parked\.id)'"
    r"|SELECT pg_(try_)?advisory|CREATE TRIGGER _kat_fence|ALTER TABLE ONLY \S+ ENABLE ALWAYS TRIGGER _kat_fence)"
)


def logged(running: embedded.Running, name: str, start: dict[Path, int]) -> list[str]:
    """The SQL texts that the server was sent for this database, in order."""
    texts: list[str] = []
    open_: list[str] | None = None
    for path in sorted((running.data_dir / "log").glob("*.log")):
        with path.open("rb") as file:
            file.seek(start.get(path, 0))
            lines = file.read().decode().splitlines()
        for line in lines:
            found = LINE.match(line)
            if found:
                open_ = [found[5]] if found[3] == name and found[4] == "LOG" else None
                if open_ is not None:
                    texts.append("")
            elif open_ is not None:
                # PostgreSQL puts a tab before each further line of a message.
                open_.append(line.removeprefix("\t"))
            if open_ is not None:
                texts[-1] = "\n".join(open_)
    sent = [SENT.match(text) for text in texts]
    return [found[1] for found in sent if found]


@pytest.fixture
def watched(server: embedded.Running) -> Callable[[Database], tuple[str, dict[Path, int]]]:
    """Has the server log every statement of a database from now on."""

    def begin(database: Database) -> tuple[str, dict[Path, int]]:
        name = str(psycopg.conninfo.conninfo_to_dict(database.conninfo("kat_owner"))["dbname"])
        database.close()
        with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(sql.Identifier(name)))
        return name, {path: path.stat().st_size for path in (server.data_dir / "log").glob("*.log")}

    return begin


@pytest.mark.parametrize("kind", ["downgrade", "upgrade"])
def test_what_is_printed_is_what_is_run(
    kind: str,
    used: Database,
    database: Database,
    chosen: Settings,
    server: embedded.Running,
    watched: Callable[[Database], tuple[str, dict[Path, int]]],
) -> None:
    place = used if kind == "downgrade" else database
    if kind == "upgrade":
        changekit.fill(database)
    config = changekit.newer() if kind == "upgrade" else None
    to = LAST if kind == "upgrade" else None
    dry = Told()
    name, start = watched(place)
    run.change(chosen, place, Wish(kind=kind, to=to, dry_run=True), dry, config=config)  # type: ignore[arg-type]
    place.close()
    for text in logged(server, name, start):
        if not SCRATCH.match(text):
            assert READING.match(text), text
            assert not MACHINERY.match(text), text

    name, start = watched(place)
    told = Told()
    run.change(chosen, place, Wish(kind=kind, to=to, yes=True, backup=False), told, config=config)  # type: ignore[arg-type]
    place.close()
    assert told.found is not None
    assert dry.sql
    left = list(dry.sql)
    repeated = {step.batches.do for step in told.found.plan.steps if step.batches is not None}
    for text in logged(server, name, start):
        if left and text == left[0]:
            left.pop(0)
        elif text not in repeated and not SCRATCH.match(text):
            assert MACHINERY.match(text) or READING.match(text), text
            # A step may be a SELECT of a function; none is run that was not printed.
            assert not re.search(r"\bparked\.\w+\(", text), text
    assert left == []


def test_the_script_has_every_text_to_the_letter(used: Database, chosen: Settings) -> None:
    dry = Told()
    run.change(chosen, used, Wish(kind="downgrade", dry_run=True), dry)
    assert dry.found is not None
    script = "\n".join(shown.script(dry.found))
    at = 0
    for text in dry.sql:
        at = script.index(f"{text};", at) + len(text)

"""A release after the one under test, and what a person at a terminal would see and say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
from alembic.config import Config
from psycopg import sql
from sqlalchemy import text

from kattegat import settings
from kattegat.lifecycle.way import Way
from kattegat.schema.journal import Progress
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store import server as embedded
from kattegat.store.database import Database

NEWER = Path(__file__).parents[1] / "store" / "newer"
LAST = "t3"


def newer() -> Config:
    """Alembic's configuration of a release that has two revisions more."""
    made = migrate.config()
    own = Path(migrate.INI).parent / "migrations" / "versions"
    made.set_main_option("version_locations", f"{own}:{NEWER}")
    return made


def settings_for(folder: Path, running: embedded.Running) -> Settings:
    """Settings of an install of its own whose database is on the test server."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(running.data_dir / "secrets" / "kat_admin", secrets / "kat_admin")
    return msgspec.structs.replace(settings.load({"KAT_DATA_DIR": str(folder)}))


class Told:
    """Keeps what was said; `at` is called at each moment of a step, `answer` is what is typed."""

    def __init__(self, at: Callable[[Progress], None] = lambda _: None, answer: bool = True) -> None:
        self.found: Way | None = None
        self.numbers: dict[str, int] = {}
        self.sql: list[str] = []
        self.said: list[str] = []
        self.asked: list[str] = []
        self.steps: list[Progress] = []
        self._at, self._answer = at, answer

    def plan(self, found: Way, numbers: dict[str, int]) -> None:
        self.found, self.numbers = found, numbers

    def dry(self, found: Way) -> None:
        self.sql = found.plan.statements()

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def step(self, progress: Progress) -> None:
        self.steps.append(progress)
        self._at(progress)

    def part(self, what: str, done: int, total: int) -> None:
        return None

    def ask(self, question: str) -> bool:
        self.asked.append(question)
        return self._answer


def fill(database: Database) -> None:
    """Rows in tables that the newer release changes."""
    with database.begin("kat_system") as connection:
        for code in ("one", "two"):
            number = connection.execute(
                text("INSERT INTO organisation (code, name) VALUES (:code, :code) RETURNING id"), {"code": code}
            ).scalar_one()
            connection.execute(
                text(
                    "INSERT INTO asset (organisation_id, type, key)"
                    " SELECT :o, 'Hostname', concat('host', n, '.example') FROM generate_series(1, 50) AS n"
                ),
                {"o": number},
            )


# Everything that a change or a mistake could alter: catalogue and rows, of our schemas too.
CATALOGUE = """
    SELECT coalesce(md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C")), '') FROM (
        SELECT concat_ws('|', 'class', n.nspname, c.relname, c.relkind, c.relowner::regrole, c.relacl) AS line
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('public', 'parked', 'lifecycle')
        UNION ALL SELECT concat_ws('|', 'column', attrelid::regclass, attname, atttypid::regtype, atttypmod, attnotnull)
            FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace IN
                (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'parked', 'lifecycle'))) AND attnum > 0
        UNION ALL SELECT concat_ws('|', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid),
            convalidated) FROM pg_constraint
        UNION ALL SELECT concat_ws('|', 'trigger', tgrelid::regclass, tgname, tgenabled, pg_get_triggerdef(oid))
            FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT concat_ws('|', 'function', oid::regprocedure, md5(prosrc)) FROM pg_proc
            WHERE pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'parked', 'lifecycle'))
        UNION ALL SELECT concat_ws('|', 'index', indexrelid::regclass, indisvalid) FROM pg_index
    ) AS lines
"""
LISTED = """
    SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'parked', 'lifecycle') AND c.relkind IN ('r', 'S') ORDER BY 1, 2
"""


def state(dsn: str) -> str:
    """Catalogue and every row of a database, sequences included, as one text: equal texts mean that nothing changed."""
    with psycopg.connect(dsn) as connection:
        parts = [str(connection.execute(CATALOGUE).fetchone())]
        for schema, name, kind in connection.execute(LISTED).fetchall():
            rows = "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {} t"
            query = sql.SQL("SELECT last_value, is_called FROM {}" if kind == "S" else rows)
            parts.append(f"{schema}.{name} {connection.execute(query.format(sql.Identifier(schema, name))).fetchone()}")
    return "\n".join(parts)


def owner(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    """A connection as the owner of the tables."""
    return psycopg.connect(database.conninfo("kat_owner"))

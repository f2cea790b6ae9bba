"""No revision without its way back: rendered, stored, signed, classed, and gone there and back with boundary rows.

Over every revision of this release, whatever it is called, and over two of tests/store/newer, so that the gate is seen
to work while a release has but one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Connection

from kattegat.schema import ledger, rows, snapshot, stored
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Loss
from kattegat.schema.stored import SET_REVISION, PlanKey
from kattegat.store import migrate, partition, revisions
from kattegat.store import server as embedded
from kattegat.store.database import ROLES, Database

HERE = Path(__file__).parent
OWN = migrate.INI.parent / "migrations" / "versions"


def helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kat_tests_fill", HERE.parent / "lifecycle" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["kat_tests_fill"] = made
    spec.loader.exec_module(made)
    return made


fill = helper()


def config(*, newer: bool) -> Config:
    made = migrate.config()
    if newer:
        made.set_main_option("version_locations", f"{OWN}:{HERE / 'newer'}")
    return made


def pairs() -> list[tuple[str, str]]:
    """(revision, the one it follows) of every revision but the first, which has nothing to go back to."""
    found = revisions.files(config(newer=True))
    return [(name, str(script.down_revision)) for name, script in found.items() if script.down_revision is not None]


@pytest.fixture
def empty(server: embedded.Running) -> Iterator[Database]:
    """A database with a ledger and no schema."""
    name = "gate_" + Path(str(id(object()))).name
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner").format(sql.Identifier(name)))
        made = Database({role: server.dsn(role, name) for role in ROLES}, login=True)
        try:
            yield made
        finally:
            made.close()
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Walk:
    """Goes from revision to revision in one transaction."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.key = PlanKey.generate()
        ledger.install(connection)

    def _config(self) -> Config:
        made = migrate.copied(config(newer=True), self.connection)
        made.attributes["plan_key"] = self.key
        return made

    def up(self, to: str) -> Snapshot:
        command.upgrade(self._config(), to)
        if to == migrate.head():
            partition.ensure(self.connection)
        return snapshot.read(self.connection)

    def down(self, to: str) -> Snapshot:
        command.downgrade(self._config(), to)
        return snapshot.read(self.connection)


@pytest.mark.parametrize(("revision", "follows"), pairs())
def test_a_revision_is_stored_classed_and_goes_there_and_back_with_boundary_rows(
    empty: Database, revision: str, follows: str
) -> None:
    with empty.engine("kat_owner").begin() as connection:
        walk = Walk(connection)
        before = walk.up(follows)
        partition.ensure(connection)
        fill.fill(connection, before)
        older = rows.fingerprints(connection, before)
        after = walk.up(revision)

        row = stored.read(connection, revision)
        stored.verify(row, walk.key)
        assert row.follows == follows
        assert row.shape_before() == before
        assert row.shape_after() == after
        plan = row.plan()
        assert plan.steps[-1].kind == SET_REVISION
        assert len(plan.steps) > 1 or before == after, "the schema changes, and the way back does nothing"
        for step in plan.steps:
            assert step.loss in get_args(Loss)
            assert step.words
            assert step.do or step.undo
        named = [name for table in (before, after) for name in table.tables]
        assert all(name in named for step in plan.steps for name in step.tables)

        # Straight back, every row is what it was; and up again, what upgrade() had made of them.
        newer = rows.fingerprints(connection, after)
        assert walk.down(follows) == before
        assert rows.fingerprints(connection, before) == older
        assert walk.up(revision) == after
        assert rows.fingerprints(connection, after) == newer

        # With rows that only the newer schema can hold, three times there and back.
        fill.fill(connection, after)
        full = fill.contents(connection, after)
        for _ in range(3):
            assert walk.down(follows) == before
            assert walk.up(revision) == after
            assert fill.contents(connection, after) == full


def test_the_whole_chain_goes_back_to_its_first_revision_and_up_again(empty: Database) -> None:
    with empty.engine("kat_owner").begin() as connection:
        walk = Walk(connection)
        first = walk.up(migrate.head())
        partition.ensure(connection)
        last = walk.up("head")
        fill.fill(connection, last)
        full = fill.contents(connection, last)
        assert walk.down(migrate.head()) == first
        fill.fill(connection, first)
        assert walk.up("head") == last
        for table, had in full.items():
            assert set(had) <= set(fill.contents(connection, last, [table])[table]), table


def test_an_upgrade_that_drops_what_it_should_park_is_seen(empty: Database, tmp_path: Path) -> None:
    body = (
        "from alembic import op\nfrom kattegat.schema.operations import way_back\nrevision = 'bad'\n"
        f"down_revision = {migrate.head()!r}\n\ndef upgrade():\n    op.drop_column('organisation_group', 'position')\n"
        "\ndef downgrade():\n    way_back(revision)\n"
    )
    (tmp_path / "bad.py").write_text(body)
    with empty.engine("kat_owner").begin() as connection:
        walk = Walk(connection)
        before = walk.up(migrate.head())
        partition.ensure(connection)
        fill.fill(connection, before)
        older = rows.fingerprints(connection, before)
        own = migrate.copied(migrate.config(), connection)
        own.set_main_option("version_locations", f"{OWN}:{tmp_path}")
        own.attributes["plan_key"] = walk.key
        command.upgrade(own, "bad")
        command.downgrade(own, migrate.head())
        assert rows.fingerprints(connection, before)["public.organisation_group"] != older["public.organisation_group"]


def test_every_stored_way_back_of_a_fresh_install_is_signed_with_its_key(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        found = stored.everything(connection)
        assert [row.revision for row in found] == list(revisions.files())
        key = PlanKey.load(migrate.key_path())
        for row in found:
            stored.verify(row, key)


def test_the_filler_gives_every_column_of_every_table_a_value(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        shape = snapshot.read(connection)
        made: dict[str, int] = fill.fill(connection, shape)
        assert made.keys() == shape.tables.keys() - {"public.alembic_version"}
        count: Callable[[str], object] = lambda query: connection.exec_driver_sql(query).scalar()  # noqa: E731
        assert count("SELECT count(DISTINCT state) FROM task") == 7
        assert count("SELECT count(*) FROM asset WHERE declared_clearance IS NULL") != 0
        assert count("SELECT max(length(item)) FROM finding") == 2000

"""The operations for Alembic, as another project would use them: its own tables, its own revisions, its own env.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from kattegat.schema import ledger, scratch, snapshot, stored
from kattegat.schema.operations import NothingParkedError, NotReversibleError
from kattegat.schema.shrink import NoSuchThingError
from kattegat.schema.stored import PlanKey, SchemaDriftError, TamperedPlanError
from kattegat.store import server as embedded

ENV = """
from alembic import context
from kattegat.schema import operations

connection = context.config.attributes["connection"]
key = context.config.attributes["key"]
context.configure(connection=connection, plan_key=key)
fn = context.get_context().opts["fn"]
context.configure(connection=connection, plan_key=key, fn=operations.recorded(fn, release="shop 1"))
with context.begin_transaction():
    context.run_migrations()
"""
HEAD = """
import sqlalchemy as sa
from alembic import op
from kattegat.schema.hints import Hints

revision = {revision!r}
down_revision = {follows!r}

def downgrade():
    op.way_back(revision)
"""
FIRST = """
def upgrade():
    op.execute("CREATE TABLE customer (id bigint PRIMARY KEY, name text NOT NULL, note text, born date)")
    op.execute("CREATE INDEX customer_note ON customer (note)")
    op.execute("CREATE TABLE visit (id bigint PRIMARY KEY, customer bigint NOT NULL REFERENCES customer (id))")
    op.execute("CREATE VIEW noted AS SELECT id, note FROM customer")
"""
SECOND = """
hints = Hints(fill={"public.customer.mail": "name || '@unknown.test'"})

def upgrade():
    op.park_column("customer", "note")
    op.park_table("visit")
    op.add_column("customer", sa.Column("mail", sa.Text()))
    op.execute("UPDATE customer SET mail = name || '@x.test'")
    op.alter_column("customer", "mail", nullable=False)
"""
THIRD = """
def upgrade():
    op.unpark("public.customer.note")
    op.unpark("public.visit")
"""
ROWS = "SELECT id, name, note FROM customer ORDER BY id"


class Project:
    """Alembic's folder of some project."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self.connection = connection
        self.key = PlanKey.generate()
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(ENV)
        self.folder = folder
        self.config = Config()
        self.config.set_main_option("script_location", str(folder))
        self.config.attributes.update(connection=connection, key=self.key)
        for number, body in enumerate((FIRST, SECOND, THIRD), 1):
            self.add(str(number), str(number - 1) if number > 1 else None, body)

    def add(self, revision: str, follows: str | None, body: str) -> None:
        head = HEAD.format(revision=revision, follows=follows)
        (self.folder / "versions" / f"r{revision}.py").write_text(dedent(head + body))

    def up(self, to: str) -> None:
        command.upgrade(self.config, to)

    def down(self, to: str) -> None:
        command.downgrade(self.config, to)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.connection.execute(text(query))]


@pytest.fixture
def project(tmp_path: Path, server: embedded.Running) -> Iterator[Project]:
    with scratch.database(server.dsn("kat_admin", "postgres")) as place, place.engine.begin() as connection:
        ledger.install(connection)
        yield Project(tmp_path / "shop", connection)


def test_what_is_parked_comes_back_with_every_value(project: Project) -> None:
    project.up("1")
    first = snapshot.read(project.connection)
    project.connection.execute(text("INSERT INTO customer VALUES (1, 'ann', 'likes 100% tea'), (2, 'bob', NULL)"))
    project.connection.execute(text("INSERT INTO visit VALUES (7, 1)"))
    project.up("2")
    second = snapshot.read(project.connection)
    assert set(second.tables["public.customer"].columns) == {"id", "name", "born", "mail"}
    assert "public.visit" not in second.tables
    assert "public.noted" not in second.views
    project.connection.execute(text("INSERT INTO customer (id, name, mail) VALUES (3, 'cid', 'cid@shop.test')"))
    project.down("1")
    assert snapshot.read(project.connection) == first
    assert project.rows(ROWS) == [(1, "ann", "likes 100% tea"), (2, "bob", None), (3, "cid", None)]
    assert project.rows("SELECT * FROM visit") == [(7, 1)]
    project.connection.execute(text("INSERT INTO customer VALUES (4, 'dot', 'new')"))
    project.up("2")
    assert snapshot.read(project.connection) == second
    assert project.rows("SELECT name, mail FROM customer ORDER BY id") == [
        ("ann", "ann@x.test"),
        ("bob", "bob@x.test"),
        ("cid", "cid@shop.test"),
        ("dot", "dot@unknown.test"),
    ]


def test_unpark_brings_back_by_name(project: Project) -> None:
    project.up("1")
    project.connection.execute(text("INSERT INTO customer VALUES (1, 'ann', 'tea')"))
    project.connection.execute(text("INSERT INTO visit VALUES (7, 1)"))
    project.up("3")
    assert project.rows(ROWS) == [(1, "ann", "tea")]
    assert project.rows("SELECT * FROM visit") == [(7, 1)]
    project.down("2")
    assert "note" not in snapshot.read(project.connection).tables["public.customer"].columns
    project.down("1")
    assert project.rows(ROWS) == [(1, "ann", "tea")]


def test_each_way_back_is_stored_signed_and_ends_with_its_revision(project: Project) -> None:
    project.up("3")
    rows = stored.everything(project.connection)
    assert [(row.revision, row.follows, row.release) for row in rows] == [
        ("1", None, "shop 1"),
        ("2", "1", "shop 1"),
        ("3", "2", "shop 1"),
    ]
    for row in rows:
        stored.verify(row, project.key)
    assert [row.plan().steps[-1].kind for row in rows[1:]] == ["set revision"] * 2
    assert rows[0].plan().steps == ()
    taken = ledger.next_id(project.connection)
    assert taken == max(row.plan().next_id for row in rows)


def test_a_change_by_hand_stops_the_way_back(project: Project) -> None:
    project.up("2")
    project.connection.execute(text("ALTER TABLE customer ADD COLUMN surprise text"))
    with pytest.raises(SchemaDriftError, match=r"customer\.surprise: this column is not expected") as refused:
        project.down("1")
    assert len(refused.value.differences) == 1


def test_a_changed_plan_is_not_run(project: Project) -> None:
    project.up("2")
    project.connection.execute(text("UPDATE lifecycle.plan SET document = replace(document, 'mail', 'name')"))
    with pytest.raises(TamperedPlanError):
        project.down("1")
    assert project.rows("SELECT version_num FROM alembic_version") == [("2",)]


def test_nothing_is_before_the_first_revision(project: Project) -> None:
    project.up("1")
    with pytest.raises(NotReversibleError, match="is the first one"):
        project.down("base")


@pytest.mark.parametrize(
    ("operation", "error", "said"),
    [
        ('park_column("customer", "nose")', NoSuchThingError, "no column nose to park"),
        ('park_column("nobody", "nose")', NoSuchThingError, "no table public.nobody"),
        ('park_table("nobody")', NoSuchThingError, "no table public.nobody to park"),
        ('unpark("public.customer.nose")', NothingParkedError, "Nothing is parked as public.customer.nose"),
    ],
)
def test_what_is_not_there_is_one_sentence(project: Project, operation: str, error: type[Exception], said: str) -> None:
    project.add("2b", "1", f"\ndef upgrade():\n    op.{operation}\n")
    project.up("1")
    with pytest.raises(error, match=said):
        project.up("2b")


def test_a_merge_of_two_lines_has_no_one_way_back(project: Project) -> None:
    project.add("2b", "1", "\ndef upgrade():\n    pass\n")
    (project.folder / "versions" / "merge.py").write_text(
        "revision = 'm'\ndown_revision = ('2', '2b')\ndef upgrade():\n    pass\ndef downgrade():\n    pass\n"
    )
    with pytest.raises(NotReversibleError, match="put the revisions in one line"):
        project.up("m")

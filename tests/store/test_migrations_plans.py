"""The plan of an upgrade or a way back before the database is touched, and what is run of it by the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import text

from kattegat.schema import fence, journal, runs, snapshot, stored
from kattegat.schema.operations import NotReversibleError
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan
from kattegat.schema.stored import PlanKey, SchemaDriftError
from kattegat.store import migrate, revisions
from kattegat.store import server as embedded
from kattegat.store.database import Database
from kattegat.store.release import ChangeUnderWayError
from kattegat.store.revisions import NoSuchRevisionError, WrongDirectionError

OWN = migrate.INI.parent / "migrations" / "versions"
HEAD = migrate.head()


@pytest.fixture
def newer() -> Config:
    """Alembic's configuration of a release with two revisions more."""
    made = migrate.config()
    made.set_main_option("version_locations", f"{OWN}:{Path(__file__).parent / 'newer'}")
    return made


@pytest.fixture
def key() -> PlanKey:
    return PlanKey.open(migrate.key_path())


Up = Callable[[str], Plan]


@pytest.fixture
def up(database: Database, server: embedded.Running, newer: Config, key: PlanKey) -> Up:
    admin = server.dsn("kat_admin", "postgres")
    return lambda to: revisions.way_up(database, to, admin=admin, key=key, config=newer)


def shape(database: Database) -> Snapshot:
    with database.engine("kat_owner").connect() as connection:
        return snapshot.read(connection)


def at(database: Database) -> str | None:
    with database.engine("kat_owner").connect() as connection:
        return migrate.current(connection)


def run(database: Database, plan: Plan, *, cancel_after: int | None = None) -> None:
    with database.engine("kat_owner").connect() as connection:
        fence.close(connection)
        with connection.begin():
            number = runs.begin(connection, "test", plan, by_whom="test", host="here")
        journal.go(connection, number, until=cancel_after)
        if cancel_after is not None:
            journal.cancel(connection, number)
        with connection.begin():
            runs.end(connection, number)
        fence.open_(connection)
        connection.invalidate()


def written(database: Database) -> tuple[object, ...]:
    """What a dry run must not change."""
    with database.engine("kat_owner").connect() as connection:
        query = (
            "SELECT (SELECT last_value FROM parked.id), (SELECT count(*) FROM lifecycle.plan),"
            " (SELECT count(*) FROM lifecycle.run), (SELECT last_value FROM lifecycle.epoch),"
            " (SELECT pg_current_xact_id_if_assigned() IS NULL)"
        )
        return tuple(connection.execute(text(query)).one())


def test_a_plan_up_changes_nothing_and_leads_where_it_says(database: Database, up: Up) -> None:
    before, quiet = shape(database), written(database)
    plan = up("t3")
    assert written(database) == quiet
    assert shape(database) == before
    assert plan.source == before.fingerprint()
    run(database, plan)
    assert shape(database).fingerprint() == plan.target
    assert at(database) == "t3"


def test_an_upgrade_in_steps_stores_the_same_ways_back_as_one_by_alembic(
    database: Database, make_database: Callable[[], Database], up: Up, newer: Config, key: PlanKey
) -> None:
    run(database, up("t3"))
    other = make_database()
    with other.begin("kat_owner") as connection:
        given = migrate.copied(newer, connection)
        given.attributes["plan_key"] = key
        from alembic import command

        command.upgrade(given, "head")
    with database.begin("kat_owner") as one, other.begin("kat_owner") as two:
        here, there = stored.everything(one), stored.everything(two)
    assert [row.message() for row in here] == [row.message() for row in there]
    assert shape(database) == shape(other)


def test_an_index_built_concurrently_is_a_step_of_its_own(up: Up) -> None:
    plan = up("t2")
    alone = [step for step in plan.steps if step.alone]
    assert len(alone) == 1
    assert "CREATE INDEX CONCURRENTLY ix_asset_label" in alone[0].do[1]
    assert all("CONCURRENTLY" not in sql for step in plan.steps if not step.alone for sql in (*step.do, *step.undo))
    assert "key || ' 100%'" in "".join(plan.steps[0].do)
    assert plan.steps[-1].kind == "store way back"


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_an_upgrade_cancelled_after_any_step_has_left_no_trace(database: Database, up: Up, done: int) -> None:
    before = shape(database)
    parked = text("SELECT count(*) FROM parked.entry WHERE state = 'parked'")
    watching = text("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^_kat_(watch|swept)'")
    with database.begin("kat_owner") as connection:
        was = connection.execute(parked).scalar_one()
        watched = connection.execute(watching).scalar_one()
    with database.begin("kat_system") as connection:
        connection.execute(text("INSERT INTO organisation_group (name, position) VALUES ('a', 7)"))
    plan = up("t2")
    assert len(plan.steps) == 4
    run(database, plan, cancel_after=done)
    assert shape(database) == before
    assert at(database) == HEAD
    with database.engine("kat_owner").connect() as connection:
        assert connection.execute(text("SELECT position FROM organisation_group")).scalar() == 7
        assert connection.execute(parked).scalar_one() == was
        assert connection.execute(watching).scalar_one() == watched
        assert [row.revision for row in stored.everything(connection)] == list(revisions.files())
    run(database, up("t2"))
    assert at(database) == "t2"


def test_there_and_back_through_the_journal(database: Database, up: Up, key: PlanKey) -> None:
    before = shape(database)
    run(database, up("t3"))
    after = shape(database)
    # As the older release, which has no file of t2 and t3.
    back = revisions.way_back(database, HEAD, key=key)
    assert [step.kind for step in back.steps].count("set revision") == 2
    run(database, back)
    assert shape(database) == before
    assert at(database) == HEAD
    again = up("t3")
    assert again == back.reverse()
    run(database, again)
    assert shape(database) == after


def test_what_can_not_be_planned_is_one_sentence(database: Database, up: Up, key: PlanKey, newer: Config) -> None:
    with pytest.raises(NoSuchRevisionError, match="There is no revision zz; there are: 0001"):
        up("zz")
    with pytest.raises(NoSuchRevisionError, match="There is no revision t2"):
        revisions.way_back(database, "t2", key=key)
    with pytest.raises(NotReversibleError, match="Before the first revision there is no install"):
        revisions.way_back(database, "base", key=key)
    with pytest.raises(WrongDirectionError, match="that way is kat upgrade"):
        revisions.way_back(database, "t2", key=key, config=newer)
    run(database, up("t2"))
    with pytest.raises(WrongDirectionError, match="that way is kat downgrade"):
        up(HEAD)
    assert up("t2").steps == ()


def test_a_schema_changed_by_hand_is_not_planned_over(database: Database, up: Up, key: PlanKey) -> None:
    run(database, up("t2"))
    with database.engine("kat_owner").begin() as connection:
        connection.execute(text("ALTER TABLE asset ALTER COLUMN type TYPE varchar(99)"))
    for plan in (lambda: up("t3"), lambda: revisions.way_back(database, HEAD, key=key)):
        with pytest.raises(SchemaDriftError, match=r"public\.asset\.type: type is character varying\(99\)"):
            plan()


def test_the_list_of_revisions_says_what_is_stored_and_where_we_are(database: Database, up: Up, key: PlanKey) -> None:
    run(database, up("t3"))
    run(database, revisions.way_back(database, "t2", key=key))
    with database.begin("kat_owner") as connection:
        found = {one.revision: one for one in revisions.listing(connection)}
    assert found[HEAD].file
    assert not found["t2"].file
    assert found["t2"].current
    assert not found["t2"].back
    assert found["t3"].back
    assert found["t3"].follows == "t2"
    assert found["t3"].release is not None


def test_a_start_on_another_revision_says_what_to_type(database: Database, up: Up, newer: Config) -> None:
    with pytest.raises(migrate.SchemaOlderError, match="needs t3: type `kat upgrade`"):
        migrate.prepare(database, given=newer)
    run(database, up("t3"))
    with pytest.raises(migrate.SchemaNewerError, match=r"revision t3: install release .* or type `kat downgrade`"):
        migrate.prepare(database)
    with database.engine("kat_owner").begin() as connection:
        connection.execute(text("SELECT setval('lifecycle.epoch', last_value + 1) FROM lifecycle.epoch"))
    with pytest.raises(ChangeUnderWayError, match="kat upgrade --resume"):
        migrate.prepare(database)


def test_a_revision_of_which_nothing_is_stored_is_said_to_be_so(database: Database) -> None:
    with database.engine("kat_owner").begin() as connection:
        connection.execute(text("ALTER TABLE alembic_version DISABLE TRIGGER USER"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrate.SchemaUnknownError, match="revision 9999, which this release"):
        migrate.prepare(database)

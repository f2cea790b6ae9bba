"""The fence in the database: who gets through, who is refused, who is ended, and that nothing is left half done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, text

from kattegat.schema import fence
from kattegat.store import migrate, partition, server
from kattegat.store.database import Database
from kattegat.store.tables import PARTITIONED, metadata

INSERT = "INSERT INTO organisation (code, name) VALUES (%s, 'x')"


@pytest.fixture
def owner(database: Database) -> Iterator[Connection]:
    """The session of a change; it is not given back to the pool, since it may still hold the fence."""
    with database.engine("kat_owner").connect() as connection:
        yield connection
        connection.invalidate()


def name_of(database: Database) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(database.conninfo("kat_owner"))["dbname"])


def session(database: Database, epoch: int | None, role: str = "kat_system") -> psycopg.Connection:
    made = psycopg.connect(database.conninfo(role), autocommit=True)  # type: ignore[arg-type]
    if epoch is not None:
        made.execute("SELECT set_config('kat.epoch', %s, false)", (str(epoch),))
    return made


def refused(connection: psycopg.Connection, statement: str = INSERT, values: tuple[str, ...] | None = ("r",)) -> str:
    with pytest.raises(psycopg.Error) as raised:
        connection.execute(statement.encode(), values)
    assert raised.value.sqlstate == fence.WRONG, raised.value
    return str(raised.value.diag.message_primary)


def test_every_table_and_partition_is_fenced_always(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        rows = connection.execute(
            text(
                "SELECT c.relname, t.tgenabled, t.tgtype FROM pg_class c LEFT JOIN pg_trigger t ON t.tgrelid = c.oid"
                " AND t.tgname = :name WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
            ),
            {"name": fence.TRIGGER},
        ).all()
    # 62: a statement trigger, before INSERT, DELETE, UPDATE and TRUNCATE.
    assert {(row.tgenabled, row.tgtype) for row in rows if row.relname != "alembic_version"} == {("A", 62)}
    assert {table.name for table in metadata.sorted_tables} < {row.relname for row in rows}
    assert any(row.relname.startswith("evidence_2") or row.relname[-8:-5].startswith("_2") for row in rows)


def test_a_partition_made_later_is_fenced_and_not_made_during_a_change(database: Database, owner: Connection) -> None:
    with database.begin("kat_owner") as connection:
        made = partition.ensure(connection, today=date(2031, 5, 1))
        assert len(made) == 5 * len(PARTITIONED)
        assert fence.install(connection, made) == []
    fence.close(owner)
    with pytest.raises(Exception, match="A change of release is under way"), database.begin("kat_owner") as connection:
        partition.ensure(connection, today=date(2035, 5, 1))
    fence.open_(owner)


def test_each_kind_of_write_is_refused_without_the_epoch_and_let_in_with_it(database: Database) -> None:
    writes = [
        (INSERT, ("a",)),
        ("UPDATE organisation SET name = 'y' WHERE false", None),
        ("DELETE FROM organisation WHERE false", None),
        ("MERGE INTO organisation USING (SELECT 1 WHERE false) s ON true WHEN MATCHED THEN DELETE", None),
        ("WITH made AS (INSERT INTO organisation (code, name) VALUES ('w', 'w') RETURNING 1) SELECT 1", None),
    ]
    with session(database, None) as none, session(database, 0) as right, session(database, 2) as wrong:
        for statement, values in writes:
            assert "has not learned which release" in refused(none, statement, values)
            assert "was changed after this session began" in refused(wrong, statement, values)
            right.execute(statement.encode(), values)
        with pytest.raises(psycopg.Error) as raised, none.cursor().copy("COPY organisation (code, name) FROM STDIN"):
            pass
        assert raised.value.sqlstate == fence.WRONG
    with session(database, None, "kat_owner") as none:
        refused(none, "TRUNCATE organisation CASCADE", None)


def test_a_session_that_plays_the_replica_is_refused_too(database: Database, server: server.Running) -> None:
    with psycopg.connect(server.dsn("kat_admin", name_of(database)), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        refused(admin)


@pytest.mark.parametrize("role", ["kat_app", "kat_system"])
def test_no_role_of_the_application_takes_the_fence_away(database: Database, role: str) -> None:
    attempts = [
        "CREATE OR REPLACE FUNCTION lifecycle.fence() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
        "CREATE FUNCTION lifecycle.other() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        f"ALTER TABLE organisation DISABLE TRIGGER {fence.TRIGGER}",
        f"DROP TRIGGER {fence.TRIGGER} ON organisation",
        "SET session_replication_role = replica",
        "SELECT setval('lifecycle.epoch', 8)",
        "UPDATE lifecycle.fact SET name = 'x'",
    ]
    with session(database, 0, role) as connection:
        for attempt in attempts:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(attempt.encode())
    with database.begin("kat_owner") as connection:
        owners = connection.execute(
            text(
                "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'lifecycle'::regnamespace"
            )
        ).scalars()
        assert list(owners) == ["kat_owner"]


def test_a_change_writes_alone_and_afterwards_only_who_learns_anew(database: Database, owner: Connection) -> None:
    with session(database, 0) as old, session(database, 1) as guessing:
        assert fence.close(owner) == 1
        assert "under way" in refused(old)
        with pytest.raises(psycopg.Error):
            # The epoch alone is not enough while the change holds the lock.
            guessing.execute("SET statement_timeout = '300ms'; INSERT INTO organisation (code, name) VALUES ('g', 'g')")
        with owner.begin():
            owner.execute(text("INSERT INTO install (id) SELECT 1 WHERE false"))
        seen = fence.state(owner)
        owner.rollback()
        assert (seen.epoch, seen.open, seen.writers) == (1, False, ())
        assert fence.open_(owner) == 2
        assert "was changed after this session began" in refused(old)
        assert "was changed after this session began" in refused(guessing)
    with owner.begin(), pytest.raises(Exception, match=r"has not learned|was changed"):
        owner.execute(text("UPDATE organisation SET name = 'late'"))
    with session(database, 2) as new:
        new.execute(INSERT, ("n",))


def test_a_snapshot_from_before_the_change_does_not_help(database: Database, owner: Connection) -> None:
    with session(database, 0) as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM organisation")
        fence.close(owner)
        fence.open_(owner)
        assert "kat status" in refused(old)
        old.execute("ROLLBACK")


def test_a_writer_ends_its_transaction_before_the_change_begins(database: Database, owner: Connection) -> None:
    with session(database, 0) as writer:
        writer.execute("BEGIN")
        writer.execute(INSERT, ("w",))
        done = threading.Event()

        def close() -> None:
            fence.close(owner, seconds=60)
            done.set()

        thread = threading.Thread(target=close)
        thread.start()
        with session(database, 0) as looking:
            while not looking.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone():
                pass
        # It has been let in, so it may finish; the change waits.
        writer.execute(INSERT, ("x",))
        assert not done.is_set()
        writer.execute("COMMIT")
        thread.join()
        assert "under way" in refused(writer)
        assert fence.open_(owner) == 2


def test_who_does_not_end_is_named_and_ended(database: Database, owner: Connection) -> None:
    told: list[str] = []
    with session(database, 0) as writer:
        writer.execute("SET application_name = 'sleeper'")
        writer.execute("BEGIN")
        writer.execute(INSERT, ("w",))
        fence.close(owner, seconds=0.2, tell=told.append)
        assert len(told) == 1
        assert "'sleeper' of kat_system" in told[0]
        with pytest.raises(psycopg.OperationalError):
            writer.execute("COMMIT")
    fence.open_(owner)
    with session(database, 2) as reader:
        assert reader.execute("SELECT count(*) FROM organisation").fetchone() == (0,)


def test_whom_we_may_not_end_is_named_with_what_to_do(
    database: Database, owner: Connection, server: server.Running
) -> None:
    with psycopg.connect(server.dsn("kat_admin", name_of(database))) as admin:
        admin.execute("SELECT set_config('kat.epoch', '0', false)")
        admin.execute(INSERT, ("w",))
        with pytest.raises(fence.HoldersError, match=r"of kat_admin; .*only a superuser or a member") as raised:
            fence.close(owner, seconds=0.2)
        assert [holder.pid for holder in raised.value.holders] == [admin.info.backend_pid]
        admin.execute(INSERT, ("x",))
        admin.commit()
    assert fence.epoch(owner) == 0


def test_a_change_that_is_called_off_lets_those_go_on_who_waited(database: Database, owner: Connection) -> None:
    with session(database, 0) as writer, session(database, 0) as waiting:
        writer.execute("BEGIN")
        writer.execute(INSERT, ("w",))
        with owner.begin():
            owner.execute(text("SET lock_timeout = '1s'"))
        with pytest.raises(Exception, match="lock timeout"), owner.begin():
            owner.execute(text("SELECT pg_advisory_lock(:key)"), {"key": fence.KEY})
        waiting.execute(INSERT, ("v",))
        writer.execute("COMMIT")


def test_prepared_transactions_are_named_and_nothing_is_closed(run_dir: Path, pg_bin: Path | None) -> None:
    folder = run_dir / "prepared"
    running = server.ensure(folder, durable=False, binaries=pg_bin)
    with psycopg.connect(running.dsn("kat_admin"), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
    server.stop(folder)
    database = Database.embedded(server.ensure(folder, durable=False, binaries=pg_bin))
    try:
        migrate.prepare(database)
        with session(database, 0) as writer:
            writer.execute("BEGIN")
            writer.execute(INSERT, ("p",))
            writer.execute("PREPARE TRANSACTION 'forgotten'")
            with database.engine("kat_owner").connect() as connection:
                with pytest.raises(fence.PreparedTransactionsError, match="forgotten") as raised:
                    fence.close(connection)
                assert raised.value.names == ("forgotten",)
                writer.execute(INSERT, ("q",))
                writer.execute("COMMIT PREPARED 'forgotten'")
                assert fence.close(connection) == 1
                assert fence.open_(connection) == 2
    finally:
        database.close()
        server.stop(folder, "immediate")


def test_a_change_that_was_killed_is_taken_up_and_its_rest_writes_no_more(
    database: Database, owner: Connection
) -> None:
    with database.engine("kat_owner").connect() as killed:
        assert fence.close(killed) == 1
        with pytest.raises(fence.ChangeRunsError, match="Another change of release runs"):
            fence.close(owner, seconds=0.1)
        # Its tool is gone, its session is not.
        assert fence.close(owner, resume=True, seconds=0.1) == 3
        killed.invalidate()
    with session(database, 1) as rest, session(database, 0) as old:
        assert "under way" in refused(rest)
        assert "under way" in refused(old)
    assert fence.open_(owner) == 4


def test_a_killed_change_leaves_the_fence_closed(database: Database, owner: Connection) -> None:
    with database.engine("kat_owner").connect() as killed:
        fence.close(killed)
        killed.invalidate()
    with session(database, 0) as old, session(database, None) as none:
        assert "--resume if it was broken off" in refused(old)
        assert "under way" in refused(none)
    seen = fence.state(owner)
    owner.rollback()
    assert (seen.open, seen.change) == (False, None)
    assert fence.close(owner) == 3
    assert fence.open_(owner) == 4


def test_only_who_closed_it_opens_it(database: Database, owner: Connection) -> None:
    with pytest.raises(fence.FenceError, match="not closed by this session"):
        fence.open_(owner)


def test_tables_that_a_change_made_are_fenced_when_it_opens(database: Database, owner: Connection) -> None:
    fence.close(owner)
    with owner.begin():
        owner.execute(text("CREATE TABLE added (id int)"))
        owner.execute(text("GRANT ALL ON added TO kat_system"))
    fence.open_(owner, ["added"])
    with session(database, 0) as old:
        refused(old, "INSERT INTO added VALUES (1)", None)


def test_one_database_closed_leaves_the_others_open(make_database: Callable[[], Database], owner: Connection) -> None:
    fence.close(owner)
    with session(make_database(), 0) as other:
        other.execute(INSERT, ("o",))
    fence.open_(owner)


def test_a_given_server_where_all_share_a_login(server: server.Running) -> None:
    name = "fence_given"
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'given' IN ROLE kat_owner, kat_app, kat_system".encode())
        admin.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
        info = psycopg.conninfo.conninfo_to_dict(server.dsn("kat_admin", name))
        database = Database.at(f"postgresql://{name}:given@/{name}?host={info['host']}&port={info['port']}")
        try:
            migrate.prepare(database)
            writer = session(database, 0)
            writer.execute("SET ROLE kat_system")
            writer.execute("BEGIN")
            writer.execute(INSERT, ("a",))
            with database.engine("kat_owner").connect() as connection:
                told: list[str] = []
                fence.close(connection, seconds=0.2, tell=told.append)
                assert [f"of {name}, which" in line for line in told] == [True]
                assert fence.open_(connection) == 2
            with pytest.raises(psycopg.OperationalError):
                writer.execute("COMMIT")
            writer.close()
        finally:
            database.close()
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))

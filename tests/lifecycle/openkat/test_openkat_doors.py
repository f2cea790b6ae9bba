"""The door of a part's database: nobody comes in while it is closed, and it opens exactly as it was."""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from kattegat.lifecycle.openkat import doors, place
from kattegat.lifecycle.openkat.doors import DoorError, SessionsLeftError
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.place import Place
from kattegat.schema import ledger

STATE = """
    SELECT d.datconnlimit, d.datallowconn, array(
        SELECT concat_ws(' ', a.grantee::regrole, a.privilege_type, a.is_grantable)
        FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a ORDER BY 1)
    FROM pg_database AS d WHERE datname = %s
"""


def state(admin: Dsn, name: str) -> object:
    with psycopg.connect(admin.conninfo()) as connection:
        return connection.execute(STATE, [name]).fetchone()


def found(part_dsn: Dsn, admin: Dsn | None = None) -> Place:
    """The place with its ledger made."""
    where = place.find("scheduler", part_dsn.login(admin) if admin else part_dsn)
    with where.session() as connection, connection.begin():
        ledger.install(connection)
    return where


def refused(dsn: Dsn) -> str:
    """What the server says to a container that comes back."""
    with pytest.raises(psycopg.OperationalError) as raised:
        psycopg.connect(dsn.conninfo())
    return str(raised.value)


def test_a_superuser_takes_connect_from_everybody_and_gives_back_what_was(make_part, admin) -> None:
    dsn = make_part("scheduler", "0010")
    reader = f"{dsn.user}_reader"
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'sesame'").format(sql.Identifier(reader)))
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {} WITH GRANT OPTION").format(
                sql.Identifier(dsn.database), sql.Identifier(reader)
            )
        )
    try:
        before = state(admin, dsn.database)
        where = found(dsn, admin)
        assert where.superuser
        assert where.owner == dsn.user
        with closing(where.connect()) as connection:
            assert doors.close(where, connection).closed
            assert "permission denied for database" in refused(dsn)
            assert "permission denied for database" in refused(dsn.with_(user=reader))
            doors.close(where, connection)
        with closing(doors.enter(where)) as connection:
            assert doors.look(where, connection).closed
            assert doors.open_(where, connection)
            assert not doors.open_(where, connection)
        assert state(admin, dsn.database) == before
        psycopg.connect(dsn.conninfo()).close()
    finally:
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(
                    sql.Identifier(dsn.database), sql.Identifier(reader)
                )
            )
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(reader)))


def test_the_parts_own_login_closes_its_database_to_all_and_comes_in_again(make_part, admin) -> None:
    dsn = make_part("scheduler", "0010")
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 40").format(sql.Identifier(dsn.database)))
    before = state(admin, dsn.database)
    where = found(dsn)
    assert not where.superuser
    with closing(where.connect()) as connection:
        assert doors.close(where, connection).closed
        assert "too many connections for database" in refused(dsn)
    with closing(doors.enter(where)) as connection:
        assert "too many connections for database" in refused(dsn)
        with closing(doors.enter(where)) as another:
            assert doors.look(where, another).closed
        assert doors.open_(where, connection)
    assert state(admin, dsn.database) == before


def test_a_container_that_always_comes_back_does_not_keep_us_out(make_part, admin) -> None:
    dsn = make_part("scheduler", "0010")
    where = found(dsn)
    with closing(where.connect()) as connection:
        doors.close(where, connection, terminate=True)
    stop = threading.Event()
    inside: list[psycopg.Connection[object]] = []

    def container() -> None:
        while not stop.is_set():
            try:
                inside.append(psycopg.connect(dsn.conninfo()))  # type: ignore[arg-type]
            except psycopg.OperationalError:
                stop.wait(0.002)

    threads = [threading.Thread(target=container) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with closing(doors.enter(where)) as connection:
                doors.close(where, connection, terminate=True)
                assert not doors.look(where, connection).sessions
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for one in inside:
            one.close()


@pytest.mark.parametrize("by_admin", [True, False])
def test_sessions_are_named_and_ended_only_when_told(make_part, admin, by_admin: bool) -> None:
    dsn = make_part("scheduler", "0010")
    where = found(dsn, admin if by_admin else None)
    mula = psycopg.connect(dsn.conninfo(), application_name="mula")
    with closing(mula), closing(where.connect()) as connection:
        with pytest.raises(SessionsLeftError, match=r"mula\) from here.*--terminate") as raised:
            doors.close(where, connection)
        assert [session.pid for session in raised.value.sessions] == [mula.info.backend_pid]
        assert doors.look(where, connection).closed
        assert mula.execute("SELECT 1").fetchone() == (1,)
        assert not doors.close(where, connection, terminate=True).sessions
        with pytest.raises(psycopg.OperationalError):
            mula.execute("SELECT 1")
        doors.open_(where, connection)


def test_a_login_that_owns_nothing_closes_nothing(make_part, admin) -> None:
    dsn = make_part("scheduler", "0010")
    where = found(dsn)
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO kat_admin").format(sql.Identifier(dsn.database)))
    before = state(admin, dsn.database)
    with closing(where.connect()) as connection, pytest.raises(DoorError, match="with --admin"):
        doors.close(where, connection)
    assert state(admin, dsn.database) == before


def test_a_superuser_as_owner_is_told_of(make_part, admin) -> None:
    dsn = make_part("scheduler", "0010")
    where = found(dsn, admin)
    with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(dsn.user)))
    with closing(where.connect()) as connection:
        assert doors.close(where, connection).past == (dsn.user,)


def test_a_dsn_of_another_part_is_refused(make_part) -> None:
    dsn = make_part("katalogus", "fdeaea4481b8")
    with pytest.raises(place.WrongPartError, match=r"is KATalogus's; give the DSN of the scheduler \(Mula\)"):
        place.find("scheduler", dsn)

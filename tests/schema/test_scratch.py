"""Scratch databases on a real server: made, dropped, swept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kattegat.schema import ddl, scratch, snapshot
from kattegat.schema.shape import Constraint, Policy, Snapshot, differences
from kattegat.store import server as embedded


@pytest.fixture
def admin(server: embedded.Running) -> str:
    return server.dsn("kat_admin", "postgres")


@pytest.fixture
def maker(admin: str, server: embedded.Running) -> Iterator[str]:
    """A login that may make databases and is no superuser."""
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("CREATE ROLE scratch_maker LOGIN CREATEDB PASSWORD 'secret'")
        try:
            yield psycopg.conninfo.make_conninfo(admin, user="scratch_maker", password="secret")
        finally:
            connection.execute("DROP ROLE scratch_maker")


def databases(admin: str) -> set[str]:
    with psycopg.connect(admin) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database").fetchall()}


def test_it_is_there_and_gone(admin: str) -> None:
    with scratch.database(admin, owner="kat_owner") as place:
        assert place.name in databases(admin)
        assert "password" not in repr(place)
        with place.engine.connect() as connection:
            owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
            assert connection.exec_driver_sql(owner).scalar_one() == "kat_owner"
            assert snapshot.read(connection) == Snapshot()
    assert place.name not in databases(admin)


def test_it_goes_though_somebody_is_connected_and_something_failed(admin: str) -> None:
    made = scratch.database(admin)
    place = made.__enter__()
    left = psycopg.connect(place.conninfo)
    assert not made.__exit__(RuntimeError, RuntimeError("mine"), None)
    assert place.name not in databases(admin)
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    left.close()


def test_a_template_is_copied(admin: str) -> None:
    with scratch.database(admin) as first:
        with first.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (a integer)")
        with scratch.database(admin, template=first.name) as second, second.engine.connect() as connection:
            assert list(snapshot.read(connection).tables) == ["public.t"]


def test_a_login_without_the_right_is_told_what_is_missing(server: embedded.Running) -> None:
    with pytest.raises(scratch.ScratchError) as caught, scratch.database(server.dsn("kat_owner", "postgres")):
        pass
    assert "permission denied to create database" in str(caught.value)
    assert "CREATEDB" in str(caught.value)
    assert str(caught.value).count(". ") == 0


def test_no_right_is_needed_but_createdb(maker: str, admin: str) -> None:
    with scratch.database(maker) as place, place.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a integer)")
        assert snapshot.read(connection).tables["public.t"].owner == "scratch_maker"
    assert place.name not in databases(admin)


def test_what_a_killed_process_left_is_swept_and_what_is_in_use_stays(admin: str) -> None:
    program = (
        "import os, sys, signal\nfrom kattegat.schema import scratch\n"
        "with scratch.database(sys.argv[1]) as place:\n"
        "    print(place.name, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, admin], capture_output=True, text=True, check=False)
    left = done.stdout.strip()
    assert left.startswith(scratch.PREFIX), done.stderr
    assert done.returncode < 0
    with scratch.database(admin) as mine:
        # The server notices the end of a killed client's connection in its own time.
        with psycopg.connect(admin, autocommit=True) as connection:
            key = "SELECT pg_advisory_lock(%s, hashtext(%s))"
            connection.execute(key, [scratch._LOCK, left])
            connection.execute("SELECT pg_advisory_unlock_all()")
        with psycopg.connect(admin, autocommit=True) as connection:
            scratch.sweep(connection)
        there = databases(admin)
        assert mine.name in there
        assert left not in there


def test_sweeping_leaves_what_belongs_to_others(admin: str, maker: str) -> None:
    name = scratch.PREFIX + "of_the_admin"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(maker, autocommit=True) as other:
            assert name not in scratch.sweep(other)
        # Some other test's own sweep may have come first.
        scratch.sweep(connection)
        assert name not in databases(admin)


def test_a_snapshot_is_normalised_to_this_server(admin: str) -> None:
    with scratch.database(admin) as place, place.engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (a integer CONSTRAINT ck CHECK (a > 1 AND a < 9), s serial);"
            "CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
            "CREATE VIEW v AS SELECT t.a FROM t; CREATE SEQUENCE q; CREATE TYPE e AS ENUM ('x'); CREATE DOMAIN d AS e;"
            "CREATE POLICY p ON t USING (a > 0); GRANT SELECT ON t TO kat_app"
        )
        want = snapshot.read(connection)
    assert scratch.normalise(admin, want) == want
    table = want.tables["public.t"]
    typed = Constraint("check", "CHECK (a>1 AND a<9)", ("a",), expression="a>1 AND a<9")
    elsewhere = replace(
        table,
        constraints={"ck": typed},
        owner="nobody_here",
        grants={"nobody_here_either": ("SELECT",)},
        policies={"p": replace(table.policies["p"], roles=("not_here",))},
    )
    found = scratch.normalise(admin, replace(want, tables={"public.t": elsewhere}))
    one = found.tables["public.t"]
    assert one.constraints == table.constraints
    assert (one.owner, one.grants) == ("nobody_here", {"nobody_here_either": ("SELECT",)})
    assert one.policies["p"] == Policy(roles=("not_here",), using="(a > 0)", columns=("a",))
    assert differences(replace(found, tables={}), replace(want, tables={})) == []


def test_a_schema_without_words_is_refused(admin: str) -> None:
    with pytest.raises(ddl.CannotBuildError, match="the rule r") as caught:
        scratch.normalise(admin, Snapshot(other=("the rule r of public.t",)))
    assert caught.value.reasons == ("the rule r of public.t",)


def test_the_connection_string_keeps_everything_but_the_database(admin: str) -> None:
    with scratch.database(admin) as place:
        have, want = conninfo_to_dict(place.conninfo), conninfo_to_dict(admin)
        assert have.pop("dbname") == place.name
        want.pop("dbname")
        assert have == want

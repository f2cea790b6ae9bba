"""A PostgreSQL server of the user's own (KAT_DATABASE_URL): one login that takes the three roles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from kattegat import settings
from kattegat.store import migrate, server
from kattegat.store.database import Database, DatabaseUnreachableError, open_database

MakeUrl = Callable[[str], str]


@pytest.fixture
def url(server: server.Running) -> Iterator[MakeUrl]:
    """Call it with attributes of a login; gives the URL of an empty database that the login owns."""
    name = f"given_{os.getpid()}"
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:

        def make(attributes: str) -> str:
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'given' {attributes}".encode())
            connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
            info = psycopg.conninfo.conninfo_to_dict(server.dsn("kat_admin", name))
            return f"postgresql://{name}:given@/{name}?host={info['host']}&port={info['port']}"

        yield make
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_superuser_makes_what_is_needed_and_the_application_stays_held(url: MakeUrl) -> None:
    database = Database.at(url("SUPERUSER"))
    try:
        assert migrate.prepare(database) == migrate.head()
        assert migrate.prepare(database) == migrate.head()
        with database.begin("kat_system") as connection:
            number = connection.execute(
                text("INSERT INTO organisation (code, name) VALUES ('a', 'a') RETURNING id")
            ).scalar_one()
        with database.begin("kat_app") as connection:
            assert connection.execute(text("SELECT count(*) FROM organisation")).scalar() == 0
        with database.begin("kat_app", [number]) as connection:
            assert connection.execute(text("SELECT count(*) FROM organisation")).scalar() == 1
        with pytest.raises(ProgrammingError, match="permission denied"), database.begin("kat_app") as connection:
            connection.execute(text("SELECT * FROM runner"))
    finally:
        database.close()


def test_a_login_that_may_not_make_roles_is_told_so_in_one_sentence(url: MakeUrl) -> None:
    database = Database.at(url("NOSUPERUSER"))
    with psycopg.connect(database.conninfo("kat_owner")) as connection:
        member = connection.execute("SELECT pg_has_role(current_user, 'kat_owner', 'MEMBER')").fetchone()
    assert member == (False,)
    with pytest.raises(migrate.RolesError, match="needs to be a member of kat_owner, kat_app and kat_system"):
        migrate.prepare(database)
    database.close()


def test_a_server_that_does_not_answer_is_one_sentence() -> None:
    chosen = settings.load({"KAT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    with pytest.raises(DatabaseUnreachableError, match="KAT_DATABASE_URL leads to no server that answers"):
        open_database(chosen)

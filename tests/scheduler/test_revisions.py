"""From revision to revision with rows in the tables: nothing is lost, and what is new is filled in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import Connection, text

from kattegat.scheduler import dispatch
from kattegat.store import migrate, partition, server
from kattegat.store.database import ROLES, Database


@pytest.fixture
def empty(server: server.Running) -> Iterator[Database]:
    """A database without a schema."""
    name = f"revisions_{os.getpid()}"
    with psycopg.connect(server.dsn("kat_admin", "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner").format(sql.Identifier(name)))
        made = Database({role: server.dsn(role, name) for role in ROLES}, login=True)
        yield made
        made.close()
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def to(database: Database, revision: str) -> None:
    with database.engine("kat_owner").begin() as connection:
        back = (migrate.current(connection) or "") > revision
        (command.downgrade if back else command.upgrade)(migrate.config(connection), revision)


def seed(conn: Connection) -> None:
    """Rows of revision 0001: organisations with sources, schedules and tasks in every state."""
    conn.execute(text("INSERT INTO organisation (code, name) SELECT c, c FROM unnest(ARRAY['a', 'b']) c"))
    conn.execute(
        text(
            "INSERT INTO asset (organisation_id, type, key, present)"
            " SELECT o.id, 'Hostname', n || '.test', true FROM organisation o, generate_series(1, 6) n"
        )
    )
    conn.execute(
        text("INSERT INTO source (organisation_id, scanner, asset_id) SELECT organisation_id, 'dns', id FROM asset")
    )
    conn.execute(
        text(
            "INSERT INTO schedule (organisation_id, id, every, requested_by) SELECT organisation_id, id,"
            " interval '1 day', CASE WHEN id % 2 = 0 THEN 'piet (command line)' ELSE '' END FROM source"
        )
    )
    conn.execute(
        text(
            "INSERT INTO task (organisation_id, kind, source_id, scanner, priority, state, lease_until, lease_token)"
            " SELECT s.organisation_id, 'scan', s.id, 'dns', 10 * (s.id % 3), t.state, now(), 7 FROM source s"
            " JOIN unnest(ARRAY['queued', 'leased', 'done', 'failed', 'dead', 'cancelled']) WITH ORDINALITY"
            " AS t(state, n) ON t.n = 1 + s.id % 6"
        )
    )
    conn.execute(
        text(
            "INSERT INTO task (organisation_id, kind, scanner, state) SELECT id, 'sweep', '', 'queued'"
            " FROM organisation, generate_series(1, 5)"
        )
    )


def test_0002_gives_every_task_a_turn(empty: Database) -> None:
    to(empty, "0001")
    with empty.begin("kat_owner") as conn:
        partition.ensure(conn)
    with empty.begin("kat_owner") as conn:
        seed(conn)
        before = conn.execute(text("SELECT id, state, priority FROM task ORDER BY id")).all()
    to(empty, "0002")
    with empty.begin("kat_owner") as conn:
        assert conn.execute(text("SELECT id, state, priority FROM task ORDER BY id")).all() == before
        sweeps = conn.execute(
            text("SELECT organisation_id, turn FROM task WHERE kind = 'sweep' ORDER BY turn, organisation_id")
        ).all()
    assert [row.turn for row in sweeps] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [row.organisation_id for row in sweeps[:2]] != [sweeps[0].organisation_id] * 2


def test_0002_and_back_and_again(empty: Database) -> None:
    to(empty, "0001")
    with empty.begin("kat_owner") as conn:
        partition.ensure(conn)
        seed(conn)
        before = rows(conn)
    to(empty, "0002")
    with empty.begin("kat_owner") as conn:
        conn.execute(text("INSERT INTO pause (level, reason, set_by) VALUES ('install', 'why', 'piet')"))
        conn.execute(text("UPDATE task SET state = 'paused' WHERE state = 'queued' AND kind = 'scan'"))
        conn.execute(text("UPDATE runner SET drained_at = now(), drained_by = 'piet'"))
    to(empty, "0001")
    with empty.begin("kat_owner") as conn:
        assert rows(conn) == before
        assert conn.execute(text("SELECT to_regclass('public.pause')")).scalar_one() is None
        # The older release goes on working: it ends tasks in its own way, and makes new ones.
        conn.execute(text("UPDATE task SET state = 'done' WHERE state = 'queued' AND kind = 'sweep'"))
        conn.execute(text("INSERT INTO task (kind) VALUES ('backup')"))
    to(empty, "0002")
    with empty.begin("kat_owner") as conn:
        assert conn.execute(text("SELECT reason FROM pause")).scalar_one() == "why"
        states = dict(
            tuple(row) for row in conn.execute(text("SELECT kind || ' ' || state, count(*) FROM task GROUP BY 1"))
        )
        assert states["scan paused"] == 2
        assert states["sweep done"] == 10
        assert conn.execute(text("SELECT turn FROM task WHERE kind = 'backup'")).scalar_one() is not None


def rows(conn: Connection) -> list[tuple[object, ...]]:
    return [
        tuple(row)
        for row in conn.execute(text("SELECT id, kind, state, priority, run_after, reason FROM task ORDER BY id"))
    ]


def test_0003_splits_who_asked_and_puts_it_together_again(empty: Database) -> None:
    to(empty, "0001")
    with empty.begin("kat_owner") as conn:
        partition.ensure(conn)
        seed(conn)
        conn.execute(text("UPDATE schedule SET requested_by = 'anna' WHERE id % 4 = 0"))
        asked = requests(conn, "requested_by")
    to(empty, "0003")
    with empty.begin("kat_owner") as conn:
        assert set(requests(conn, "request_actor, request_way").values()) == {
            ("", ""),
            ("anna", ""),
            ("piet", "command line"),
        }
        changed = min(asked)
        conn.execute(
            text("UPDATE schedule SET request_actor = 'eva', request_way = 'API' WHERE id = :id"), {"id": changed}
        )
        conn.execute(text("INSERT INTO blocked (what, reason, set_by) VALUES ('example.org', 'theirs', 'piet')"))
        conn.execute(text("UPDATE evidence_root SET leaves = 5000000000"))
    to(empty, "0002")
    with empty.begin("kat_owner") as conn:
        assert requests(conn, "requested_by") == {**asked, changed: ("eva (API)",)}
        conn.execute(text("UPDATE schedule SET requested_by = 'otto (page)' WHERE id = :id"), {"id": changed})
    to(empty, "0003")
    with empty.begin("kat_owner") as conn:
        found = requests(conn, "request_actor, request_way")
        assert found[changed] == ("otto", "page")
        assert {dispatch.requested_by(*pair) for key, pair in found.items() if key != changed} == {
            pair[0] for key, pair in asked.items() if key != changed
        }
        assert conn.execute(text("SELECT reason FROM blocked")).scalar_one() == "theirs"


def requests(conn: Connection, columns: str) -> dict[int, tuple[str, ...]]:
    return {row[0]: tuple(row[1:]) for row in conn.execute(text(f"SELECT id, {columns} FROM schedule ORDER BY id"))}


def test_0004_names_the_blocklist_and_labels_runners(empty: Database) -> None:
    to(empty, "0001")
    with empty.begin("kat_owner") as conn:
        partition.ensure(conn)
        seed(conn)
    to(empty, "0003")
    with empty.begin("kat_owner") as conn:
        conn.execute(text("INSERT INTO blocked (what, reason, set_by) VALUES ('example.org', 'theirs', 'piet')"))
        conn.execute(
            text("INSERT INTO runner (name, token_hash, vantage) VALUES ('a', 'x', 'dmz'), ('b', 'y', 'internet')")
        )
    for _ in range(2):
        to(empty, "0004")
        with empty.begin("kat_owner") as conn:
            assert conn.execute(text("SELECT reason FROM blocklist")).scalar_one() == "theirs"
            labels = dict(tuple(row) for row in conn.execute(text("SELECT name, labels FROM runner ORDER BY name")))
            assert labels["a"] == ["dmz"]
            assert labels["b"] == ["internet"]
            assert labels.get("c", ["inside"]) == ["inside"]
            valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid = 'ix_task_ended'::regclass"
            assert conn.execute(text(valid)).scalar_one() is True
        to(empty, "0003")
        with empty.begin("kat_owner") as conn:
            assert conn.execute(text("SELECT what FROM blocked")).scalar_one() == "example.org"
            conn.execute(
                text(
                    "INSERT INTO runner (name, token_hash, vantage) VALUES ('c', 'z', 'inside') ON CONFLICT DO NOTHING"
                )
            )

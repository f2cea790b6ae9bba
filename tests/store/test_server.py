"""The embedded server, for real: each test that needs one makes, starts, breaks and stops a server of its own."""

from __future__ import annotations

from pathlib import Path

import psycopg

from kattegat.store import server as embedded


def test_database_is_owned_by_kat_owner_and_fresh(database, make_database):
    other = make_database()
    with psycopg.connect(database.conninfo("kat_owner")) as connection:
        connection.execute("CREATE TABLE only_here (id bigint)")
        connection.commit()
        assert connection.execute("SELECT current_user").fetchone() == ("kat_owner",)
    with psycopg.connect(other.conninfo("kat_owner")) as connection:
        assert connection.execute("SELECT to_regclass('only_here')").fetchone() == (None,)


def test_absent(tmp_path: Path):
    assert embedded.status(tmp_path / "none").state == embedded.State.ABSENT
    assert embedded.stop(tmp_path / "none") is False
    assert not (tmp_path / "none").exists()

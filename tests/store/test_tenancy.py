"""As the application, working for one organisation: what belongs to others or to all can't be changed or seen."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from kattegat.store.database import Database


@pytest.fixture
def two(database: Database) -> tuple[int, int]:
    """Organisations a and b, with settings at every level; b is in a group."""
    with database.begin("kat_system") as conn:
        a, b = (
            conn.execute(
                text("INSERT INTO organisation (code, name) VALUES (:code, :code) RETURNING id"), {"code": code}
            ).scalar_one()
            for code in "ab"
        )
        group = conn.execute(text("INSERT INTO organisation_group (name) VALUES ('g') RETURNING id")).scalar_one()
        conn.execute(text("INSERT INTO group_member VALUES (:group, :b)"), {"group": group, "b": b})
        conn.execute(
            text(
                "INSERT INTO setting (level, group_id, organisation_id, name, value, set_by) VALUES"
                " ('install', NULL, NULL, 'all', '1', 't'), ('group', :group, NULL, 'some', '1', 't'),"
                " ('organisation', NULL, :b, 'theirs', '1', 't'), ('organisation', NULL, :a, 'mine', '1', 't')"
            ),
            {"group": group, "a": a, "b": b},
        )
        conn.execute(
            text("INSERT INTO audit (organisation_id, actor, act, object) VALUES (:a, 't', 'x', 'y')"), {"a": a}
        )
    return a, b


def test_settings_of_all_and_of_ones_groups_are_seen(database: Database, two: tuple[int, int]) -> None:
    for organisation, names in zip(two, ({"all", "mine"}, {"all", "some", "theirs"}), strict=True):
        with database.begin("kat_app", [organisation]) as conn:
            assert set(conn.execute(text("SELECT name FROM setting")).scalars()) == names


@pytest.mark.parametrize(
    "attack",
    [
        "INSERT INTO setting (level, name, value, set_by) VALUES ('install', 'x', '1', 't')",
        "INSERT INTO setting (level, organisation_id, name, value, set_by) VALUES ('install', :a, 'x', '1', 't')",
        "INSERT INTO setting (level, organisation_id, name, value, set_by) VALUES ('organisation', :b, 'x', '1', 't')",
        "UPDATE setting SET level = 'install', organisation_id = NULL",
        "UPDATE setting SET organisation_id = :b",
        "DELETE FROM audit WHERE :a = :a",
        "UPDATE audit SET actor = 'somebody else'",
        "INSERT INTO group_member SELECT id, :a FROM organisation_group",
        "DELETE FROM group_member",
        "INSERT INTO asset (organisation_id, type, key) VALUES (:b, 'Hostname', 'x.test')",
        "INSERT INTO task (organisation_id, kind) VALUES (:b, 'scan')",
        "INSERT INTO task (kind) VALUES ('scan')",
        "SELECT * FROM runner",
        "SELECT * FROM task_event",
        "SET ROLE kat_system",
    ],
)
def test_what_is_not_the_organisations_is_refused(database: Database, two: tuple[int, int], attack: str) -> None:
    given = {name: number for name, number in zip("ab", two, strict=True) if f":{name}" in attack}
    with pytest.raises(DBAPIError, match=r"row-level security|permission denied"), database.begin(
        "kat_app", two[:1]
    ) as conn:  # fmt: skip
        conn.execute(text(attack), given)


def test_updates_reach_ones_own_settings_only(database: Database, two: tuple[int, int]) -> None:
    with database.begin("kat_app", two[:1]) as conn:
        assert conn.execute(text("UPDATE setting SET value = '2'")).rowcount == 1
        assert conn.execute(text("DELETE FROM setting")).rowcount == 1


@pytest.mark.parametrize("named", ["{2}", "1) OR true --", "1,x", "NULL", " ", "1,,2"])
def test_what_is_no_list_of_organisations_shows_nothing(database: Database, two: tuple[int, int], named: str) -> None:
    with database.begin("kat_app") as conn:
        conn.execute(text("SELECT set_config('kat.organisations', :named, true)"), {"named": named})
        with pytest.raises(DBAPIError, match="invalid input syntax"):
            conn.execute(text("SELECT * FROM organisation"))
        conn.rollback()

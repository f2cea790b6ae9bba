"""What was kept comes back after OpenKAT has migrated upwards by itself, as its own migrations do it."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from kattegat.cli import main as cli
from kattegat.lifecycle.openkat import facts, recognise
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.schema import ddl

# What OpenKAT's own upgrades do, by the facts, in our words.
OWN = {
    "0008": """
        CREATE TABLE schedules (id uuid PRIMARY KEY, scheduler_id varchar NOT NULL, hash varchar(32) UNIQUE,
            data jsonb NOT NULL, enabled boolean NOT NULL, schedule varchar, deadline_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(), modified_at timestamptz NOT NULL DEFAULT now());
        ALTER TABLE tasks ADD COLUMN schedule_id uuid, ADD COLUMN hash varchar(32), ADD COLUMN priority integer,
            ADD COLUMN data jsonb;
        UPDATE tasks SET data = p_item -> 'data', hash = p_item ->> 'hash', priority = (p_item ->> 'priority')::integer;
        ALTER TABLE tasks ALTER COLUMN data SET NOT NULL, ALTER COLUMN scheduler_id SET NOT NULL,
            ALTER COLUMN type SET NOT NULL;
        INSERT INTO schedules (id, scheduler_id, hash, data, enabled, schedule, deadline_at)
            SELECT DISTINCT ON (hash) gen_random_uuid(), scheduler_id, hash, data, true, '0 0 * * *', now() FROM tasks;
        UPDATE tasks SET schedule_id = s.id FROM schedules AS s WHERE s.hash = tasks.hash;
        ALTER TABLE tasks ADD CONSTRAINT tasks_schedule_id_fkey FOREIGN KEY (schedule_id) REFERENCES schedules (id)
            ON DELETE SET NULL;
        CREATE INDEX ix_tasks_hash ON tasks (hash);
        DROP INDEX ix_tasks_p_item_hash; ALTER TABLE tasks DROP COLUMN p_item; DROP TABLE items;
        UPDATE alembic_version SET version_num = '0008';
    """,
    "0009": """
        ALTER TABLE tasks ADD COLUMN organisation varchar; ALTER TABLE schedules ADD COLUMN organisation varchar;
        UPDATE tasks SET organisation = data ->> 'organization';
        UPDATE schedules SET organisation = data ->> 'organization';
        ALTER TABLE tasks ALTER COLUMN organisation SET NOT NULL;
        ALTER TABLE schedules ALTER COLUMN organisation SET NOT NULL;
        UPDATE alembic_version SET version_num = '0009';
    """,
    "0010": """
        CREATE INDEX ix_tasks_status_queued ON tasks (scheduler_id, status) WHERE status = 'QUEUED';
        UPDATE alembic_version SET version_num = '0010';
    """,
}
TASK = "00000000-0000-4000-8000-00000000000"


def kat(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = cli.main(["openkat", *arguments, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def migrate(dsn: Dsn, *revisions: str) -> None:
    with psycopg.connect(dsn.conninfo()) as connection:
        for revision in revisions:
            connection.execute(OWN[revision].encode())


def rows(dsn: Dsn, table: str) -> list[dict[str, Any]]:
    with psycopg.connect(dsn.conninfo()) as connection:
        found = connection.execute(f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY id").fetchall()  # type: ignore[arg-type]
    return [row[0] for row in found]


def test_the_scheduler_goes_down_to_1_16_and_up_by_its_own_migrations(make_part, capsys) -> None:
    dsn = make_part("scheduler", "0010")
    with psycopg.connect(dsn.conninfo()) as connection:
        data = json.dumps({"organization": "acme"})
        for number in range(3):
            connection.execute(
                "INSERT INTO schedules (id, scheduler_id, hash, data, enabled, schedule, organisation)"
                " VALUES (%s, 'boefje', %s, %s, %s, '5 4 * * *', 'acme')",
                [f"{TASK}{number}", f"h{number}", data, number != 1],
            )
        for number, status in enumerate(("QUEUED", "COMPLETED", "CANCELLED")):
            connection.execute(
                "INSERT INTO tasks (id, scheduler_id, status, type, schedule_id, hash, priority, data, organisation)"
                " VALUES (%s, 'boefje', %s, 'boefje', %s, %s, 3, %s, 'acme')",
                [f"{TASK}{number}", status, f"{TASK}{number}" if number else None, f"h{number}", data],
            )
    before = rows(dsn, "schedules"), rows(dsn, "tasks")
    given = ("--scheduler", dsn.conninfo())
    kat(capsys, "downgrade", *given, "--to", "1.16.0", "--yes", "--no-backup")
    kat(capsys, "open", *given)
    with psycopg.connect(dsn.conninfo()) as mula:
        assert mula.execute("SELECT count(*) FROM items").fetchone() == (1,)
        item = {
            "id": f"{TASK}7",
            "scheduler_id": "boefje-acme",
            "hash": "h7",
            "priority": 1,
            "data": {"organization": "acme"},
        }
        mula.execute(
            "INSERT INTO tasks (id, scheduler_id, status, type, p_item)"
            " VALUES (%s, 'boefje-acme', 'COMPLETED', 'boefje', %s)",
            [f"{TASK}7", json.dumps(item)],
        )
    migrate(dsn, "0008", "0009", "0010")
    assert len(rows(dsn, "schedules")) == 4

    found = kat(capsys, "unpark", *given)
    assert any("schedules" in one["what"] for one in found["unparked"])
    after = rows(dsn, "schedules"), rows(dsn, "tasks")
    kept = [row for row in after[0] if row["hash"] != "h7"]
    assert kept == before[0]
    assert [row for row in after[1] if row["id"] != f"{TASK}7"] == before[1]
    new = next(row for row in after[1] if row["id"] == f"{TASK}7")
    assert new["organisation"] == "acme"
    assert new["schedule_id"] == next(row["id"] for row in after[0] if row["hash"] == "h7")
    # Nothing of it is left behind, and the next way down begins anew.
    state = kat(capsys, "status", *given)["parts"]["scheduler"]
    assert not state["parked"]
    assert not state["differences"]
    assert kat(capsys, "unpark", *given)["unparked"] == []
    kat(capsys, "downgrade", *given, "--to", "1.18.2", "--yes", "--no-backup")
    kat(capsys, "upgrade", *given, "--to", "1.20.1", "--yes", "--no-backup")
    kat(capsys, "open", *given)
    assert rows(dsn, "tasks") == after[1]


def test_rows_that_went_meanwhile_stay_away(make_part, capsys) -> None:
    dsn = make_part("katalogus", "fdeaea4481b8", rows=6)
    given = ("--katalogus", dsn.conninfo())
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("UPDATE boefje SET deduplicate = false")
    kat(capsys, "downgrade", *given, "--to", "1.19.1", "--yes", "--no-backup")
    kat(capsys, "open", *given)
    with psycopg.connect(dsn.conninfo()) as connection:
        gone = connection.execute("DELETE FROM boefje WHERE id = (SELECT min(id) FROM boefje) RETURNING id").fetchone()
        connection.execute(
            "ALTER TABLE boefje ADD COLUMN deduplicate boolean NOT NULL DEFAULT true;"
            " ALTER TABLE organisation ADD COLUMN deduplicate boolean NOT NULL DEFAULT true;"
            " UPDATE alembic_version SET version_num = 'fdeaea4481b8'"
        )
    kat(capsys, "unpark", *given)
    with psycopg.connect(dsn.conninfo()) as connection:
        assert connection.execute("SELECT DISTINCT deduplicate FROM boefje").fetchall() == [(False,)]
        assert connection.execute("SELECT 1 FROM boefje WHERE id = %s", gone).fetchone() is None
    assert not kat(capsys, "status", *given)["parts"]["katalogus"]["differences"]


def test_forgetting_leaves_the_schema_of_the_release(make_part, capsys) -> None:
    dsn = make_part("scheduler", "0010", rows=5)
    given = ("--scheduler", dsn.conninfo())
    kat(capsys, "downgrade", *given, "--to", "1.16.0", "--yes", "--no-backup")
    kat(capsys, "open", *given)
    kat(capsys, "forget", *given, "--yes")
    with psycopg.connect(dsn.conninfo()) as connection:
        found = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname IN ('parked', 'lifecycle')"
        ).fetchall()
        assert found == []
        held = facts.shape("scheduler", "0007").tables["public.tasks"].columns
        names = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'tasks'::regclass AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
        assert {row[0] for row in names} == set(held)


def test_rocky_goes_down_to_1_18_and_up_by_its_own_migrations(make_part, capsys) -> None:
    dsn = make_part("rocky", "1.20.1")
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute(
            """
            INSERT INTO tools_organization (name, code) VALUES ('Acme', 'acme');
            INSERT INTO auth_group (name) VALUES ('admin'), ('redteam');
            INSERT INTO django_content_type (app_label, model) VALUES ('tools', 'organization'),
                ('crisis_room', 'dashboard'), ('crisis_room', 'dashboarditem');
            INSERT INTO auth_permission (name, content_type_id, codename) VALUES ('scan', 1, 'can_scan_organization'),
                ('schedules', 1, 'can_enable_disable_schedule'), ('view', 2, 'view_dashboard');
            INSERT INTO auth_group_permissions (group_id, permission_id) VALUES (1, 1), (1, 2), (2, 3);
            INSERT INTO crisis_room_dashboard (name, organization_id, created_at, updated_at)
                VALUES ('Mine', 1, now(), now()), ('Findings', 1, now(), now());
            INSERT INTO crisis_room_dashboarditem (template, position, display_in_crisis_room, display_in_dashboard,
                findings_dashboard, dashboard_id, created_at, name, query, source, updated_at)
                VALUES ('t', 1, true, true, false, 1, now(), 'one', '{}', 's', now()),
                       ('t', 1, true, true, true, 2, now(), 'two', '{}', 's', now())
            """
        )
    tables = ("crisis_room_dashboard", "crisis_room_dashboarditem")
    before = [rows(dsn, table) for table in tables]
    given = ("--rocky", dsn.conninfo())
    kat(capsys, "downgrade", *given, "--to", "1.18.2", "--yes", "--no-backup")
    kat(capsys, "open", *given)
    assert [row["codename"] for row in rows(dsn, "auth_permission")] == ["can_scan_organization"]
    shape = facts.shape("rocky", "1.20")
    small = type(shape)(tables={f"public.{table}": shape.tables[f"public.{table}"] for table in tables})
    with psycopg.connect(dsn.conninfo()) as connection:
        for statement in ddl.build(small):
            connection.execute(statement.encode())
        connection.execute(
            """
            INSERT INTO crisis_room_dashboard (name, organization_id, created_at, updated_at)
                VALUES ('Findings', 1, now(), now());
            INSERT INTO crisis_room_dashboarditem (template, position, display_in_crisis_room, display_in_dashboard,
                findings_dashboard, dashboard_id, created_at, name, query, source, updated_at)
                VALUES ('made up', 1, true, true, true, 1, now(), 'made up', '{}', 's', now());
            INSERT INTO django_content_type (app_label, model) VALUES ('crisis_room', 'dashboarditem'),
                ('crisis_room', 'dashboard');
            INSERT INTO auth_permission (name, content_type_id, codename)
                SELECT 'view', id, 'view_dashboard' FROM django_content_type WHERE model = 'dashboard';
            INSERT INTO auth_permission (name, content_type_id, codename)
                VALUES ('schedules', 1, 'can_enable_disable_schedule')
            """
        )
        missing = [(app, name) for app, names in recognise.migrations_of("1.20.1").items() for name in names]
        connection.cursor().executemany(
            "INSERT INTO django_migrations (app, name, applied) SELECT %(app)s::text, %(name)s::text, now()"
            " WHERE NOT EXISTS (SELECT 1 FROM django_migrations WHERE app = %(app)s AND name = %(name)s)",
            [{"app": app, "name": name} for app, name in missing],
        )
    assert cli.main(["openkat", "downgrade", *given, "--to", "1.18.2", "--yes", "--no-backup"]) == 3
    assert "kat openkat unpark" in " ".join(capsys.readouterr().err.split())
    kat(capsys, "unpark", *given)
    assert [rows(dsn, table) for table in tables] == before
    with psycopg.connect(dsn.conninfo()) as connection:
        grants = connection.execute(
            "SELECT g.name, p.codename FROM auth_group_permissions AS x JOIN auth_group AS g ON g.id = x.group_id"
            " JOIN auth_permission AS p ON p.id = x.permission_id ORDER BY 1, 2"
        ).fetchall()
        assert grants == [
            ("admin", "can_enable_disable_schedule"), ("admin", "can_scan_organization"), ("redteam", "view_dashboard"),
        ]  # fmt: skip
        # Numbers go on after those that have come back.
        connection.execute(
            "INSERT INTO crisis_room_dashboard (name, organization_id, created_at, updated_at)"
            " VALUES ('Another', 1, now(), now())"
        )
    assert not kat(capsys, "status", *given)["parts"]["rocky"]["differences"]

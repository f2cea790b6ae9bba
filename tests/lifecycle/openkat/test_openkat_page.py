"""The page "Downgrading OpenKAT with Kattegat", done: the scheduler alone, the whole install, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kattegat.cli import main as cli
from kattegat.lifecycle.openkat import facts
from kattegat.lifecycle.openkat.environment import Dsn

ORGANISATION = "acme"
TASK = "00000000-0000-4000-8000-00000000000"


def kat(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """What `kat openkat ...` ends with and says."""
    code = cli.main(["openkat", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code, out, err = kat(capsys, *arguments, "--json")
    assert out, err
    return code, json.loads(out)


def work(dsn: Dsn) -> None:
    """A scheduler in use: a schedule, a task in its queue, one done, one cancelled."""
    with psycopg.connect(dsn.conninfo()) as connection:
        data = json.dumps({"organization": ORGANISATION, "boefje": {"id": "nmap"}, "input_ooi": "Hostname|a.nl"})
        connection.execute(
            "INSERT INTO schedules (id, scheduler_id, hash, data, enabled, organisation)"
            " VALUES (%s, 'boefje', 'h1', %s, true, %s)",
            [f"{TASK}9", data, ORGANISATION],
        )
        for number, status in enumerate(("QUEUED", "COMPLETED", "CANCELLED"), 1):
            connection.execute(
                "INSERT INTO tasks (id, scheduler_id, status, type, schedule_id, hash, priority, data, organisation)"
                " VALUES (%s, 'boefje', %s, 'boefje', %s, 'h1', 5, %s, %s)",
                [f"{TASK}{number}", status, f"{TASK}9", data, ORGANISATION],
            )


def everything(dsn: Dsn, table: str) -> list[str]:
    with psycopg.connect(dsn.conninfo()) as connection:
        rows = connection.execute(f"SELECT to_jsonb(t)::text FROM {table} AS t").fetchall()  # type: ignore[arg-type]
    return sorted(str(row[0]) for row in rows)


def test_the_scheduler_at_0010_where_1_18_2_is_wanted(make_part, admin, capsys, tmp_path: Path) -> None:
    # The log of the 1.18.2 container says: Can't locate revision identified by '0010'.
    dsn = make_part("scheduler", "0010")
    work(dsn)
    before = everything(dsn, "tasks"), everything(dsn, "schedules")
    given = ("--scheduler", dsn.conninfo(), "--admin", admin.conninfo())

    code, found = document(capsys, "status", *given)
    assert code == 0
    assert found["verdict"]["words"] == "OpenKAT 1.19.0–1.20.1 and main"
    assert found["parts"]["scheduler"]["revision"] == "0010"
    assert not found["parts"]["scheduler"]["differences"]

    code, out, _ = kat(capsys, "plan", *given, "--to", "1.18.2")
    assert code == 0
    assert "scheduler: 0010 to 0009" in out
    assert "docker compose stop" in out
    assert everything(dsn, "alembic_version") == ['{"version_num": "0010"}']

    code, _, err = kat(capsys, "downgrade", *given, "--to", "1.18.2", "--backup-dir", str(tmp_path))
    assert code == 2
    assert "--yes" in err

    code, done = document(capsys, "downgrade", *given, "--to", "1.18.2", "--yes", "--backup-dir", str(tmp_path))
    assert code == 0
    assert done["passed"] == {"scheduler": ["0009", "0008"]}
    assert done["verdict"]["words"] == "OpenKAT 1.17.0–1.18.2"
    assert Path(done["backup"], "openkat.json").is_file()
    assert any("v1.18.2" in one["words"] for one in done["next"])

    # A container that comes back too early has to wait outside.
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(dsn.conninfo())
    code, out, _ = kat(capsys, "open", *given)
    assert (code, out.strip()) == (0, "Open: scheduler.")

    # What the 1.18.2 container asks its database when it starts, and what it reads and writes then.
    with psycopg.connect(dsn.conninfo()) as mula:
        assert mula.execute("SELECT version_num FROM alembic_version").fetchall() == [("0008",)]
        ids = mula.execute("SELECT DISTINCT scheduler_id FROM tasks WHERE status = 'QUEUED'").fetchall()
        assert ids == [(f"boefje-{ORGANISATION}",)]
        mula.execute(
            "INSERT INTO tasks (id, scheduler_id, status, type, hash, priority, data)"
            " VALUES (%s, %s, 'QUEUED', 'boefje', 'h2', 7, %s)",
            [f"{TASK}8", f"boefje-{ORGANISATION}", json.dumps({"organization": ORGANISATION})],
        )
        mula.execute("UPDATE tasks SET status = 'COMPLETED' WHERE id = %s", [f"{TASK}1"])

    # And up again, later.
    code, done = document(capsys, "upgrade", *given, "--to", "1.20.1", "--yes", "--no-backup")
    assert code == 0
    assert done["passed"] == {"scheduler": ["0009", "0010"]}
    assert kat(capsys, "open", *given)[0] == 0
    with psycopg.connect(dsn.conninfo()) as mula:
        rows = mula.execute(
            "SELECT id::text, scheduler_id, organisation, status::text FROM tasks ORDER BY id"
        ).fetchall()
    assert rows == [
        (f"{TASK}1", "boefje", ORGANISATION, "COMPLETED"),
        (f"{TASK}2", "boefje", ORGANISATION, "COMPLETED"),
        (f"{TASK}3", "boefje", ORGANISATION, "CANCELLED"),
        (f"{TASK}8", "boefje", ORGANISATION, "QUEUED"),
    ]
    assert everything(dsn, "schedules") == before[1]


@pytest.fixture
def whole(make_part) -> Any:
    """All four databases of an install of a release, with rows at the edges, and the options that name them."""

    def make(release: str, rows: int = 6) -> tuple[dict[str, Dsn], list[str]]:
        known = facts.release(release)
        found = {part: make_part(part, release if part == "rocky" else getattr(known, part), rows=rows)
                 for part in facts.PARTS}  # fmt: skip
        return found, [word for part, dsn in found.items() for word in (f"--{part}", dsn.conninfo())]

    return make


def test_a_whole_install_to_1_15_and_back(whole, admin, capsys, tmp_path: Path, contents) -> None:
    dsns, given = whole("1.20.1")
    given += ["--admin", admin.conninfo()]
    shapes = {part: facts.shape(part, facts.revision_of(part, "1.20.1")) for part in facts.PARTS}

    def held() -> dict[str, Any]:
        found = {}
        for part, dsn in dsns.items():
            with psycopg.connect(dsn.conninfo()) as connection:
                found[part] = contents(connection, shapes[part])
        return found

    before = held()
    code, found = document(capsys, "status", *given)
    assert (code, found["verdict"]["words"]) == (0, "OpenKAT 1.20.0–1.20.1 and main")
    code, done = document(capsys, "downgrade", *given, "--to", "1.15.1", "--yes", "--backup-dir", str(tmp_path))
    assert code == 0
    assert done["verdict"]["words"] == "OpenKAT 1.15.0–1.15.1"
    code, found = document(capsys, "verify", done["backup"], *given)
    assert code == 0
    assert kat(capsys, "open", *given)[0] == 0
    code, done = document(capsys, "upgrade", *given, "--to", "1.20.1", "--yes", "--no-backup")
    assert code == 0
    assert kat(capsys, "open", *given)[0] == 0
    assert held() == before


def test_mixed_versions_are_named_and_mended(whole, capsys) -> None:
    dsns, given = whole("1.18.2", rows=0)
    code, done = document(
        capsys, "upgrade", "--scheduler", dsns["scheduler"].conninfo(), "--to", "1.19.1", "--yes", "--no-backup"
    )
    assert code == 0
    code, _, err = kat(capsys, "open", *given)
    assert code == 3
    assert "mixed versions" in err
    code, out, _ = kat(capsys, "status", *given)
    assert code == 4
    assert "mixed versions: katalogus, bytes and rocky are of OpenKAT 1.18.0–1.18.2, but scheduler is at 0010" in (
        " ".join(out.split())
    )
    assert "`kat openkat downgrade --to 1.18.2` takes it to 0008" in out
    code, done = document(capsys, "downgrade", *given, "--to", "1.18.2", "--yes", "--no-backup")
    assert code == 0
    assert done["verdict"]["words"] == "OpenKAT 1.18.0–1.18.2"
    assert kat(capsys, "open", *given)[0] == 0


def test_sessions_stop_a_change_until_they_are_ended(make_part, capsys) -> None:
    dsn = make_part("scheduler", "0010")
    given = ("--scheduler", dsn.conninfo(), "--to", "1.18.2", "--yes", "--no-backup")
    with psycopg.connect(dsn.conninfo(), application_name="mula") as mula:
        code, _, err = kat(capsys, "downgrade", *given)
        assert code == 3
        assert "mula" in err
        assert "--terminate" in err
        code, _, _ = kat(capsys, "downgrade", *given, "--terminate")
        assert code == 0
        with pytest.raises(psycopg.OperationalError):
            mula.execute("SELECT 1")


def test_a_schema_that_is_not_its_revisions_is_refused(make_part, capsys) -> None:
    dsn = make_part("scheduler", "0010")
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("ALTER TABLE tasks ADD COLUMN mine text")
    code, found = document(capsys, "status", "--scheduler", dsn.conninfo())
    assert code == 3
    assert found["parts"]["scheduler"]["differences"] == ["public.tasks.mine: this column is not expected"]
    code, _, err = kat(capsys, "downgrade", "--scheduler", dsn.conninfo(), "--to", "1.18.2", "--yes", "--no-backup")
    assert code == 3
    assert "public.tasks.mine: this column is not expected" in err
    psycopg.connect(dsn.conninfo()).close()


def test_what_can_not_be_a_target_is_said(make_part, capsys) -> None:
    dsn = make_part("rocky", "1.20.1")
    given = ("--rocky", dsn.conninfo(), "--yes")
    code, _, err = kat(capsys, "downgrade", *given, "--to", "1.14.0")
    assert code == 2
    assert "kat openkat snapshot rocky --release 1.14.0" in err
    code, _, err = kat(capsys, "downgrade", *given, "--to", "3.0")
    assert code == 2
    assert "not in the table" in err
    code, _, err = kat(capsys, "upgrade", *given, "--to", "1.18.2")
    assert code == 2
    assert "older than what rocky is at" in " ".join(err.split())


def test_a_change_that_is_done_can_be_taken_back_before_the_doors_open(make_part, admin, capsys, contents) -> None:
    dsn = make_part("bytes", "1dde0213e9fe", rows=5)
    shape = facts.shape("bytes", "1dde0213e9fe")
    with psycopg.connect(dsn.conninfo()) as connection:
        before = contents(connection, shape)
    given = ("--bytes", dsn.conninfo(), "--admin", admin.conninfo(), "--yes", "--no-backup")
    code, _, _ = kat(capsys, "downgrade", *given, "--to", "1.9.0")
    assert code == 0
    code, out, _ = kat(capsys, "cancel", *given[:-2])
    assert code == 0
    assert "bytes is at 1dde0213e9fe again" in out
    assert kat(capsys, "open", *given[:-2])[0] == 0
    with psycopg.connect(dsn.conninfo()) as connection:
        assert contents(connection, shape) == before


def test_a_backup_is_restored_in_the_place_of_the_database(make_part, admin, capsys, tmp_path: Path) -> None:
    dsn = make_part("scheduler", "0010")
    work(dsn)
    given = ("--scheduler", dsn.conninfo(), "--admin", admin.conninfo())
    before = everything(dsn, "tasks")
    code, made = document(capsys, "backup", *given, "--folder", str(tmp_path))
    assert code == 0
    with psycopg.connect(dsn.conninfo()) as connection:
        connection.execute("DELETE FROM tasks")
    code, found = document(capsys, "restore", made["backup"], *given, "--yes")
    assert code == 0
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(dsn.conninfo())
        assert kat(capsys, "open", *given)[0] == 0
        assert everything(dsn, "tasks") == before
    finally:
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{found["kept"]["scheduler"]}" WITH (FORCE)')  # type: ignore[arg-type]

"""A change of release from beginning to end: there and back, interrupted, refused, dry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from kattegat.lifecycle import backup, history, run
from kattegat.lifecycle.run import Wish
from kattegat.schema import fence, journal, runs, snapshot
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store import release as this_code
from kattegat.store import server as embedded
from kattegat.store.database import Database

sys.path.insert(0, str(Path(__file__).parent))
import changekit
from changekit import LAST, Told

UP = Wish(kind="upgrade", to=LAST, yes=True, backup=False)
BACK = Wish(kind="downgrade", yes=True, backup=False)


@pytest.fixture
def filled(database: Database) -> Database:
    """Rows in tables that the newer release changes."""
    changekit.fill(database)
    return database


def shape(database: Database) -> str:
    with database.begin("kat_owner") as connection:
        return snapshot.read(connection).fingerprint()


def revision(database: Database) -> str | None:
    with database.begin("kat_owner") as connection:
        return migrate.current(connection)


def go(chosen: Settings, database: Database, wish: Wish, told: Told | None = None) -> run.Outcome | None:
    return run.change(
        chosen, database, wish, told or Told(), config=changekit.newer() if wish.kind == "upgrade" else None
    )


def test_there_and_back(chosen: Settings, filled: Database) -> None:
    before = shape(filled)
    told = Told()
    there = go(chosen, filled, UP, told)
    assert there is not None
    assert (there.state, there.revision, revision(filled)) == ("done", LAST, LAST)
    assert told.found is not None
    assert [p.number for p in told.steps if p.moment == "done"] == list(range(1, len(told.found.plan.steps) + 1))
    assert not told.asked
    with filled.begin("kat_owner") as connection:
        assert connection.execute(text("SELECT count(*) FROM asset WHERE label = key || ' 100%'")).scalar() == 100
    # The older code goes back by what is stored, without the newer one's files.
    back = go(chosen, filled, BACK)
    assert back is not None
    assert (back.state, revision(filled), shape(filled)) == ("done", migrate.head(), before)
    again = go(chosen, filled, UP)
    assert again is not None
    with filled.begin("kat_owner") as connection:
        assert connection.execute(text("SELECT count(*) FROM asset WHERE label = key || ' 100%'")).scalar() == 100
        assert [entry.state for entry in history.entries(connection)] == ["done"] * 3
        assert [entry.kind for entry in history.entries(connection)] == ["upgrade", "downgrade", "upgrade"]
        recorded = this_code.recorded(connection)
        assert recorded is not None
        assert recorded.revision == LAST


def test_a_proven_backup_comes_first_and_is_on_record(chosen: Settings, filled: Database) -> None:
    outcome = go(chosen, filled, Wish(kind="upgrade", to=LAST, yes=True))
    assert outcome is not None
    made = backup.newest(backup.default_place(chosen), proven=True)
    assert made is not None
    assert made.name == outcome.backup
    assert made.manifest.revision == migrate.head()


def test_who_says_no_changes_nothing(chosen: Settings, filled: Database, server: embedded.Running) -> None:
    before = changekit.state(filled.conninfo("kat_owner"))
    told = Told(answer=False)
    with pytest.raises(run.DeclinedError):
        go(chosen, filled, Wish(kind="upgrade", to=LAST, backup=False), told)
    [question] = told.asked
    assert question.startswith("Upgrade the database from Kattegat ")
    assert question.endswith(f"(revision {LAST})?")
    assert changekit.state(filled.conninfo("kat_owner")) == before


def test_a_dry_run_is_read_only(chosen: Settings, filled: Database) -> None:
    before = changekit.state(filled.conninfo("kat_owner"))
    told = Told()
    assert go(chosen, filled, Wish(kind="upgrade", to=LAST, dry_run=True, yes=True), told) is None
    assert any("CONCURRENTLY" in sql for sql in told.sql)
    assert changekit.state(filled.conninfo("kat_owner")) == before
    assert not (chosen.data_dir / "backups").exists()


class Killed(BaseException):
    """Ends a change as a kill would, with nothing cleaned up but the connection."""


def interrupted(chosen: Settings, database: Database, wish: Wish, number: int) -> None:
    def at(progress: journal.Progress) -> None:
        if progress.number == number and progress.moment == "starts":
            raise Killed

    with pytest.raises(Killed):
        go(chosen, database, wish, Told(at))


@pytest.mark.parametrize("number", [1, 3])
def test_interrupted_it_stays_closed_until_it_is_resumed(chosen: Settings, filled: Database, number: int) -> None:
    before = shape(filled)
    interrupted(chosen, filled, UP, number)
    with filled.begin("kat_owner") as connection:
        assert fence.epoch(connection) % 2 == 1
    with pytest.raises(run.RefusedError, match=r"type `kat upgrade --resume` .* or `kat upgrade --cancel`"):
        go(chosen, filled, UP)
    with pytest.raises(this_code.WrongReleaseError), filled.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'x'"))
    resumed = run.resume(filled, Told())
    assert resumed is not None
    assert (resumed.state, revision(filled)) == ("done", LAST)
    # From the way back, interrupted too, back to where it came from.
    interrupted(chosen, filled, BACK, number)
    cancelled = run.cancel(filled, Told())
    assert cancelled is not None
    assert (cancelled.state, revision(filled)) == ("cancelled", LAST)
    assert go(chosen, filled, BACK) is not None
    assert shape(filled) == before


def test_interrupted_it_can_be_cancelled(chosen: Settings, filled: Database) -> None:
    before = shape(filled)
    interrupted(chosen, filled, UP, 4)
    cancelled = run.cancel(filled, Told())
    assert cancelled is not None
    assert (cancelled.state, revision(filled), shape(filled)) == ("cancelled", migrate.head(), before)
    with filled.begin("kat_owner") as connection:
        assert fence.epoch(connection) % 2 == 0
        assert history.entries(connection)[0].state == "cancelled"


def test_with_nothing_interrupted_nothing_is_resumed(filled: Database) -> None:
    for act in (run.resume, run.cancel):
        with pytest.raises(run.NothingOpenError):
            act(filled, Told())


def test_a_fence_left_closed_after_the_last_line_is_opened(filled: Database) -> None:
    with filled.engine("kat_owner").connect() as connection:
        fence.close(connection)
        connection.invalidate()
    assert run.resume(filled, Told()) is None
    with filled.begin("kat_owner") as connection:
        assert fence.epoch(connection) % 2 == 0


def test_what_is_not_as_it_should_be_afterwards_stays_closed(
    chosen: Settings, filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(progress: journal.Progress) -> None:
        if progress.moment == "done" and progress.number == 1:
            with changekit.owner(filled) as other:
                other.execute("SELECT set_config('kat.epoch', (SELECT last_value::text FROM lifecycle.epoch), true)")
                other.execute("ALTER TABLE install ADD COLUMN stray text")

    with pytest.raises(run.VerifyError, match="stray"):
        go(chosen, filled, UP, Told(at))
    with filled.begin("kat_owner") as connection:
        assert fence.epoch(connection) % 2 == 1
        assert runs.open_run(connection) is not None
    with changekit.owner(filled) as other:
        other.execute("ALTER TABLE install DROP COLUMN stray")
    resumed = run.resume(filled, Told())
    assert resumed is not None
    assert resumed.state == "done"


def test_a_lost_row_is_found(chosen: Settings, filled: Database) -> None:
    def at(progress: journal.Progress) -> None:
        if progress.moment == "done" and progress.number == 1:
            with changekit.owner(filled) as other:
                # Past the fence, as only a superuser or a fault could.
                other.execute("ALTER TABLE organisation DISABLE TRIGGER _kat_fence")
                other.execute("UPDATE organisation SET name = 'another' WHERE code = 'one'")
                other.execute("ALTER TABLE organisation ENABLE ALWAYS TRIGGER _kat_fence")

    with pytest.raises(run.VerifyError, match=r"organisation\.name has other values"):
        go(chosen, filled, UP, Told(at))


def test_a_process_of_ours_writes_again_after_it_has_learned(
    chosen: Settings, filled: Database, make_database: Callable[[], Database]
) -> None:
    with filled.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'before'"))
    go(chosen, filled, UP)
    with pytest.raises(this_code.WrongReleaseError, match="kat up"), filled.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'after'"))

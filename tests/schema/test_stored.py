"""Stored plans: signed with a key outside the database, verified before they are run, read in the chain's order."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from kattegat.schema import ledger, stored
from kattegat.schema.shape import Column, Snapshot, Table
from kattegat.schema.steps import Plan, Step, UnknownPlanError
from kattegat.schema.stored import PlanKey, PlanKeyError, TamperedPlanError, UnsignedPlanError
from kattegat.store.database import Database

BEFORE = Snapshot(tables={"public.a": Table(columns={"id": Column(type="bigint")})})
AFTER = Snapshot(tables={"public.a": Table(columns={"id": Column(type="bigint"), "x": Column(type="text")})})
STEP = Step(
    kind="park column",
    target="public.a.x",
    words="x of public.a is parked, 100% of it.",
    do=("ALTER TABLE public.a RENAME COLUMN x TO _p1", "SELECT 'it''s % {brace} \\ ü'"),
    undo=("ALTER TABLE public.a RENAME COLUMN _p1 TO x",),
)
PLAN = Plan(source=AFTER.fingerprint(), target=BEFORE.fingerprint(), steps=(STEP,), next_id=2)


def row(key: PlanKey, revision: str = "0002", follows: str | None = "0001") -> stored.Stored:
    return stored.signed(
        key, revision=revision, follows=follows, release="9.9.0", plan=PLAN, before=BEFORE, after=AFTER
    )


def test_what_the_key_signed_is_verified_and_comes_back_as_it_was() -> None:
    key = PlanKey.generate()
    made = row(key)
    stored.verify(made, key)
    assert made.plan() == PLAN
    assert made.shape_before() == BEFORE
    assert made.shape_after() == AFTER
    assert made.key_id == key.id


@pytest.mark.parametrize("field", ["revision", "follows", "release", "document", "before", "after", "sha256"])
def test_a_change_to_any_signed_column_is_found(field: str) -> None:
    key = PlanKey.generate()
    made = row(key)
    with pytest.raises(TamperedPlanError, match="not the one that was signed"):
        stored.verify(replace(made, **{field: f"{getattr(made, field)} "}), key)


def test_a_signature_moved_to_another_row_is_worth_nothing() -> None:
    key = PlanKey.generate()
    one, other = row(key), row(key, "0003", "0002")
    with pytest.raises(TamperedPlanError):
        stored.verify(replace(other, signature=one.signature), key)


def test_a_lost_or_other_key_needs_the_plan_to_be_accepted_by_name() -> None:
    key = PlanKey.generate()
    made = row(key)
    bare = replace(made, signature=None, key_id=None)
    for given, held, reason in (
        (made, None, "plan-key is missing"),
        (made, PlanKey.generate(), f"key {key.id} signed it"),
        (bare, key, "it has no signature"),
    ):
        with pytest.raises(UnsignedPlanError, match=reason) as refused:
            stored.verify(given, held)
        assert refused.value.sha256 == made.sha256
        assert f"--accept-plan {made.sha256}" in str(refused.value)
        stored.verify(given, held, {made.sha256})
        with pytest.raises(UnsignedPlanError):
            stored.verify(given, held, {"0" * 64})


def test_who_accepts_one_plan_has_not_accepted_what_stands_there_later() -> None:
    made = row(PlanKey.generate())
    changed = replace(made, document=made.document.replace("_p1", "_p2"))
    with pytest.raises(UnsignedPlanError) as refused:
        stored.verify(changed, None, {made.sha256})
    assert refused.value.sha256 != made.sha256


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    place = tmp_path / "data" / "plan-key"
    assert PlanKey.load(place) is None
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(PlanKey.open(place).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [entry.name for entry in place.parent.iterdir()] == ["plan-key"]
    again = PlanKey.load(place)
    assert again is not None
    assert again.id == made[0]


def test_a_damaged_key_file_is_one_sentence_and_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "plan-key"
    place.write_text("nonsense")
    with pytest.raises(PlanKeyError, match="it holds no key"):
        PlanKey.open(place)
    assert place.read_text() == "nonsense"


def test_rows_are_stored_and_read_in_the_order_of_the_chain(database: Database) -> None:
    key = PlanKey.generate()
    chain = [row(key, "c", "b"), row(key, "a", None), row(key, "b", "a"), row(key, "stray", "lost")]
    with database.begin("kat_owner") as connection:
        connection.execute(text("DELETE FROM lifecycle.plan"))
        for one in chain:
            stored.store(connection, one)
        found = stored.everything(connection)
        assert [one.revision for one in found] == ["a", "b", "c", "stray"]
        for one in found:
            stored.verify(one, key)
        with pytest.raises(stored.NoStoredPlanError, match="No way back is stored for revision x"):
            stored.read(connection, "x")


def test_the_text_that_stores_a_row_stores_the_same_row(database: Database) -> None:
    key = PlanKey.generate()
    made = row(key)
    with database.begin("kat_owner") as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(stored.insertion(made))
        stored.verify(stored.read(connection, "0002"), key)
        assert stored.read(connection, "0002").plan() == PLAN
        driver.execute(stored.deletion("0002"))
        assert "0002" not in {one.revision for one in stored.everything(connection)}


def test_a_plan_of_a_format_to_come_is_refused_and_says_so() -> None:
    made = row(PlanKey.generate())
    later = replace(made, document=replace(PLAN, format=2).document().decode())
    with pytest.raises(UnknownPlanError, match="format 2, and this release reads 1"):
        later.plan()


def test_a_database_without_a_ledger_has_no_stored_plan(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        connection.execute(text("ALTER SCHEMA lifecycle RENAME TO was_lifecycle"))
        assert not ledger.present(connection)
        assert stored.everything(connection) == []
        connection.execute(text("ALTER SCHEMA was_lifecycle RENAME TO lifecycle"))


def test_a_revision_with_a_name_that_is_sql_makes_no_step() -> None:
    with pytest.raises(ValueError, match="is no name of a revision"):
        stored.set_revision("0002'; DROP TABLE asset; --", "0001")

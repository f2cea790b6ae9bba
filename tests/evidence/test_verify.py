"""Verifying finds each attack, names the record, and finds any single change at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, DateTime, LargeBinary, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from kattegat.evidence import anchor, errors, keys, retention, seal
from kattegat.evidence import vault as vaults
from kattegat.evidence.report import VerifyReport
from kattegat.evidence.vault import Entry, Vault
from kattegat.evidence.verify import verify
from kattegat.store.database import Database
from kattegat.store.tables import metadata

Make = Callable[..., Entry]
LATER = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)


def packs(tmp_path: Path) -> list[Path]:
    """The packs in the order they were written."""
    return sorted((tmp_path / "data" / "evidence").rglob("*.pack"), key=lambda path: path.stat().st_mtime_ns)


def after(database: Database, vault: Vault, organisation: int, *statements: str, deep: bool = True) -> VerifyReport:
    """What verifying finds after these changes, which are rolled back."""
    with database.engine("kat_system").connect() as conn:
        for statement in statements:
            assert conn.execute(text(statement)).rowcount > 0, statement
        report = verify(conn, vault, organisation, deep=deep)
        conn.rollback()
    return report


def found(report: VerifyReport) -> list[tuple[str, int | None, int | None]]:
    return [(problem.kind, problem.record, problem.root) for problem in report.problems]


def test_what_nobody_touched_is_fine(database: Database, vault: Vault, sealed: int) -> None:
    steps: list[tuple[int, int]] = []
    with database.begin("kat_app", [sealed]) as conn:
        report = verify(conn, vault, sealed, progress=lambda done, total: steps.append((done, total)))
        shallow = verify(conn, vault, sealed, deep=False)
    assert report.problems == []
    assert (report.records, report.intact, report.roots, report.anchored) == (12, 12, 3, 3)
    assert (report.unsealed, report.unused_packs) == (0, [])
    assert (shallow.ok, shallow.intact) == (True, 12)
    assert steps == [(12, 12)]


def test_rows_that_may_not_be_seen_are_not_told_as_removed(database: Database, vault: Vault, sealed: int) -> None:
    with database.begin("kat_app", []) as conn, pytest.raises(errors.UnseenOrganisationError):
        verify(conn, vault, sealed)


def test_one_flipped_bit_in_a_pack(database: Database, vault: Vault, sealed: int, tmp_path: Path) -> None:
    pack = packs(tmp_path)[1]
    whole = bytearray(pack.read_bytes())
    whole[-1] ^= 0x10
    pack.write_bytes(whole)
    assert found(after(database, vault, sealed)) == [("content", 8, None)]


def test_a_missing_pack(database: Database, vault: Vault, sealed: int, tmp_path: Path) -> None:
    packs(tmp_path)[0].unlink()
    assert found(after(database, vault, sealed)) == [("pack", number, None) for number in (1, 2, 3, 4)]


def test_bytes_added_to_a_pack(database: Database, vault: Vault, sealed: int, tmp_path: Path) -> None:
    with packs(tmp_path)[0].open("ab") as file:
        file.write(b"\x00")
    assert found(after(database, vault, sealed)) == [("pack", None, None)]


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE evidence SET asset_key = 'x' WHERE id = 5", [("metadata", 5, None)]),
        ("UPDATE evidence SET ended_at = 'infinity' WHERE id = 5", [("metadata", 5, None)]),
        ("""UPDATE evidence SET detail = detail || '{"x": 1e99999}' WHERE id = 5""", [("metadata", 5, None)]),
        ("UPDATE evidence SET leaf = set_bit(leaf, 7, 1 - get_bit(leaf, 7)) WHERE id = 6", [("leaf", 6, None)]),
        ("DELETE FROM evidence WHERE id = 5", [("missing", 5, None)]),
        ("DELETE FROM evidence WHERE id = 12", [("missing", 12, None)]),
        ("DELETE FROM evidence", [("missing", 1, None)]),
        ("UPDATE evidence SET id = 50 WHERE id = 5", [("number", 50, None), ("missing", 5, None)]),
        ("UPDATE evidence_root SET root = set_bit(root, 7, 1 - get_bit(root, 7)) WHERE id = 2", [("root", None, 2)]),
        ("DELETE FROM evidence_root WHERE id = 2", [("root", None, 2)]),
        ("DELETE FROM evidence_root WHERE id = 3", [("cut_off", None, 3)]),
        ("DELETE FROM evidence_root", [("cut_off", None, 1)]),
    ],
)
def test_changes_in_the_database_are_named(
    database: Database,
    vault: Vault,
    sealed: int,
    statement: str,
    expected: list[tuple[str, int | None, int | None]],
    deep: bool,
) -> None:
    assert found(after(database, vault, sealed, statement, deep=deep)) == expected


def test_two_records_that_changed_places(database: Database, vault: Vault, sealed: int) -> None:
    swap = "UPDATE evidence SET id = 9 - id, leaf_number = 9 - leaf_number WHERE id IN (3, 6)"
    assert found(after(database, vault, sealed, swap)) == [("metadata", 3, None), ("metadata", 6, None)]


def test_a_tail_that_was_cut_off_after_it_was_anchored(database: Database, vault: Vault, sealed: int) -> None:
    report = after(
        database,
        vault,
        sealed,
        "DELETE FROM evidence WHERE leaf_number > 8",
        "DELETE FROM evidence_root WHERE sequence = 3",
    )
    assert found(report) == [("cut_off", None, 3), ("missing", 9, None)]
    assert report.problems[1].until == 12
    assert "record 12" in report.problems[0].text


def test_a_tail_that_was_cut_off_and_grew_again(
    database: Database, vault: Vault, sealed: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        conn.execute(text("DELETE FROM evidence WHERE leaf_number > 8"))
        conn.execute(text("DELETE FROM evidence_root WHERE sequence = 3"))
        assert vaults.put(conn, vault, sealed, [make_entry(1)]) == [9]
        assert seal.seal(conn, sealed, at=LATER) is not None
    with database.begin("kat_system") as conn:
        assert anchor.write(conn, vault.anchors, sealed) == 0
        report = verify(conn, vault, sealed)
    assert found(report) == [("anchor", None, 3), ("missing", 10, None)]


def test_rows_cut_off_while_their_root_is_there_do_not_have_their_numbers_given_again(
    database: Database, vault: Vault, sealed: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        conn.execute(text("DELETE FROM evidence WHERE leaf_number > 10"))
        assert vaults.put(conn, vault, sealed, [make_entry(1)]) == [13]
        assert found(verify(conn, vault, sealed)) == [("missing", 11, None)]


def test_a_forger_with_the_database_but_without_the_key(database: Database, vault: Vault, sealed: int) -> None:
    """Even a record rewritten with a leaf that fits: its bytes were encrypted with what it said before."""
    with database.engine("kat_system").connect() as conn:
        conn.execute(text("UPDATE evidence SET asset_key = 'forged' WHERE id = 5"))
        row = conn.execute(text(f"SELECT {vaults.META_COLUMNS} FROM evidence WHERE id = 5")).one()
        from kattegat.evidence import leaf

        conn.execute(
            text("UPDATE evidence SET leaf = :leaf WHERE id = 5"), {"leaf": leaf.digest(vaults.read_meta(row))}
        )
        assert found(verify(conn, vault, sealed)) == [("content", 5, None), ("tree", 5, 2)]
        conn.rollback()


def test_a_row_that_was_gone_when_its_minute_was_sealed(
    database: Database, vault: Vault, sealed: int, make_entry: Make
) -> None:
    with database.begin("kat_system") as conn:
        vaults.put(conn, vault, sealed, [make_entry(n) for n in range(3)])
        conn.execute(text("DELETE FROM evidence WHERE id = 14"))
        assert seal.seal(conn, sealed, at=LATER) is not None
    with database.begin("kat_system") as conn:
        anchor.write(conn, vault.anchors, sealed)
        assert found(verify(conn, vault, sealed)) == [("missing", 14, None)]


def test_anchors_that_were_taken_away(database: Database, vault: Vault, sealed: int) -> None:
    anchor.path(vault.anchors, sealed).unlink()
    assert found(after(database, vault, sealed)) == [("anchor", None, 1), ("anchor", None, 2), ("anchor", None, 3)]
    with database.begin("kat_system") as conn:
        assert verify(conn, vault, sealed, anchor_grace=timedelta(days=36500)).ok


def test_dropped_bytes_keep_their_leaf(
    database: Database, vault: Vault, sealed: int, make_entry: Make, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        border = conn.execute(text("SELECT recorded_at FROM evidence WHERE id = 9")).scalar_one()
        assert retention.drop(conn, vault, sealed, border) == 8
        assert retention.drop(conn, vault, sealed, border) == 0
        with pytest.raises(errors.DroppedError):
            vaults.get(conn, vault, sealed, 8)
        assert vaults.get(conn, vault, sealed, 9).scanner == "tcp-ports"
    with database.begin("kat_system") as conn:
        report = verify(conn, vault, sealed)
        assert report.problems == []
        assert (report.records, report.intact, report.dropped, report.unsealed) == (13, 5, 8, 1)
        assert len(report.unused_packs) == 2
        assert retention.sweep(conn, vault, sealed) == []
        removed = retention.sweep(conn, vault, sealed, older_than=timedelta(0))
        assert sorted(removed) == sorted(report.unused_packs)
        assert len(packs(tmp_path)) == 2
        assert verify(conn, vault, sealed).ok
    # Dropped by somebody else, a drop undone, a drop at another time.
    away = "dropped_at = now(), key_id = NULL, pack = NULL, pack_offset = NULL, pack_length = NULL"
    assert found(after(database, vault, sealed, f"UPDATE evidence SET {away} WHERE id = 11")) == [("drop", 11, None)]
    assert found(after(database, vault, sealed, "UPDATE evidence SET dropped_at = NULL WHERE id = 2")) == [
        ("drop", 2, None)
    ]
    assert found(after(database, vault, sealed, "UPDATE evidence SET dropped_at = now() WHERE id = 2")) == [
        ("drop", 2, None)
    ]


def test_a_destroyed_key_is_told_and_its_packs_are_swept(
    database: Database, vault: Vault, sealed: int, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        retention.drop(conn, vault, sealed, conn.execute(text("SELECT min(recorded_at) FROM evidence")).scalar_one())
        keys.destroy(conn, sealed)
        report = verify(conn, vault, sealed)
        assert report.ok
        assert (report.records, report.intact, report.destroyed) == (12, 0, 12)
        assert len(retention.sweep(conn, vault, sealed, older_than=timedelta(0))) == 3
    assert packs(tmp_path) == []


def test_a_sweep_takes_nothing_that_is_needed_nor_what_is_not_ours(
    database: Database, vault: Vault, sealed: int, make_entry: Make, tmp_path: Path
) -> None:
    foreign = tmp_path / "data" / "evidence" / str(sealed) / "notes.txt"
    foreign.write_text("not a pack")
    with database.engine("kat_system").connect() as conn:
        vaults.put(conn, vault, sealed, [make_entry(1)])
        conn.rollback()
    with database.begin("kat_app", []) as conn, pytest.raises(errors.SweepRoleError):
        retention.sweep(conn, vault, older_than=timedelta(0))
    with database.begin("kat_system") as conn:
        report = verify(conn, vault, sealed)
        assert report.ok
        orphans = report.unused_packs
        assert len(orphans) == 1
        assert retention.sweep(conn, vault, older_than=timedelta(0)) == orphans
        assert verify(conn, vault, sealed).ok
        conn.execute(text("DELETE FROM organisation WHERE id = :id"), {"id": sealed})
        assert len(retention.sweep(conn, vault, older_than=timedelta(0))) == 3
    assert foreign.exists()


TABLES = ("evidence", "evidence_root", "evidence_key")
COLUMNS = [(name, column) for name in TABLES for column in metadata.tables[name].columns]


def changed(column: Any, value: Any, draw: Callable[[st.SearchStrategy[Any]], Any], other: int) -> Any:
    """Another value for this column."""
    if column.name == "organisation_id":
        return other
    if value is not None and column.nullable and draw(st.booleans()):
        return None
    if isinstance(column.type, LargeBinary):
        old = bytearray(value or b"")
        if not old or draw(st.integers(0, 9)) == 0:
            return bytes(old) + draw(st.binary(min_size=1, max_size=4))
        bit = draw(st.integers(0, 8 * len(old) - 1))
        old[bit // 8] ^= 1 << bit % 8
        return bytes(old)
    if isinstance(column.type, DateTime):
        step = timedelta(microseconds=draw(st.integers(-(10**7), 10**7).filter(bool)))
        return (value or LATER) + step
    if isinstance(column.type, JSONB):
        return json.dumps(draw(st.sampled_from([{}, [], None, value | {"tries": 2}, value | {"more": False}])))
    if isinstance(column.type, Text):
        return draw(st.text(alphabet="abc/é|0", max_size=6).filter(lambda new: new != value))
    small = st.integers(-3, 40)
    return draw(small.filter(lambda new: new != value))


@pytest.fixture
def files(vault: Vault, kept: tuple[int, int], tmp_path: Path) -> list[Path]:
    """The packs that are needed, and the anchors."""
    return [*packs(tmp_path), anchor.path(vault.anchors, kept[0])]


@pytest.fixture
def kept(database: Database, vault: Vault, sealed: int) -> tuple[int, int]:
    """The sealed organisation with two minutes more: a drop of its first pack, sealed; and another organisation."""
    with database.begin("kat_system") as conn:
        border = conn.execute(text("SELECT recorded_at FROM evidence WHERE id = 5")).scalar_one()
        assert retention.drop(conn, vault, sealed, border) == 4
        assert seal.seal(conn, sealed, at=LATER) is not None
    with database.begin("kat_system") as conn:
        anchor.write(conn, vault.anchors, sealed)
        retention.sweep(conn, vault, sealed, older_than=timedelta(0))
        other = conn.execute(
            text("INSERT INTO organisation (code, name) VALUES ('other', 'Other') RETURNING id")
        ).scalar_one()
        assert verify(conn, vault, sealed).ok
    return sealed, other


def change_row(conn: Connection, organisations: tuple[int, int], data: st.DataObject) -> str:
    """One change of one column of one row, or one row less."""
    name, column = data.draw(st.sampled_from(COLUMNS))
    order = "id"
    rows = conn.execute(text(f"SELECT ctid::text, tableoid::bigint, {column.name} FROM {name} ORDER BY {order}")).all()
    row = data.draw(st.sampled_from(rows))
    where = {"tid": row[0], "oid": row[1]}
    if data.draw(st.integers(0, 19)) == 0:
        done = conn.execute(
            text(f"DELETE FROM {name} WHERE ctid = CAST(:tid AS tid) AND tableoid = :oid"),
            where,
        )
        assert done.rowcount == 1
        return f"{name} row removed"
    value = changed(column, row[2], data.draw, organisations[1])
    new = "CAST(:value AS jsonb)" if isinstance(column.type, JSONB) else ":value"
    savepoint = conn.begin_nested()
    try:
        done = conn.execute(
            text(f"UPDATE {name} SET {column.name} = {new} WHERE ctid = CAST(:tid AS tid) AND tableoid = :oid"),
            where | {"value": value},
        )
    except IntegrityError:
        # The database refuses this change itself: the key is taken.
        savepoint.rollback()
        return ""
    assert done.rowcount == 1
    return f"{name}.{column.name}: {row[2]!r} to {value!r}"


@hypothesis_settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_change_in_the_database_is_found(
    database: Database, vault: Vault, kept: tuple[int, int], data: st.DataObject
) -> None:
    with database.engine("kat_system").connect() as conn:
        change = change_row(conn, kept, data)
        report = verify(conn, vault, kept[0])
        conn.rollback()
    assert report.ok == (not change), change


@hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_change_in_a_file_is_found(
    database: Database, vault: Vault, kept: tuple[int, int], files: list[Path], data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["bit", "remove", "cut", "insert"]))
    if how == "bit":
        new = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    elif how == "remove":
        new = whole[:at] + whole[at + 1 :]
    elif how == "cut":
        new = whole[:at]
    else:
        new = whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at:]
    file.write_bytes(new)
    try:
        with database.begin("kat_system") as conn:
            report = verify(conn, vault, kept[0])
    finally:
        file.write_bytes(whole)
    assert report.ok == (new == whole)


CHILD = """
    import sys
    from datetime import UTC, datetime
    from kattegat import settings
    from kattegat.evidence import vault as vaults
    from kattegat.store.database import ROLES, Database

    database = Database(dict.fromkeys(ROLES, sys.argv[1]), login=True)
    vault = vaults.open_vault(settings.load({"KAT_DATA_DIR": sys.argv[2]}))
    now = datetime.now(UTC)
    entries = [
        vaults.Entry(bytes([n]) * 20000, "s", 1, "Hostname", f"h{n}.example.org", "internet", "r", now, now)
        for n in range(20)
    ]
    while True:
        with database.begin("kat_system") as conn:
            ids = vaults.put(conn, vault, int(sys.argv[3]), entries)
        print(ids[-1], flush=True)
"""


def test_a_killed_process_leaves_whole_batches_and_objects_to_sweep(
    database: Database, vault: Vault, organisation: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), database.conninfo("kat_system")]
    told = 0
    for turn in range(6):
        with subprocess.Popen(
            [*command, str(tmp_path / "data"), str(organisation)], stdout=subprocess.PIPE, text=True, env=os.environ
        ) as child:
            assert child.stdout is not None
            for _ in range(turn + 1):
                told = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
        with database.begin("kat_system") as conn:
            # The server may still be ending the killed session: its lock says when it has.
            keys.lock(conn, organisation)
            report = verify(conn, vault, organisation)
            assert report.problems == []
            assert report.records >= told
            assert report.records % 20 == 0
            assert sorted(retention.sweep(conn, vault, organisation, older_than=timedelta(0))) == sorted(
                report.unused_packs
            )

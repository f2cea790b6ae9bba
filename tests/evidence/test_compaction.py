"""Small packs put together: the records stay what they are, and retention takes whole packs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from kattegat.evidence import compaction, errors, packs, retention
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Entry, Vault
from kattegat.evidence.verify import verify
from kattegat.store.database import Database

# As if the day had ended long ago, whatever the clock says.
NOW_IS_FINE = timedelta(days=-2)


def test_small_packs_become_one_and_nothing_else_changes(
    database: Database, vault: Vault, sealed: int, tmp_path: Path
) -> None:
    with database.begin("kat_system") as conn:
        before = [vaults.get(conn, vault, sealed, number) for number in range(1, 13)]
        assert compaction.compact(conn, vault, sealed) == 0
        assert compaction.compact(conn, vault, sealed, settled=NOW_IS_FINE) == 3
        assert compaction.compact(conn, vault, sealed, settled=NOW_IS_FINE) == 0
        assert [vaults.get(conn, vault, sealed, number) for number in range(1, 13)] == before
    with database.begin("kat_system") as conn:
        report = verify(conn, vault, sealed)
        assert report.ok
        assert report.intact == 12
        assert len(report.unused_packs) == 3
        assert sorted(retention.sweep(conn, vault, sealed, older_than=timedelta(0))) == sorted(report.unused_packs)
        assert verify(conn, vault, sealed).ok
    assert len(list((tmp_path / "data" / "evidence").rglob("*.pack"))) == 1


def test_a_pack_with_younger_records_is_not_dropped(database: Database, vault: Vault, sealed: int) -> None:
    with database.begin("kat_system") as conn:
        compaction.compact(conn, vault, sealed, settled=NOW_IS_FINE)
        border, end = conn.execute(
            text("SELECT min(recorded_at) FILTER (WHERE id = 9), max(recorded_at) FROM evidence")
        ).one()
        assert retention.drop(conn, vault, sealed, border) == 0
        assert retention.drop(conn, vault, sealed, end + timedelta(microseconds=1)) == 12
        assert verify(conn, vault, sealed).ok


def test_a_damaged_pack_is_left_for_verify_to_tell(
    database: Database, vault: Vault, sealed: int, tmp_path: Path
) -> None:
    victim = min((tmp_path / "data" / "evidence").rglob("*.pack"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with database.begin("kat_system") as conn:
        before = [(each.kind, each.record) for each in verify(conn, vault, sealed).problems]
        assert len(before) == 1
        assert compaction.compact(conn, vault, sealed, settled=NOW_IS_FINE) == 2
        assert [(each.kind, each.record) for each in verify(conn, vault, sealed).problems] == before


@pytest.fixture
def behind(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Lets something happen once, between the reading of a row and the reading of its bytes."""

    def arrange(act: Callable[[], None]) -> None:
        waiting = [act]
        for name in ("part", "read"):
            real = getattr(packs.Objects, name)

            def late(self: packs.Objects, what: object, real: Callable[..., bytes] = real) -> bytes:
                if waiting:
                    waiting.pop()()
                return real(self, what)

            monkeypatch.setattr(packs.Objects, name, late)

    return arrange


def test_records_moved_or_dropped_while_they_are_read(
    database: Database,
    vault: Vault,
    sealed: int,
    make_entry: Callable[..., Entry],
    behind: Callable[[Callable[[], None]], None],
) -> None:
    def move() -> None:
        with database.begin("kat_system") as other:
            assert compaction.compact(other, vault, sealed, settled=NOW_IS_FINE) == 3
        with database.begin("kat_system") as other:
            assert len(retention.sweep(other, vault, sealed, older_than=timedelta(0))) == 3

    def drop() -> None:
        with database.begin("kat_system") as other:
            end = other.execute(text("SELECT max(recorded_at) + interval '1 second' FROM evidence")).scalar_one()
            assert retention.drop(other, vault, sealed, end) == 12
        with database.begin("kat_system") as other:
            assert len(retention.sweep(other, vault, sealed, older_than=timedelta(0))) == 1

    behind(move)
    with database.begin("kat_system") as conn:
        assert vaults.get(conn, vault, sealed, 1).content == make_entry(0).content
    behind(drop)
    with database.begin("kat_system") as conn:
        report = verify(conn, vault, sealed)
        assert report.problems == []
        assert report.dropped == 12
        with pytest.raises(errors.DroppedError):
            vaults.get(conn, vault, sealed, 1)

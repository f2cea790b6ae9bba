"""Backups of a real database: made, proven, restored; every value is there again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parent))
import backupkit

from kattegat.evidence import vault as vaults
from kattegat.evidence import verify as evidence_verify
from kattegat.lifecycle import backup, keys
from kattegat.lifecycle.backup import contents, manifest, reach, swap
from kattegat.settings import Settings
from kattegat.store import server as embedded
from kattegat.store.database import Database

QUICK = 2**10


@pytest.fixture
def chosen(tmp_path: Path, server: embedded.Running) -> Settings:
    """An install's settings."""
    return backupkit.settings_for(tmp_path / "data", server)


@pytest.fixture
def filled(database: Database, chosen: Settings) -> Database:
    """Its database, with two organisations and their evidence."""
    backupkit.fill(database, chosen)
    return database


def everything(chosen: Settings, database: Database) -> dict[str, manifest.Contents]:
    """The contents of every table now."""
    way = reach.of(chosen, database)
    with way.begin() as connection:
        return {table.full: contents.contents(connection, table) for table in contents.tables(connection)}


def test_round_trip(filled: Database, chosen: Settings) -> None:
    keys.set_passphrase(chosen.data_dir, "a long passphrase", n=QUICK)
    before = everything(chosen, filled)
    steps: list[tuple[str, int, int]] = []
    made = backup.create(chosen, filled, label="first", progress=lambda *step: steps.append(step))
    assert made.manifest.tables == before
    assert made.manifest.label == "first"
    assert made.manifest.evidence.packs == 6
    assert {stage for stage, _, _ in steps} == {"evidence", "database", "checksums"}
    assert all(0 <= done <= total for _, done, total in steps)
    secret = keys.Secret("a long passphrase")
    proof = backup.verify(chosen, filled, made, secret=secret, all_evidence=True)
    assert (proof.keys, proof.records, proof.notes) == ("recovery", 24, [])
    assert backup.newest(backup.default_place(chosen), proven=True) is not None
    # What happens afterwards is undone by the restore, and kept beside it.
    with filled.begin("kat_system") as connection:
        connection.execute(text("UPDATE organisation SET name = 'changed'"))
    done = backup.restore(chosen, backup.get(made.name, made.path.parent), lambda: filled, secret=secret, replace=True)
    after = everything(chosen, filled)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"lifecycle.fact"}
    assert before.keys() == after.keys()
    with filled.begin("kat_system") as connection:
        for organisation in (1, 2):
            report = evidence_verify.verify(connection, vaults.open_vault(chosen), organisation)
            assert (report.problems, report.intact) == ([], 12)
    way = reach.of(chosen, filled)
    filled.close()
    aside = next(kept for kept in swap.kept(chosen, way) if kept.stamp == done.kept_as)
    with way.begin(aside.database) as connection:
        assert connection.execute(text("SELECT DISTINCT name FROM public.organisation")).scalars().all() == ["changed"]
    swap.discard(way, aside)
    assert not [kept for kept in swap.kept(chosen, way) if kept.stamp == done.kept_as]

"""What every test of the vault starts from: an organisation in a fresh database, and a vault in a fresh folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kattegat import settings
from kattegat.evidence import anchor, seal
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Entry, Vault
from kattegat.store.database import Database

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def _entry(number: int = 0, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "content": f"220 mail{number}.example.org ESMTP\r\n".encode() * 20,
        "scanner": "tcp-ports",
        "plugin_version": 3,
        "asset_type": "IPAddress",
        "asset_key": f"internet|192.0.2.{number}",
        "vantage": "internet",
        "runner": "runner-1",
        "started_at": START + timedelta(seconds=number),
        "ended_at": START + timedelta(seconds=number + 2, microseconds=1),
        "detail": {"contacted": [f"192.0.2.{number}"], "seconds": 1.25, "tries": 1},
    }
    return Entry(**(fields | changes))


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Makes one record, different for each number; fields can be changed by name."""
    return _entry


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A vault in a folder of this test."""
    return vaults.open_vault(settings.load({"KAT_DATA_DIR": str(tmp_path / "data")}))


@pytest.fixture
def organisation(database: Database) -> int:
    """The id of an organisation."""
    with database.begin("kat_system") as conn:
        return int(
            conn.execute(
                text("INSERT INTO organisation (code, name) VALUES ('example', 'Example') RETURNING id")
            ).scalar_one()
        )


@pytest.fixture
def sealed(database: Database, vault: Vault, organisation: int, make_entry: Callable[..., Entry]) -> int:
    """An organisation with 12 records in three packs, sealed in three minutes and anchored; gives its id."""
    for minute in range(3):
        with database.begin("kat_system") as conn:
            vaults.put(conn, vault, organisation, [make_entry(4 * minute + number) for number in range(4)])
        with database.begin("kat_system") as conn:
            assert seal.seal(conn, organisation, at=START + timedelta(minutes=minute)) is not None
    with database.begin("kat_system") as conn:
        assert anchor.write(conn, vault.anchors, organisation) == 3
    return organisation

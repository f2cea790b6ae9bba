"""An install for tests of backups: a database on the test server, evidence in a folder, keys."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text

from kattegat import settings
from kattegat.evidence import anchor, seal
from kattegat.evidence import vault as vaults
from kattegat.model.evidence import Evidence, Part
from kattegat.settings import Settings
from kattegat.store import server as embedded
from kattegat.store.database import Database

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HARD = "ünïcödé \t\\ \x01 \U0001f30a 'quoted' \"twice\" \r\n"


def settings_for(data_dir: Path, running: embedded.Running, **more: Any) -> Settings:
    """Settings of an install of its own whose database is on the test server."""
    secrets = data_dir / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(running.data_dir / "secrets" / "kat_admin", secrets / "kat_admin")
    made = settings.load({"KAT_DATA_DIR": str(data_dir)})
    return msgspec.structs.replace(made, **more)


def fill(database: Database, chosen: Settings, organisations: int = 2, records: int = 12) -> list[int]:
    """Organisations with awkward values, and evidence sealed and anchored over three minutes each."""
    vault = vaults.open_vault(chosen)
    made: list[int] = []
    for index in range(organisations):
        with database.begin("kat_system") as connection:
            number = int(
                connection.execute(
                    text("INSERT INTO organisation (code, name) VALUES (:code, :name) RETURNING id"),
                    {"code": f"org{index}", "name": f"{HARD.replace(chr(1), '')}{index}"},
                ).scalar_one()
            )
        made.append(number)
        for minute in range(3):
            with database.begin("kat_system") as connection:
                vaults.put(connection, vault, number, [_entry(minute, one) for one in range(records // 3)])
            with database.begin("kat_system") as connection:
                seal.seal(connection, number, at=START + timedelta(minutes=minute))
        with database.begin("kat_system") as connection:
            anchor.write(connection, vault.anchors, number)
    return made


def _entry(minute: int, number: int) -> vaults.Entry:
    at = START + timedelta(minutes=minute, seconds=number)
    return vaults.Entry(
        content=Evidence((Part("banner", f"220 mail{minute}-{number}.example.org {HARD}".encode() * 30),)).pack(),
        scanner="tcp-ports",
        plugin_version=3,
        asset_type="IPAddress",
        asset_key=f"internet|192.0.2.{number}",
        vantage="internet",
        runner="runner-1",
        started_at=at,
        ended_at=at + timedelta(seconds=1),
        detail={"note": "ü", "tries": number},
    )

"""What the database knows of its backups: the row `backup` of `lifecycle.fact`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Connection

from kattegat.lifecycle.backup.manifest import Backup, Proof
from kattegat.lifecycle.backup.reach import Reach


def release_of(connection: Connection) -> str | None:
    """The release that this database is in use by, as recorded; None where nothing is."""
    if connection.exec_driver_sql("SELECT to_regclass('lifecycle.fact')").scalar() is None:
        return None
    found = connection.exec_driver_sql("SELECT value ->> 'release' FROM lifecycle.fact WHERE name = 'release'").scalar()
    return str(found) if found else None


def record(reach: Reach, backup: Backup, proof: Proof | None = None) -> None:
    """Notes the newest backup, and with `proof` the newest proven one; nothing in a database without a ledger."""
    told: dict[str, Any] = {
        "name": backup.name,
        "path": str(backup.path),
        "release": backup.manifest.release,
        "revision": backup.manifest.revision,
        "created_at": backup.manifest.created_at,
        "size": backup.manifest.size,
    }
    changed = {"newest": told} if proof is None else {"proven": told | {"proven_at": proof.at}}
    with reach.connect() as connection:
        if connection.execute("SELECT to_regclass('lifecycle.fact')").fetchone() == (None,):
            return
        try:
            connection.execute(
                "INSERT INTO lifecycle.fact AS f (name, value, at) VALUES ('backup', %s, %s)"
                " ON CONFLICT (name) DO UPDATE SET value = f.value || excluded.value, at = excluded.at",
                (msgspec.json.encode(changed).decode(), datetime.now(UTC)),
            )
        except psycopg.errors.ReadOnlySqlTransaction:
            # A standby can be backed up too; it is told of its backups by its primary or not at all.
            return

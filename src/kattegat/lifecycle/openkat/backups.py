"""Backups of an install's databases: taken behind closed doors, proven by a restore into a scratch database.

A backup is a folder with `openkat.json` and, for each part, pg_dump's directory format in `<part>/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle.backup import contents, tools
from kattegat.lifecycle.backup.manifest import Contents
from kattegat.lifecycle.backup.reach import Reach
from kattegat.lifecycle.openkat import doors, place
from kattegat.lifecycle.openkat.change import Install
from kattegat.lifecycle.openkat.environment import Dsn
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.place import Place
from kattegat.schema import scratch

MANIFEST = "openkat.json"
Tell = Callable[[str], None]


class Held(Struct, frozen=True):
    """One part in a backup: what it was and what is in each table."""

    database: str
    revision: str
    tables: dict[str, Contents]


class Backup(Struct, frozen=True):
    """What `openkat.json` says; `proven` is when a restore was compared with it, row by row."""

    at: str
    words: str
    parts: dict[Part, Held]
    proven: str | None = None
    format: int = 1


class BackupDiffersError(KattegatError):
    """A restored database that is not what the backup says."""

    def __init__(self, part: str, found: list[str]) -> None:
        self.part = part
        self.differences = tuple(found)
        super().__init__(f"The backup of {part} is not whole ({'; '.join(found[:3])}): take another one.")


def reach(where: Place, database: str | None = None) -> Reach:
    """How the tools for backups get at a part's database."""
    parts = dict(conninfo_to_dict(where.dsn.conninfo()))
    return Reach(parts, database or where.dsn.database, where.version, None, False, False)


def create(
    install: Install, folder: Path, words: str, *, given: Path | None = None, tell: Tell = lambda _: None
) -> Path:
    """Dumps every part into a new folder below `folder`, readable by its owner alone; the doors are closed already."""
    moment = datetime.now(UTC)
    made = folder / f"openkat-{moment:%Y%m%d-%H%M%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made.mkdir(mode=0o700)
    except OSError as problem:
        raise UsageError(f"{made} can't be made ({problem.strerror}); give another folder.") from None
    held: dict[Part, Held] = {}
    for part, where in install.places.items():
        tell(f"backup of {part}")
        way = reach(where)
        with doors.room(where, 3), way.begin() as connection:
            at = place.recorded(connection, part)
            counted = {one.full: contents.contents(connection, one) for one in contents.tables(connection)}
            exported = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
            tools.dump(tools.find(way, given), way, made / part, str(exported), 1)
        held[part] = Held(where.dsn.database, at.revision, counted)
    _save(made, Backup(moment.isoformat(), words, held))
    return made


def prove(install: Install, folder: Path, *, given: Path | None = None, tell: Tell = lambda _: None) -> Backup:
    """Restores each part of a backup into a scratch database and compares every table; raises `BackupDiffersError`."""
    backup = read(folder)
    for part, held in backup.parts.items():
        where = install.places.get(part)
        if where is None:
            continue
        tell(f"proof of {part}")
        with scratch.database(_lobby(where).conninfo()) as empty:
            _fill(where, empty.name, folder / part, held, given)
    proven = msgspec.structs.replace(backup, proven=datetime.now(UTC).isoformat())
    _save(folder, proven)
    return proven


def restore(
    install: Install, folder: Path, *, given: Path | None = None, tell: Tell = lambda _: None
) -> dict[Part, str]:
    """Puts each part of a backup in the place of its database; gives the names under which those of now are kept.

    The restored databases are closed; `open_all` opens them as they were when the backup was taken.
    """
    backup = read(folder)
    stamp = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    wanted = {part: held for part, held in backup.parts.items() if part in install.places}
    fresh: dict[Part, str] = {}
    for part, held in wanted.items():
        where = install.places[part]
        tell(f"restore of {part}")
        fresh[part] = f"{where.dsn.database[:40]}_new_{stamp}"
        with psycopg.connect(_lobby(where).conninfo(), autocommit=True) as lobby:
            made, owner = sql.Identifier(fresh[part]), sql.Identifier(where.owner)
            lobby.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {}").format(made, owner))
        _fill(where, fresh[part], folder / part, held, given)
    kept: dict[Part, str] = {}
    for part in wanted:
        where = install.places[part]
        kept[part] = f"{where.dsn.database[:40]}_before_{stamp}"
        _swap(where, fresh[part], kept[part])
    return kept


def _swap(where: Place, fresh: str, old: str) -> None:
    now, made = sql.Identifier(where.dsn.database), sql.Identifier(fresh)
    with psycopg.connect(_lobby(where).conninfo(), autocommit=True) as lobby:
        if where.superuser:
            lobby.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(made))
            lobby.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(made, sql.Identifier(where.owner)))
        else:
            lobby.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(made))
        for name in (where.dsn.database, fresh):
            lobby.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND usesysid IS NOT NULL AND pid <> pg_backend_pid()",
                [name],
            )
        lobby.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(now, sql.Identifier(old)))
        lobby.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(made, now))


def _fill(where: Place, name: str, source: Path, held: Held, given: Path | None) -> None:
    way = reach(where, name)
    tools.restore(tools.find(way, given), way, source, name, 1)
    with way.begin() as connection:
        have = {one.full: contents.contents(connection, one) for one in contents.tables(connection)}
    found = contents.differences(held.tables, have)
    if found:
        raise BackupDiffersError(where.part, found)


def _lobby(where: Place) -> Dsn:
    """Another database of the server that the login may enter: databases are made and renamed from there."""
    for name in ("postgres", "template1"):
        try:
            with closing(psycopg.connect(where.dsn.with_(dbname=name).conninfo(), connect_timeout=10)):
                return where.dsn.with_(dbname=name)
        except psycopg.OperationalError:
            continue
    raise KattegatError(
        f"{where.dsn.user} has no other database on the server of {where.part} to work from: give a superuser's DSN "
        "with --admin."
    )


def read(folder: Path) -> Backup:
    """What a backup says of itself; raises `UsageError` for a folder that is none."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    except (OSError, msgspec.MsgspecError):
        raise UsageError(
            f"{folder} is no backup of OpenKAT's databases; give the folder that has {MANIFEST}."
        ) from None


def _save(folder: Path, backup: Backup) -> None:
    half = folder / f"{MANIFEST}.part"
    half.write_bytes(msgspec.json.format(msgspec.json.encode(backup), indent=1))
    os.replace(half, folder / MANIFEST)

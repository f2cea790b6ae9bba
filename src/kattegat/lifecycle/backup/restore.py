"""Restoring: into a new database, compared with what the backup says, and swapped with the present one at the end."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable

import msgspec
import psycopg
from alembic.script import ScriptDirectory

from kattegat.lifecycle import keys
from kattegat.lifecycle.backup import evidence, fill, listing, manifest, reach, swap, tools, verify
from kattegat.lifecycle.backup.errors import InUseError, NewerError, SpaceError
from kattegat.lifecycle.backup.manifest import Backup
from kattegat.scheduler.beat import release
from kattegat.settings import Settings
from kattegat.store import migrate
from kattegat.store.database import Database

Progress = Callable[[str, int, int], None]

LIVE = "SELECT role, host, pid FROM public.process WHERE seen_at > now() - interval '20 seconds' ORDER BY role"
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)


class Restored(msgspec.Struct, frozen=True):
    """A restore that was done. `kept_as` is the stamp by which `discard` finds what was there before, if anything."""

    name: str
    database: str
    rows: int
    records: int
    packs: int
    keys: str
    files: list[str]
    kept_database: str | None
    kept_as: str | None
    notes: list[str]


def restore(
    settings: Settings,
    backup: Backup,
    open_database: Callable[[], Database],
    *,
    secret: keys.Secret | None = None,
    replace: bool = False,
    jobs: int | None = None,
    progress: Progress = lambda *_: None,
) -> Restored:
    """Restores a backup. The present database is kept under another name, and dropped only where it was empty.

    The caller keeps processes of this install from starting meanwhile. `open_database` is called when the files and
    keys are known to be good, so that a new install is made for a good backup only. Without `replace` a database with
    anything in it is refused. Raises `NewerError`, `DamagedError`, `DifferentError`, `LostKeyError`, `InUseError`,
    `SpaceError`, `ToolError`; what is in use is as it was then.
    """
    count = jobs or listing.jobs()
    check_release(backup)
    opened = verify.unlock(settings, backup, secret)
    verify.check_files(backup, count, progress)
    _check_room(settings, backup)
    database = open_database()
    swap.settle(settings, database)
    way = reach.of(settings, database)
    database.close()
    found = tools.find(way, settings.pg_bin)
    used = check_unused(way, backup, replace)
    swap.sweep(settings, way)
    stamp = f"{manifest.now():%Y%m%dT%H%M%SZ}"
    new = swap.waits_as(way, stamp)
    try:
        fill.new_database(way, new)
        fill.fill(way, found, backup, new, count, progress)
        rows = fill.compare(way, backup, new, count, progress)
        with way.begin(new) as connection:
            records, notes = verify.check_evidence(connection, backup, opened, False, progress)
        _make_ready(way, backup, new)
        if used:
            swap.put_aside(settings, stamp)
        packs = 0
        if backup.manifest.evidence.included:
            packs = evidence.unite(
                backup.path / "evidence", settings, lambda done, total: progress("packs", done, total)
            )
        staged = swap.stage(settings, opened.bundle, backup.path / "anchors", stamp)
        before = swap.swap(settings, way, new, stamp, staged, keep=used)
    except BaseException:
        # Broken off in the middle of the swap itself, what has happened to the databases decides.
        if swap.end(settings, way) is None:
            swap.undo(settings, way, new, stamp)
        raise
    swap.end(settings, way)
    return Restored(
        name=backup.name,
        database=way.database,
        rows=rows,
        records=records,
        packs=packs,
        keys=opened.how,
        files=staged,
        kept_database=before,
        kept_as=stamp if used else None,
        notes=[*opened.notes, *notes],
    )


def check_release(backup: Backup) -> None:
    """Raises `NewerError` for a backup of a database that this release can't use."""
    told, ours = backup.manifest, release()
    if manifest.number(told.release) > manifest.number(ours):
        raise NewerError(backup.path, told.release, f"it is of release {told.release}", ours)
    if told.revision is not None and told.revision not in _revisions():
        raise NewerError(backup.path, told.release, f"revision {told.revision} is not known here", ours)


def _revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(migrate.config()).walk_revisions()}


def check_unused(way: reach.Reach, backup: Backup, replace: bool) -> bool:
    """Whether there is anything in the database. Raises `InUseError` while somebody uses it, or without `replace`."""
    with way.connect() as connection:
        exists = "SELECT to_regclass(%s) IS NOT NULL"
        if connection.execute(exists, ("public.process",)).fetchone() == (True,):
            try:
                rows = connection.execute(LIVE).fetchall()
            except psycopg.errors.UndefinedColumn:
                rows = []
            here = socket.gethostname()
            living = [row for row in rows if row[1] != here or _alive(row[2])]
            if living:
                who = ", ".join(f"{role} on {host} ({pid})" for role, host, pid in living[:4])
                raise InUseError(
                    f"This install runs ({who}): stop it with Ctrl-C in `kat up` or with `systemctl stop`, then type"
                    " the same command again."
                )
        others = connection.execute(SESSIONS).fetchone()
        if others is not None and others[0]:
            raise InUseError(
                f"{others[0]} other sessions are connected to the database {way.database}: end them, then type the"
                " same command again."
            )
        used = _used(connection)
    if used and not replace:
        raise InUseError(
            f"The database {way.database} is in use: `kat backup restore {backup.path} --yes` puts the backup in its"
            " place, and keeps what is there now under another name."
        )
    return used


def _used(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Whether any table of ours holds a row; the revision alone is none."""
    tables = connection.execute(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'parked') AND c.relname <> 'alembic_version'"
        " AND pg_relation_size(c.oid) > 0"
    ).fetchall()
    return any(
        connection.execute(f"SELECT EXISTS (SELECT FROM {table})".encode()).fetchone() == (True,)  # noqa: S608
        for (table,) in tables
    )


def _check_room(settings: Settings, backup: Backup) -> None:
    """Raises `SpaceError` where the database or the packs do not fit."""
    verify.check_room(settings, backup)
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.is_dir())
    needed = verify.room(settings, backup)
    if not settings.evidence_url and folder.stat().st_dev != backup.path.stat().st_dev:
        needed += backup.manifest.evidence.size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SpaceError(folder, needed, free, "make room there and type the same command again")


def _make_ready(way: reach.Reach, backup: Backup, new: str) -> None:
    """Statistics for the planner, an epoch that no forgotten process has, and a note of where it comes from."""
    exists = "SELECT to_regclass('lifecycle.epoch') IS NOT NULL"
    present = 0
    with way.connect() as connection:
        if connection.execute(exists).fetchone() == (True,):
            row = connection.execute("SELECT last_value FROM lifecycle.epoch").fetchone()
            present = int(row[0]) if row else 0
    with way.connect(new) as connection:
        connection.execute("ANALYZE")
        if connection.execute(exists).fetchone() == (True,):
            row = connection.execute("SELECT last_value FROM lifecycle.epoch").fetchone()
            own = int(row[0]) if row else 0
            # Above both, and odd only where the backup was made in the middle of a change of release.
            above = max(own, present) + 2
            above += (above - own) % 2
            connection.execute("SELECT setval('lifecycle.epoch', %s)", (above,))
        if connection.execute("SELECT to_regclass('lifecycle.fact') IS NOT NULL").fetchone() == (True,):
            told = {"name": backup.name, "created_at": backup.manifest.created_at, "by": release()}
            connection.execute(
                "INSERT INTO lifecycle.fact (name, value) VALUES ('restored', %s)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value, at = now()",
                (msgspec.json.encode(told).decode(),),
            )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

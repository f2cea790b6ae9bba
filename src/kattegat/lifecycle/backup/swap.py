"""Putting a restored database into the place of the present one, and the files that belong to it.

The two databases are renamed in one transaction. The files follow by a list that is written down before and gone
through after it, so that a swap that was broken off is ended by the next command (`settle`), or taken back where the
databases had not changed places yet.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql

from kattegat.evidence import anchor
from kattegat.lifecycle import keys
from kattegat.lifecycle.backup import evidence, fill, manifest, reach
from kattegat.lifecycle.backup.errors import InUseError
from kattegat.settings import Settings
from kattegat.store.database import Database
from kattegat.store.layout import owned_by_parent, write_file


class Pending(msgspec.Struct, frozen=True):
    """A swap under way: the new database's oid and name while it waits, and the files that wait beside theirs."""

    oid: int
    waits_as: str
    stamp: str
    files: list[str]


class Kept(msgspec.Struct, frozen=True):
    """What a restore put aside, by its stamp."""

    stamp: str
    database: str | None
    files: list[Path]


def path(settings: Settings) -> Path:
    """Where a swap under way is written down."""
    return settings.data_dir / "restore.json"


def stage(settings: Settings, bundle: keys.Bundle | None, anchors: Path, stamp: str) -> list[str]:
    """Puts the files that differ from the present ones beside them; gives their names in the data directory."""
    staged: list[str] = []
    for name, content in (bundle.files if bundle else {}).items():
        target = settings.data_dir / name
        if name not in keys.FILES or (target.is_file() and target.read_text() == content):
            continue
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True)
            owned_by_parent(target.parent, settings.data_dir)
        write_file(_waiting(target, stamp), content, 0o600)
        staged.append(name)
    if anchors.is_dir():
        waiting = _waiting(settings.data_dir / "anchors", stamp)
        shutil.copytree(anchors, waiting)
        for copied in (waiting, *waiting.rglob("*")):
            owned_by_parent(copied, settings.data_dir)
        staged.append("anchors")
    return staged


def put_aside(settings: Settings, stamp: str) -> None:
    """A second name for every pack there is now: the sweep of the restored database does not take those."""
    present = evidence.folder(settings)
    if settings.evidence_url or not any(present.rglob("*.pack")):
        return
    kept = _before(present, stamp)
    for pack in sorted(present.rglob("*.pack")):
        target = kept / pack.relative_to(present)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True)
        evidence.link(pack, target)
    for made in (kept, *kept.rglob("*")):
        owned_by_parent(made, settings.data_dir)


def swap(settings: Settings, way: reach.Reach, new: str, stamp: str, files: list[str], *, keep: bool) -> str | None:
    """Gives the new database the name of the present one, which is kept under another, or dropped without `keep`.

    Gives the name it is kept under. Raises `InUseError` when somebody is connected; nothing has changed then.
    """
    with way.connect("postgres", plain=True) as connection:
        row = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (new,)).fetchone()
        if row is None:
            raise InUseError(f"The restored database {new} is gone: type the same command again.")
        write_file(path(settings), manifest.pretty(Pending(int(row[0]), new, stamp, files)).decode(), 0o600)
        before = f"{way.database[:40]}_before_{stamp.lower()}"
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        try:
            with connection.transaction():
                connection.execute(rename.format(sql.Identifier(way.database), sql.Identifier(before)))
                connection.execute(rename.format(sql.Identifier(new), sql.Identifier(way.database)))
        except psycopg.errors.ObjectInUse as problem:
            raise InUseError(
                f"Somebody is connected to the database {way.database} ({str(problem).splitlines()[-1]}): stop what"
                " uses it and type the same command again; nothing was changed."
            ) from None
        except psycopg.errors.InsufficientPrivilege as problem:
            raise InUseError(
                f"The databases can't be renamed ({str(problem).splitlines()[0]}): make the login in KAT_DATABASE_URL"
                f" the owner of {way.database}, with CREATEDB, and type the same command again; nothing was changed."
            ) from None
        if not keep:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(before)))
            return None
    return before


def settle(settings: Settings, database: Database) -> str | None:
    """Ends a swap that was broken off, or takes it back; gives a sentence about it, None where there was none."""
    return end(settings, reach.of(settings, database)) if path(settings).exists() else None


def end(settings: Settings, way: reach.Reach) -> str | None:
    """As `settle`, for a server that has been reached already."""
    try:
        pending = msgspec.json.decode(path(settings).read_bytes(), type=Pending)
    except FileNotFoundError:
        return None
    with way.connect("postgres", plain=True) as connection:
        row = connection.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", (way.database,)).fetchone()
    if row is None or int(row[0]) != pending.oid:
        undo(settings, way, pending.waits_as, pending.stamp)
        return "A restore that was broken off has been taken back: type it again."
    follow(settings, way, pending)
    return "A restore that was broken off has been ended."


def waits_as(way: reach.Reach, stamp: str) -> str:
    """The name of a database that is being restored."""
    return f"{way.database[:40]}_restored_{stamp.lower()}"


def sweep(settings: Settings, way: reach.Reach) -> None:
    """Takes away what restores left that were killed before anything changed places."""
    prefix = waits_as(way, "")
    with way.connect("postgres", plain=True) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        found = [str(row[0]) for row in names.fetchall()]
    for name in found:
        undo(settings, way, name, name.removeprefix(prefix).upper())


def undo(settings: Settings, way: reach.Reach, new: str, stamp: str) -> None:
    """Takes away all that a restore has made beside the things in use."""
    fill.drop_database(way, new)
    for made in (
        *settings.data_dir.glob(f"*.restored-{stamp}"),
        *settings.data_dir.glob(f"secrets/*.restored-{stamp}"),
    ):
        _remove(made)
    _remove(_before(evidence.folder(settings), stamp))
    path(settings).unlink(missing_ok=True)


def follow(settings: Settings, way: reach.Reach, pending: Pending) -> None:
    """Moves the files of a swapped database into place, and anchors the roots that the copied anchors lack."""
    for name in pending.files:
        target = settings.data_dir / name
        waiting = _waiting(target, pending.stamp)
        if waiting.exists():
            if target.exists():
                target.rename(_before(target, pending.stamp))
            waiting.rename(target)
    with way.begin() as connection:
        if evidence.known(connection):
            evidence.see_tables(connection)
            organisations = connection.exec_driver_sql("SELECT id FROM public.organisation").scalars().all()
            for organisation in organisations:
                anchor.write(connection, settings.data_dir / "anchors", organisation)
    path(settings).unlink(missing_ok=True)


def kept(settings: Settings, way: reach.Reach) -> list[Kept]:
    """What earlier restores put aside, the oldest first."""
    prefix = f"{way.database[:40]}_before_"
    with way.connect("postgres", plain=True) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        databases = {str(row[0])[len(prefix) :].upper(): str(row[0]) for row in names.fetchall()}
    files: dict[str, list[Path]] = {}
    for found in (*settings.data_dir.glob("*.before-*"), *settings.data_dir.glob("secrets/*.before-*")):
        files.setdefault(found.name.rpartition(".before-")[2], []).append(found)
    return [
        Kept(stamp, databases.get(stamp), files.get(stamp, [])) for stamp in sorted(databases.keys() | files.keys())
    ]


def discard(way: reach.Reach, aside: Kept) -> None:
    """Removes what a restore put aside, for good."""
    if aside.database is not None:
        fill.drop_database(way, aside.database)
    for found in aside.files:
        _remove(found)


def _waiting(target: Path, stamp: str) -> Path:
    return target.with_name(f"{target.name}.restored-{stamp}")


def _before(target: Path, stamp: str) -> Path:
    return target.with_name(f"{target.name}.before-{stamp}")


def _remove(found: Path) -> None:
    if found.is_dir() and not found.is_symlink():
        shutil.rmtree(found)
    else:
        found.unlink(missing_ok=True)

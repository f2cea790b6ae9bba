"""The packs of the evidence: into a backup and out of it again. A pack is never changed, so a hard link is a copy
against everything but a damaged disk, and takes no room and no time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import Connection

from kattegat.evidence.packs import NAME, Objects
from kattegat.lifecycle.backup.errors import MissingPackError
from kattegat.settings import Settings
from kattegat.store.layout import owned_by_parent

Tick = Callable[[int, int], None]


class SweptError(Exception):
    """A pack that the backup's moment needs has been put away since: take another moment."""


def place(settings: Settings) -> str:
    """Where the packs of this install are: a folder, or the URL of an object store."""
    return settings.evidence_url or str(folder(settings))


def folder(settings: Settings) -> Path:
    """The folder of packs where no object store is given."""
    return settings.data_dir / "evidence"


def known(connection: Connection) -> bool:
    """Whether the evidence tables are as this release knows them: it may back up what a newer one uses."""
    return bool(
        connection.exec_driver_sql(
            "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('public.evidence')"
            " AND attname IN ('organisation_id', 'id', 'pack', 'pack_length', 'dropped_at') AND NOT attisdropped"
        ).scalar_one()
        == 5
    )


def see_tables(connection: Connection) -> None:
    """Lets this transaction name our tables without their schema, as the evidence room does."""
    connection.exec_driver_sql("SET LOCAL search_path TO public, pg_catalog")


def needed(connection: Connection) -> dict[str, int] | None:
    """The packs that rows need, with their sizes in bytes; None where that can't be told."""
    if not known(connection):
        return None
    rows = connection.exec_driver_sql(
        "SELECT pack, sum(pack_length) FROM public.evidence WHERE pack IS NOT NULL GROUP BY pack ORDER BY pack"
    )
    return {name: int(size) for name, size in rows}


def everything(settings: Settings) -> dict[str, int]:
    """All packs in the store, whoever needs them; sizes are 0 where the store is not a folder."""
    if settings.evidence_url:
        return {name: 0 for name, _ in Objects.at(settings.evidence_url).names()}
    root = folder(settings)
    if not root.is_dir():
        return {}
    return {name: (root / name).stat().st_size for name, _ in Objects.folder(root).names()}


def linkable(settings: Settings, target: Path) -> bool:
    """Whether packs take no room in this folder."""
    root = folder(settings)
    return not settings.evidence_url and root.is_dir() and root.stat().st_dev == target.stat().st_dev


def fetch(settings: Settings, packs: Mapping[str, int], target: Path, still: Callable[[str], bool], tick: Tick) -> None:
    """Puts the packs into `target`. Raises `MissingPackError` for one that is gone though rows need it (`still`), and
    `SweptError` for one that none needs any more."""
    store = Objects.at(settings.evidence_url) if settings.evidence_url else None
    root = folder(settings)
    for count, name in enumerate(packs):
        new = target / name
        _make(new.parent, target)
        try:
            if not NAME.fullmatch(name):
                raise FileNotFoundError(name)
            if store is None:
                link(root / name, new)
            else:
                new.write_bytes(store.read(name))
        except FileNotFoundError:
            if not still(name):
                raise SweptError(name) from None
            raise MissingPackError(name, place(settings)) from None
        tick(count + 1, len(packs))


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none; raises FileNotFoundError."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o600)
        owned_by_parent(target, target.parent)


def unite(source: Path, settings: Settings, tick: Tick) -> int:
    """Puts the packs of a backup back beside those that are there; gives how many were missing or different.

    Nothing is taken away: a database that is not in use any more still finds what it needs.
    """
    packs = sorted(path for path in source.rglob("*.pack"))
    store = Objects.at(settings.evidence_url) if settings.evidence_url else None
    have = {name for name, _ in store.names()} if store is not None else set()
    root = folder(settings)
    if store is None:
        Objects.folder(root)
    put = 0
    for count, pack in enumerate(packs):
        name = str(pack.relative_to(source))
        if store is not None:
            if name not in have:
                store.put(name, pack.read_bytes())
                put += 1
        elif not _same(pack, root / name):
            _make((root / name).parent, root)
            fresh = (root / name).with_suffix(".new")
            fresh.unlink(missing_ok=True)
            link(pack, fresh)
            owned_by_parent(fresh, root)
            fresh.replace(root / name)
            put += 1
        tick(count + 1, len(packs))
    return put


def _same(one: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    first, second = one.stat(), other.stat()
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    return first.st_size == second.st_size and one.read_bytes() == other.read_bytes()


def _make(way: Path, top: Path) -> None:
    if way.is_dir():
        return
    _make(way.parent, top)
    way.mkdir(mode=0o700, exist_ok=True)
    owned_by_parent(way, way.parent)

"""Which backups there are, and where."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from kattegat.lifecycle.backup import manifest
from kattegat.lifecycle.backup.errors import BackupError, NoBackupError
from kattegat.lifecycle.backup.manifest import Backup
from kattegat.scheduler.beat import release
from kattegat.settings import Settings
from kattegat.store.layout import owned_by_parent

MOST_JOBS = 8


def default_place(settings: Settings) -> Path:
    """Where backups go unless another place is said."""
    return settings.data_dir / "backups"


def jobs() -> int:
    """How many processes dump and restore at once: as many as there are processors, within reason."""
    return max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, MOST_JOBS))


def make(place: Path) -> None:
    """Makes the folder, for its owner only."""
    if not place.is_dir():
        place.mkdir(mode=0o700, parents=True)
        owned_by_parent(place, place.parent)


def sweep(place: Path) -> list[str]:
    """Removes what killed ones left behind; gives their names. One under way is locked by its maker."""
    swept: list[str] = []
    for part in sorted(place.glob(f"*{manifest.PART}")):
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(part, ignore_errors=True)
            swept.append(part.name)
        finally:
            os.close(descriptor)
    return swept


def free_name(place: Path, wanted: str) -> str:
    """The name, or the next one with a number that no backup has."""
    count, name = 1, wanted
    while (place / name).exists():
        count += 1
        name = f"{wanted}.{count}"
    return name


def found(place: Path) -> tuple[list[Backup], list[BackupError]]:
    """The backups in a folder, the newest first, and what is wrong with those that can't be read."""
    backups: list[Backup] = []
    problems: list[BackupError] = []
    for folder in sorted(place.iterdir()) if place.is_dir() else []:
        if not folder.is_dir() or folder.name.endswith(manifest.PART):
            continue
        try:
            backups.append(manifest.read(folder, release()))
        except NoBackupError:
            continue
        except BackupError as problem:
            problems.append(problem)
    backups.sort(key=lambda backup: (backup.manifest.created_at, backup.name), reverse=True)
    return backups, problems


def newest(place: Path, *, proven: bool = False) -> Backup | None:
    """The newest backup in a folder, or the newest proven one; None where there is none."""
    return next((backup for backup in found(place)[0] if backup.proof is not None or not proven), None)


def get(name: str | None, place: Path) -> Backup:
    """The backup of this name in `place`, in the folder of this path, or the newest one.

    Raises `NoBackupError`, `DamagedError` or `NewerError`.
    """
    if name is None:
        backup = newest(place)
        if backup is None:
            raise NoBackupError(f"There is no backup in {place} yet: `kat backup create` makes one.")
        return backup
    folder = Path(name).expanduser().absolute() if os.sep in name else place / name
    with suppress(OSError):
        if not folder.is_dir() and Path(name).is_dir():
            folder = Path(name).absolute()
    return manifest.read(folder, release())

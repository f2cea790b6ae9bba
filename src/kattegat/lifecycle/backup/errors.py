"""What can be wrong with a backup: each says what to type next, and nothing has been changed when it is raised."""

from __future__ import annotations

from pathlib import Path

from kattegat.errors import KattegatError, UsageError


class BackupError(KattegatError):
    """A backup that can't be made, proven or restored."""


class NoBackupError(BackupError, UsageError):
    """There is no backup of this name, or none at all."""

    exit_code = 2


class ToolError(BackupError):
    """pg_dump or pg_restore is missing, too old, or ended with an error; `line` is the telling line."""

    def __init__(self, sentence: str, line: str = "") -> None:
        self.line = line
        super().__init__(sentence)


class SpaceError(BackupError):
    """No room for it; `needed` and `free` are bytes, -1 where the disk was found full on the way."""

    def __init__(self, folder: Path, needed: int, free: int, todo: str = "") -> None:
        self.folder = folder
        self.needed = needed
        self.free = free
        if needed < 0:
            said = f"The disk of {folder} is full, and what was begun there has been removed"
        else:
            said = f"{folder} has {_bytes(free)} free and about {_bytes(needed)} are needed"
        super().__init__(f"{said}: {todo or 'make room, or choose another folder with `kat backup create --to DIR`'}.")


class DamagedError(BackupError):
    """A file of the backup is missing or is not what was written; `file` is its path in the backup."""

    def __init__(self, backup: Path, file: str, what: str) -> None:
        self.backup = backup
        self.file = file
        super().__init__(
            f"The backup {backup.name} can't be used, {file} {what}: `kat backup list` shows the others,"
            " `kat backup create` makes a new one."
        )


class DifferentError(BackupError):
    """What was restored is not what was backed up; `differences` says where, one line each."""

    def __init__(self, backup: Path, differences: list[str]) -> None:
        self.backup = backup
        self.differences = differences
        more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
        super().__init__(
            f"The backup {backup.name} does not hold what was there when it was made ({differences[0]}{more}):"
            " `kat backup create` makes a new one, `kat backup list` shows the others."
        )


class MissingPackError(BackupError):
    """An object of the evidence is gone from its store, or from the backup."""

    def __init__(self, pack: str, where: str) -> None:
        self.pack = pack
        super().__init__(
            f"The pack {pack} of the evidence is missing from {where}: `kat evidence verify` says which records are"
            " lost; put that file back, or leave the evidence out with `kat backup create --no-evidence`."
        )


class LostKeyError(BackupError):
    """The key that the evidence of a backup was encrypted with is not at hand."""


class NewerError(BackupError):
    """A backup that a newer release made; `release` is the one that it needs."""

    def __init__(self, backup: Path, release: str, why: str, ours: str) -> None:
        self.backup = backup
        self.release = release
        super().__init__(
            f"The backup {backup.name} needs Kattegat {release} and this is {ours} ({why}): install"
            f" kattegat=={release} and type the same command again; `kat downgrade` brings the data back afterwards."
        )


class InUseError(BackupError):
    """Processes or sessions use the database that would be replaced."""


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"

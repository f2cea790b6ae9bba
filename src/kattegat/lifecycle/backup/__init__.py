"""Backups: made while everybody goes on writing, proven by a restore into a scratch database, swapped in when needed.

`create`, `verify` and `restore` do the work; `newest`, `found` and `get` say what there is.
"""

from kattegat.lifecycle.backup.create import create
from kattegat.lifecycle.backup.errors import (
    BackupError,
    DamagedError,
    DifferentError,
    InUseError,
    LostKeyError,
    MissingPackError,
    NewerError,
    NoBackupError,
    SpaceError,
    ToolError,
)
from kattegat.lifecycle.backup.listing import default_place, found, get, newest
from kattegat.lifecycle.backup.manifest import Backup, Manifest, Proof
from kattegat.lifecycle.backup.restore import Restored, restore
from kattegat.lifecycle.backup.verify import verify

__all__ = [
    "Backup",
    "BackupError",
    "DamagedError",
    "DifferentError",
    "InUseError",
    "LostKeyError",
    "Manifest",
    "MissingPackError",
    "NewerError",
    "NoBackupError",
    "Proof",
    "Restored",
    "SpaceError",
    "ToolError",
    "create",
    "default_place",
    "found",
    "get",
    "newest",
    "restore",
    "verify",
]

"""What a backup says of itself, and how it lies in its folder.

manifest.json      this, and manifest.sha256 its checksum
files.jsonl        every other file: path, size, SHA-256
database/          pg_dump's directory format
snapshot.json      the shape of the schema
evidence/, anchors/  packs and anchors, as in the data directory
settings.json      settings without secrets
keys.json          the keys, wrapped (where a recovery key is set)
proof.json         when, where and how it was proven; not there before that
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kattegat.lifecycle.backup.errors import BackupError, DamagedError, NewerError, NoBackupError
from kattegat.store.layout import owned_by_parent

FORMAT = 1
PART = ".part"
OWN = ("manifest.json", "manifest.sha256", "files.jsonl", "proof.json")


class File(msgspec.Struct, frozen=True):
    """A file of a backup; `path` is relative to the backup, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


class Contents(msgspec.Struct, frozen=True):
    """What is in a table: its rows, and a fingerprint that no order of rows changes."""

    rows: int
    fingerprint: str


class Evidence(msgspec.Struct, frozen=True):
    """The packs in a backup. `included` is False where they were left out on demand."""

    included: bool
    packs: int
    size: int
    place: str  # a folder, or the URL of the object store


class Manifest(msgspec.Struct, frozen=True):
    """All that is known of a backup. Times are ISO 8601 in UTC, sizes in bytes.

    `release` is the release that the database was in use by, `made_by` the one that made the backup.
    """

    id: str
    name: str
    created_at: str
    seconds: float
    release: str
    made_by: str
    revision: str | None
    server_version: int
    tool_version: str
    database: str
    snapshot: str  # fingerprint of snapshot.json
    point: str  # PostgreSQL's name of the moment: pg_current_snapshot()
    tables: dict[str, Contents]
    sequences: dict[str, int]
    evidence: Evidence
    size: int
    dump_size: int
    database_size: int
    files: str  # SHA-256 of files.jsonl
    keys: str = ""  # id of the recovery key that keys.json is wrapped to
    install_key: str = ""  # id of the install key that the evidence is encrypted with
    label: str = ""
    host: str = ""
    format: int = FORMAT


class Proof(msgspec.Struct, frozen=True):
    """What was proven, when. `keys`: `recovery` (unwrapped), `own` (the install's own key fits), `none` (nothing is
    encrypted). `records` of evidence were decrypted and found whole. `notes` say what was not proven."""

    name: str
    at: str
    by: str
    host: str
    seconds: float
    manifest: str  # SHA-256 of manifest.json
    files: int
    tables: int
    rows: int
    packs: int
    records: int
    keys: str
    notes: list[str] = []


class Backup(msgspec.Struct, frozen=True):
    """A backup on disk; `proof` is None while it has not been proven."""

    path: Path
    manifest: Manifest
    proof: Proof | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name


class _Format(msgspec.Struct):
    """What every later format keeps, so that an older release can say which one to install."""

    format: int
    made_by: str = ""


def digest(path: Path, seen: list[int] | None = None) -> str:
    """SHA-256 of a file in hex; bytes read are added to `seen[0]` on the way."""
    summed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            summed.update(block)
            if seen is not None:
                seen[0] += len(block)
    return summed.hexdigest()


def save(folder: Path, name: str, content: bytes) -> None:
    """Writes a file of a backup durably."""
    target = folder / name
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "wb") as file:
        owned_by_parent(fd, folder)
        file.write(content)
        file.flush()
        os.fsync(fd)


def pretty(document: object) -> bytes:
    """JSON for eyes as well."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write(folder: Path, manifest: Manifest) -> None:
    """Writes manifest and checksum, as the last of all."""
    content = pretty(manifest)
    save(folder, "manifest.json", content)
    save(folder, "manifest.sha256", hashlib.sha256(content).hexdigest().encode() + b"  manifest.json\n")


def read(folder: Path, release: str) -> Backup:
    """The backup in a folder; raises `NoBackupError`, `DamagedError`, or `NewerError` for a format unknown here."""
    try:
        content = (folder / "manifest.json").read_bytes()
        said = (folder / "manifest.sha256").read_text().split()[:1]
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "database").is_dir():
            raise DamagedError(folder, "manifest.json or manifest.sha256", "is missing") from None
        raise NoBackupError(f"{folder} is no backup: `kat backup list` shows what there is.") from None
    except OSError as problem:
        raise BackupError(f"{folder} can't be read ({problem.strerror}): run as its owner.") from None
    if said != [hashlib.sha256(content).hexdigest()]:
        raise DamagedError(folder, "manifest.json", "was changed")
    try:
        form = msgspec.json.decode(content, type=_Format)
        if form.format > FORMAT:
            why = f"its format is {form.format}, known here is {FORMAT}"
            raise NewerError(folder, form.made_by or "(newer)", why, release)
        found = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as problem:
        raise DamagedError(folder, "manifest.json", f"can't be read ({problem})") from None
    return Backup(folder, found, _proof(folder, content))


def _proof(folder: Path, content: bytes) -> Proof | None:
    try:
        proof = msgspec.json.decode((folder / "proof.json").read_bytes(), type=Proof)
    except (OSError, msgspec.MsgspecError):
        return None
    return proof if proof.manifest == hashlib.sha256(content).hexdigest() else None


def files(backup: Backup) -> list[File]:
    """The list of files, checked against the manifest; raises `DamagedError`."""
    try:
        content = (backup.path / "files.jsonl").read_bytes()
    except FileNotFoundError:
        raise DamagedError(backup.path, "files.jsonl", "is missing") from None
    if hashlib.sha256(content).hexdigest() != backup.manifest.files:
        raise DamagedError(backup.path, "files.jsonl", "was changed")
    return [msgspec.json.decode(line, type=File) for line in content.splitlines()]


def inside(folder: Path) -> Iterator[Path]:
    """Every file of a backup but those that describe it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in OWN:
            yield path


def number(release: str) -> tuple[int, ...]:
    """A release for comparing: `0.2.0.dev1` comes before `0.2.0`."""
    plain = re.match(r"\d+(?:\.\d+)*", release)
    parts = [int(part) for part in (plain[0].split(".") if plain else [])]
    while parts and parts[-1] == 0:
        parts.pop()
    early = re.search(r"(?:dev|a|b|rc)(\d*)", release[plain.end() :] if plain else release)
    return (*(parts + [0] * 4)[:4], 0 if early else 1, int(early[1] or 0) if early else 0)


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)

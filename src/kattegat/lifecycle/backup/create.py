"""Making a backup while everybody goes on writing: dump, counts and fingerprints are of one exported snapshot."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import msgspec
from sqlalchemy import Connection

from kattegat.lifecycle import keys
from kattegat.lifecycle.backup import contents, evidence, ledger, listing, manifest, reach, tools
from kattegat.lifecycle.backup.errors import BackupError, SpaceError
from kattegat.lifecycle.backup.manifest import Backup, Contents, Evidence, File, Manifest
from kattegat.scheduler.beat import release
from kattegat.schema import snapshot as shapes
from kattegat.settings import SETTINGS, Settings
from kattegat.store.database import Database
from kattegat.store.layout import owned_by_parent

# What is under way, and how much of it is done: bytes for the database and checksums, packs for the evidence.
Progress = Callable[[str, int, int], None]

MARGIN = 32 * 1024 * 1024
# Compressed rows as a part of the table on disk, where no earlier backup says better.
RATIO = 0.4
TRIES = 3
SECRET_SETTINGS = ("KAT_DATABASE_URL", "KAT_EVIDENCE_URL")


def silent(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def create(
    settings: Settings,
    database: Database,
    *,
    to: Path | None = None,
    jobs: int | None = None,
    label: str = "",
    with_evidence: bool = True,
    progress: Progress = silent,
) -> Backup:
    """Makes a backup in a new folder below `to` (by default `backups` in the data directory) and gives it.

    Raises `BackupError` (`ToolError`, `SpaceError`, `MissingPackError`), `DatabaseUnreachableError` or
    `RecoveryError`; nothing is left behind then. A killed one leaves a `.part` that the next one removes.
    """
    way = reach.of(settings, database)
    found = tools.find(way, settings.pg_bin)
    place = to or listing.default_place(settings)
    with _as_sentences(place):
        listing.make(place)
        listing.sweep(place)
        for tried in range(TRIES):
            try:
                with _part(place) as part:
                    made = _Making(settings, way, found, place, part, jobs or listing.jobs(), label, with_evidence)
                    backup = made.make(progress)
                break
            except evidence.SweptError as problem:
                # Retention took what our moment needed; a later moment does not need it.
                if tried == TRIES - 1:
                    raise BackupError(
                        f"The evidence changes faster than it can be copied ({problem}): try again later."
                    ) from None
    ledger.record(way, backup)
    return backup


class _Making:
    def __init__(
        self,
        settings: Settings,
        way: reach.Reach,
        found: tools.Tools,
        place: Path,
        part: Path,
        jobs: int,
        label: str,
        with_evidence: bool,
    ) -> None:
        self.settings = settings
        self.reach = way
        self.tools = found
        self.place = place
        self.part = part
        self.jobs = jobs
        self.label = label
        self.with_evidence = with_evidence
        self.started = manifest.now()
        self.id = str(uuid4())
        self.previous = listing.newest(place)

    def make(self, progress: Progress) -> Backup:
        start = time.monotonic()
        recovery = keys.recovery(self.settings.data_dir)
        bundle = keys.collect(self.settings.data_dir, _secrets())
        # Before the moment: a root is anchored after it was committed, so no anchor here lacks its root.
        anchors = self.settings.data_dir / "anchors"
        if anchors.is_dir():
            shutil.copytree(anchors, self.part / "anchors")
        manifest.save(self.part, "settings.json", manifest.pretty(_plain_settings()))
        if recovery is not None:
            wrapped = keys.wrap(recovery, bundle, self.id)
            manifest.save(self.part, "keys.json", manifest.pretty(wrapped))
        with self.reach.begin() as connection:
            moment = self._moment(connection)
            packs = self._evidence(connection, moment, progress)
            shape = shapes.read(connection)
            manifest.save(self.part, "snapshot.json", shape.document() + b"\n")
            sequences = contents.sequences(connection)
            tables = self._database(moment, progress)
        listed = self._files(progress)
        install_key = bundle.install_key()
        name = listing.free_name(self.place, f"{self.started:%Y%m%dT%H%M%SZ}-{moment['release']}")
        described = Manifest(
            id=self.id,
            name=name,
            created_at=self.started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - start, 3),
            release=moment["release"],
            made_by=release(),
            revision=moment["revision"],
            server_version=self.reach.version,
            tool_version=self.tools.version,
            database=self.reach.database,
            snapshot=shape.fingerprint(),
            point=moment["point"],
            tables=tables,
            sequences=sequences,
            evidence=packs,
            size=sum(file.size for file in listed),
            dump_size=sum(file.size for file in listed if file.path.startswith("database/")),
            database_size=moment["size"],
            files=manifest.digest(self.part / "files.jsonl"),
            keys=recovery.key_id() if recovery else "",
            install_key=keys.key_id(install_key) if install_key else "",
            label=self.label,
            host=socket.gethostname(),
        )
        manifest.write(self.part, described)
        _settle(self.part)
        target = self.place / name
        self.part.rename(target)
        _settle(self.place, deep=False)
        return Backup(target, described)

    def _moment(self, connection: Connection) -> dict[str, Any]:
        hidden = reach.unseen(connection)
        if hidden:
            raise BackupError(
                f"The login of the database does not see every row of {hidden[0]}: make it a superuser, or give it"
                " BYPASSRLS, and try again."
            )
        found = contents.tables(connection)
        version = connection.exec_driver_sql("SELECT to_regclass('public.alembic_version') IS NOT NULL").scalar()
        revision = None
        if version:
            revision = connection.exec_driver_sql("SELECT version_num FROM public.alembic_version").scalar()
        point = connection.exec_driver_sql("SELECT pg_export_snapshot(), pg_current_snapshot()::text").one()
        return {
            "release": ledger.release_of(connection) or release(),
            "revision": revision,
            "snapshot": point[0],
            "point": point[1],
            "tables": found,
            "size": sum(table.size for table in found),
        }

    def _evidence(self, connection: Connection, moment: dict[str, Any], progress: Progress) -> Evidence:
        where = evidence.place(self.settings)
        packs: dict[str, int] = {}
        if self.with_evidence:
            named = evidence.needed(connection)
            packs = evidence.everything(self.settings) if named is None else named
        room = 0 if evidence.linkable(self.settings, self.part) else sum(packs.values())
        room += self._expected(moment["size"]) + MARGIN
        free = tools.free(self.place)
        if free < room:
            raise SpaceError(self.place, room, free)
        if not self.with_evidence:
            return Evidence(False, 0, 0, where)
        folder = self.part / "evidence"
        folder.mkdir(mode=0o700)

        def still(name: str) -> bool:
            with self.reach.begin() as now:
                return name in (evidence.needed(now) or {})

        evidence.fetch(self.settings, packs, folder, still, lambda done, total: progress("evidence", done, total))
        size = sum(path.stat().st_size for path in folder.rglob("*.pack"))
        return Evidence(True, len(packs), size, where)

    def _expected(self, size: int) -> int:
        """Bytes that the dump will have: as the last one's in proportion, or a guess."""
        if self.previous is not None and self.previous.manifest.database_size:
            return int(size * self.previous.manifest.dump_size / self.previous.manifest.database_size * 1.1)
        return int(size * RATIO)

    def _database(self, moment: dict[str, Any], progress: Progress) -> dict[str, Contents]:
        target = self.part / "database"
        expected = max(self._expected(moment["size"]), 1)
        readers = max(1, self.jobs // 2)
        reading = contents.Reading(self.reach, moment["tables"], moment["snapshot"], readers, None)

        def tick() -> None:
            written = sum(entry.stat().st_size for entry in os.scandir(target)) if target.is_dir() else 0
            progress("database", min(written, expected - 1), expected)

        try:
            tools.dump(self.tools, self.reach, target, moment["snapshot"], self.jobs, tick)
        except BaseException:
            reading.stop()
            with suppress(BackupError):
                reading.result(lambda: None)
            raise
        results = reading.result(tick)
        progress("database", expected, expected)
        return results

    def _files(self, progress: Progress) -> list[File]:
        paths = list(manifest.inside(self.part))
        known = self._known()
        total = sum(path.stat().st_size for path in paths)
        done = [0]

        def one(path: Path) -> File:
            name = str(path.relative_to(self.part))
            found = path.stat()
            earlier = known.get(name)
            if earlier is not None and earlier[0] == (found.st_dev, found.st_ino, found.st_size):
                done[0] += found.st_size
                return File(name, found.st_size, earlier[1])
            return File(name, found.st_size, manifest.digest(path, done))

        with ThreadPoolExecutor(self.jobs) as pool:
            work = [pool.submit(one, path) for path in paths]
            for future in work:
                future.result()
                progress("checksums", done[0], total)
            listed = [future.result() for future in work]
        progress("checksums", total, total)
        manifest.save(self.part, "files.jsonl", b"".join(msgspec.json.encode(file) + b"\n" for file in listed))
        return listed

    def _known(self) -> dict[str, tuple[tuple[int, int, int], str]]:
        """Checksums of packs that the last backup shares with us, being the same file: they need not be read again."""
        if self.previous is None:
            return {}
        found: dict[str, tuple[tuple[int, int, int], str]] = {}
        try:
            for file in manifest.files(self.previous):
                if file.path.startswith("evidence/"):
                    stat = (self.previous.path / file.path).stat()
                    found[file.path] = ((stat.st_dev, stat.st_ino, file.size), file.sha256)
        except (BackupError, OSError):
            return {}
        return found


def _secrets() -> dict[str, str]:
    return {name: os.environ[name] for name in SECRET_SETTINGS if os.environ.get(name)}


def _plain_settings() -> dict[str, str]:
    """The settings of the environment, passwords left out."""
    return {
        name: _without_password(os.environ[name]) if name in SECRET_SETTINGS else os.environ[name]
        for name in sorted(SETTINGS)
        if os.environ.get(name)
    }


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    login, at, rest = parts.netloc.rpartition("@")
    # Passwords are put into the query as well.
    return urlunsplit((parts.scheme, f"{login.split(':')[0]}{at}{rest}", parts.path, "", ""))


@contextmanager
def _part(place: Path) -> Iterator[Path]:
    """A folder that is being made; locked, so that no other `create` takes it for left behind, and gone at the end."""
    part = place / f"{manifest.now():%Y%m%dT%H%M%SZ}-{os.getpid()}-{threading.get_ident()}{manifest.PART}"
    part.mkdir(mode=0o700)
    owned_by_parent(part, place)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _as_sentences(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(place, -1, 0) from problem
        raise BackupError(
            f"A backup can't be written to {place} ({problem.strerror} at {problem.filename}): choose another folder"
            " with `kat backup create --to DIR`."
        ) from problem


def _settle(folder: Path, *, deep: bool = True) -> None:
    """Flushes a folder and what is in it, so that a backup that has its name survives a power cut."""
    paths = [folder, *folder.rglob("*")] if deep else [folder]
    for path in paths:
        if path.is_file() and path.stat().st_nlink > 1:
            # A pack that the vault has flushed under its other name, which says whose it is.
            continue
        owned_by_parent(path, folder.parent)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

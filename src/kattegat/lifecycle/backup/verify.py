"""Proving a backup: every file, the keys, a restore into a scratch database, and evidence that opens."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.evidence import packs, vault
from kattegat.evidence import verify as evidence_verify
from kattegat.evidence.errors import DestroyedKeyError, EvidenceError
from kattegat.evidence.keys import InstallKey
from kattegat.lifecycle import keys
from kattegat.lifecycle.backup import evidence, fill, ledger, listing, manifest, reach, tools
from kattegat.lifecycle.backup.errors import DamagedError, DifferentError, LostKeyError, SpaceError
from kattegat.lifecycle.backup.manifest import Backup, Proof
from kattegat.scheduler.beat import release
from kattegat.schema import scratch
from kattegat.settings import Settings
from kattegat.store.database import Database
from kattegat.store.layout import write_file

Progress = Callable[[str, int, int], None]
# One record of so many packs is opened unless all are asked for.
SAMPLE = 200
MARGIN = 64 * 1024 * 1024
# A restored database is larger than its tables: indexes, and the log that is written meanwhile.
ROOM = 2.0

SAMPLED = text(
    """
    SELECT organisation_id, id FROM (
        SELECT DISTINCT ON (pack) organisation_id, id, pack FROM public.evidence WHERE pack IS NOT NULL
        ORDER BY pack, id
    ) AS one ORDER BY md5(pack) LIMIT :limit
    """
)


class Opened(msgspec.Struct, frozen=True):
    """The keys of a backup: the install key (None where nothing is encrypted), and how they were got."""

    install_key: bytes | None
    how: str
    bundle: keys.Bundle | None
    notes: list[str]


def verify(
    settings: Settings,
    database: Database,
    backup: Backup,
    *,
    secret: keys.Secret | None = None,
    all_evidence: bool = False,
    jobs: int | None = None,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Proves a backup on the server of this install, and notes that in the backup and in the database.

    Without `secret` the install's own key opens the evidence, and the proof says that the recovery key was not tried.
    Raises `DamagedError`, `DifferentError`, `LostKeyError`, `ToolError`, `ScratchError`, `RecoveryError`.
    """
    start = time.monotonic()
    count = jobs or listing.jobs()
    check_room(settings, backup)
    listed = check_files(backup, count, progress)
    opened = unlock(settings, backup, secret)
    way = reach.of(settings, database)
    found = tools.find(way, settings.pg_bin)
    with scratch.database(way.conninfo(), owner="kat_owner" if way.embedded else None) as made:
        fill.fill(way, found, backup, made.name, count, progress)
        rows = fill.compare(way, backup, made.name, count, progress)
        with way.begin(made.name) as connection:
            records, notes = check_evidence(connection, backup, opened, all_evidence, progress)
    proof = Proof(
        name=backup.name,
        at=manifest.now().isoformat(timespec="seconds"),
        by=release(),
        host=socket.gethostname(),
        seconds=round(time.monotonic() - start, 3),
        manifest=hashlib.sha256((backup.path / "manifest.json").read_bytes()).hexdigest(),
        files=listed,
        tables=len(backup.manifest.tables),
        rows=rows,
        packs=backup.manifest.evidence.packs,
        records=records,
        keys=opened.how,
        notes=[*opened.notes, *notes],
    )
    write_file(backup.path / "proof.json", manifest.pretty(proof).decode(), 0o600)
    ledger.record(way, backup, proof)
    return proof


def room(settings: Settings, backup: Backup) -> int:
    """Bytes that a second database takes on the disk of this install: with a given server none that we know of."""
    return 0 if settings.database_url else MARGIN + int(backup.manifest.database_size * ROOM)


def check_room(settings: Settings, backup: Backup) -> None:
    """Raises `SpaceError` where a second database does not fit."""
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.is_dir())
    needed, free = room(settings, backup), tools.free(folder)
    if free < needed:
        raise SpaceError(folder, needed, free, "make room there and type the same command again")


def check_files(backup: Backup, jobs: int, progress: Progress) -> int:
    """Reads every file of a backup again; gives how many there are. Raises `DamagedError`."""
    listed = manifest.files(backup)
    for file in listed:
        path = backup.path / file.path
        if not path.is_file():
            raise DamagedError(backup.path, file.path, "is missing")
        if path.stat().st_size != file.size:
            raise DamagedError(backup.path, file.path, f"has {path.stat().st_size} bytes in place of {file.size}")
    total = max(sum(file.size for file in listed), 1)
    done = [0]
    with ThreadPoolExecutor(jobs) as pool:
        summed = pool.map(lambda file: manifest.digest(backup.path / file.path, done), listed)
        for file, found in zip(listed, summed, strict=True):
            if found != file.sha256:
                pool.shutdown(cancel_futures=True)
                raise DamagedError(backup.path, file.path, "was changed")
            progress("checksums", done[0], total)
    progress("checksums", total, total)
    return len(listed)


def unlock(settings: Settings, backup: Backup, secret: keys.Secret | None) -> Opened:
    """The keys of a backup, by the recovery secret or as this install has them.

    Raises `LostKeyError` when neither will do, `WrongRecoveryError`, `RecoveryError`, or `DamagedError`.
    """
    told = backup.manifest
    if secret is not None:
        if not told.keys:
            raise LostKeyError(
                f"The backup {backup.name} carries no keys, since no recovery passphrase was set when it was made:"
                " leave out --passphrase-file and --private-key."
            )
        bundle = keys.unwrap(wrapped(backup), secret, told.id)
        key = bundle.install_key()
        if told.install_key and (key is None or keys.key_id(key) != told.install_key):
            raise DamagedError(backup.path, "keys.json", "holds another install key than the evidence needs")
        return Opened(key, "recovery" if key else "none", bundle, [])
    if not told.install_key:
        return Opened(None, "none", None, [])
    own = InstallKey(settings.data_dir / keys.INSTALL_KEY)
    found = own.load() if own.exists() else None
    if found is None or keys.key_id(found) != told.install_key:
        what = "is missing" if found is None else "is another one"
        todo = (
            "give the recovery passphrase with --passphrase-file FILE (or --private-key FILE)"
            if told.keys
            else "put back that file, which this backup does not carry since no recovery passphrase was set"
        )
        raise LostKeyError(
            f"The evidence in {backup.name} is encrypted with install key {told.install_key}, and {own.path} {what}:"
            f" {todo}."
        )
    note = (
        "the keys in it were not opened, the install's own key was used: give --passphrase-file to prove them too"
        if told.keys
        else "it carries no keys, only the install's own key opens its evidence: `kat keys recovery set` changes that"
    )
    return Opened(found, "own", None, [note])


def wrapped(backup: Backup) -> keys.Wrapped:
    """The wrapped keys of a backup; raises `DamagedError`."""
    try:
        return msgspec.json.decode((backup.path / "keys.json").read_bytes(), type=keys.Wrapped)
    except (OSError, msgspec.MsgspecError) as problem:
        raise DamagedError(backup.path, "keys.json", f"can't be read ({problem})") from None


def check_evidence(
    connection: Connection, backup: Backup, opened: Opened, everything: bool, progress: Progress
) -> tuple[int, list[str]]:
    """Opens evidence of the restored database from the backup's packs; how many records, and what was left out.

    Raises `DamagedError` for a pack that is missing, `DifferentError` for evidence that does not open.
    """
    if not backup.manifest.evidence.included:
        return 0, ["the evidence was left out of it"]
    needed = evidence.needed(connection)
    if needed is None:
        return 0, [f"its evidence was not opened: release {backup.manifest.release} keeps it in another form"]
    evidence.see_tables(connection)
    folder = backup.path / "evidence"
    for name in needed:
        if not (folder / name).is_file():
            raise DamagedError(backup.path, f"evidence/{name}", "is missing")
    if opened.install_key is None:
        return 0, []
    where = vault.Vault(packs.Objects.folder(folder), keys.HeldKey(opened.install_key), backup.path / "anchors")
    return (_all if everything else _sample)(connection, where, backup, progress), []


def _sample(connection: Connection, where: vault.Vault, backup: Backup, progress: Progress) -> int:
    rows = connection.execute(SAMPLED, {"limit": SAMPLE}).all()
    opened = 0
    for count, row in enumerate(rows):
        try:
            vault.get(connection, where, row.organisation_id, row.id)
            opened += 1
        except DestroyedKeyError:
            # What was destroyed before the backup was made stays so.
            continue
        except (EvidenceError, KattegatError) as problem:
            raise DifferentError(backup.path, [str(problem).rstrip(".")]) from None
        progress("evidence", count + 1, len(rows))
    return opened


def _all(connection: Connection, where: vault.Vault, backup: Backup, progress: Progress) -> int:
    found = list(connection.execute(text("SELECT id FROM public.organisation ORDER BY id")).scalars())
    records = 0
    for count, organisation in enumerate(found):
        # The last roots before the moment may have been anchored after it.
        report = evidence_verify.verify(connection, where, organisation, anchor_grace=timedelta(days=36500))
        if report.problems:
            raise DifferentError(backup.path, [problem.text.rstrip(".") for problem in report.problems])
        records += report.intact
        progress("evidence", count + 1, len(found))
    return records

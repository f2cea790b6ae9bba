"""`kat backup create|list|verify|restore|discard`."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from kattegat import settings
from kattegat.cli.install import NoInstallError
from kattegat.cli.output import emit, progress_console, table
from kattegat.cli.supervise import Seat
from kattegat.errors import KattegatError, UsageError
from kattegat.evidence.keys import InstallKey
from kattegat.lifecycle import backup, keys
from kattegat.lifecycle.backup import listing, reach, swap
from kattegat.lifecycle.backup.manifest import Backup
from kattegat.settings import Settings
from kattegat.store import server
from kattegat.store.database import Database, open_database

app = App(name="backup", help="Backups: database, evidence and keys, proven by a restore.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
Jobs = Annotated[int | None, Parameter(help="How many processes at once; as many as there are processors.")]
PassphraseFile = Annotated[Path | None, Parameter(help="A file with the recovery passphrase; - for standard input.")]
PrivateKey = Annotated[Path | None, Parameter(help="A file with the private key (PEM), where a public key was set.")]

STAGES = {
    "evidence": "Evidence",
    "database": "Dumping",
    "checksums": "Checksums",
    "restore": "Restoring",
    "compare": "Comparing",
    "packs": "Evidence back",
}
COUNTED = ("evidence", "packs")


@app.command
def create(
    *,
    to: Path | None = None,
    jobs: Jobs = None,
    label: str = "",
    evidence: Annotated[bool, Parameter(negative="--no-evidence")] = True,
    json: Json = False,
) -> int:
    """Makes a backup; everybody may go on writing meanwhile.

    Parameters
    ----------
    to
        The folder to make it in, in place of backups in the data directory.
    label
        A few words to know it by.
    evidence
        With --no-evidence the packs are left out.
    """
    _check_jobs(jobs)
    with reached() as (chosen, database), stages() as progress:
        made = backup.create(
            chosen,
            database,
            to=to.expanduser().absolute() if to else None,
            jobs=jobs,
            label=label,
            with_evidence=evidence,
            progress=progress,
        )
    emit(_document(made), json, lambda console: _created(console, made))
    return 0


def _created(console: Console, made: Backup) -> None:
    told = made.manifest
    rows = sum(contents.rows for contents in told.tables.values())
    console.print(f"{made.path}", style="bold", markup=False, soft_wrap=True)
    console.print(
        f"Release {told.release}, revision {told.revision}: {rows:,} rows in {len(told.tables)} tables,"
        f" {told.evidence.packs:,} packs of evidence, {size(told.size)}, {told.seconds:.1f} s.",
        markup=False,
    )
    if not told.keys:
        console.print("No recovery passphrase is set, so the keys are not in it: kat keys recovery set", style="yellow")
    console.print("kat backup verify proves it.", style="dim")


@app.command(name="list")
def list_(*, place: Annotated[Path | None, Parameter(name="--in")] = None, json: Json = False) -> int:
    """Lists the backups, and what restores have put aside.

    Parameters
    ----------
    place
        The folder to look in, in place of backups in the data directory.
    """
    chosen = settings.load()
    where = place.expanduser().absolute() if place else listing.default_place(chosen)
    backups, problems = backup.found(where)
    aside: list[swap.Kept] = []
    if chosen.database_url or server.status(chosen.data_dir).state == server.State.RUNNING:
        with suppress(KattegatError), reached() as (_, database):
            aside = swap.kept(chosen, reach.of(chosen, database))
    document = {
        "place": str(where),
        "backups": [_document(found) for found in backups],
        "unusable": [str(problem) for problem in problems],
        "put_aside": [{"stamp": kept.stamp, "database": kept.database, "files": kept.files} for kept in aside],
    }

    def show(console: Console) -> None:
        cells = [
            (
                found.name,
                found.manifest.release,
                found.manifest.revision,
                size(found.manifest.size),
                found.proof.at if found.proof else "no",
                found.manifest.label,
            )
            for found in backups
        ]
        columns = ["name", "release", "revision", "size", "proven (UTC)", "label"]
        console.print(table(columns, cells, empty=f"There is no backup in {where} yet: kat backup create makes one."))
        for problem in problems:
            console.print(str(problem), style="red", markup=False)
        for kept in aside:
            console.print(
                f"Put aside by a restore: {kept.stamp}; kat backup discard {kept.stamp} removes it for good.",
                markup=False,
            )

    emit(document, json, show)
    return 0


@app.command
def verify(
    name: str | None = None,
    /,
    *,
    passphrase_file: PassphraseFile = None,
    private_key: PrivateKey = None,
    all_evidence: Annotated[bool, Parameter(negative="")] = False,
    jobs: Jobs = None,
    json: Json = False,
) -> int:
    """Proves a backup: checksums, a restore into a scratch database, the keys, evidence that opens.

    Parameters
    ----------
    name
        The name of a backup, or its folder; the newest without it.
    all_evidence
        Opens every record of evidence and checks the whole chain, in place of one record of each of 200 packs.
    """
    _check_jobs(jobs)
    chosen = settings.load()
    which = backup.get(name, listing.default_place(chosen))
    secret = secret_from(passphrase_file, private_key)
    if secret is None and which.manifest.keys and sys.stdin.isatty():
        secret = ask("Recovery passphrase (Enter to use the install's own key): ")
    with reached() as (chosen, database), stages() as progress:
        proof = backup.verify(
            chosen, database, which, secret=secret, all_evidence=all_evidence, jobs=jobs, progress=progress
        )

    def show(console: Console) -> None:
        opened = {"recovery": "the recovery key opens its keys", "own": "the install's own key opens its evidence"}
        console.print(
            f"{proof.name} is proven: {proof.files:,} files, {proof.rows:,} rows in {proof.tables} tables are as they"
            f" were, {proof.records:,} records of evidence opened; {opened.get(proof.keys, 'nothing is encrypted')}.",
            style="green",
            markup=False,
        )
        for note in proof.notes:
            console.print(f"Note: {note}.", style="yellow", markup=False)

    emit(proof, json, show)
    return 0


@app.command
def restore(
    name: str,
    /,
    *,
    passphrase_file: PassphraseFile = None,
    private_key: PrivateKey = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
    jobs: Jobs = None,
    json: Json = False,
) -> int:
    """Restores a backup into a new database, compares it, and puts it in place of the present one, which is kept.

    Parameters
    ----------
    name
        The name of a backup, or its folder (on a new machine: the folder).
    yes
        Replaces a database that is in use, without asking.
    """
    _check_jobs(jobs)
    chosen = settings.load()
    which = backup.get(name, listing.default_place(chosen))
    secret = secret_from(passphrase_file, private_key)
    if secret is None and which.manifest.keys and not InstallKey(chosen.data_dir / keys.INSTALL_KEY).exists():
        secret = ask("Recovery passphrase: ") if sys.stdin.isatty() else None
    seat = _seat(chosen)
    started: list[bool] = []

    def open_() -> Database:
        running = bool(chosen.database_url) or server.status(chosen.data_dir).state == server.State.RUNNING
        started.append(not running)
        return open_database(chosen)

    try:
        if not yes and sys.stdin.isatty():
            yes = input(f"Put {which.name} in place of the present database? [y/N] ").strip().lower() in ("y", "yes")
            if not yes:
                raise UsageError("Nothing was changed.")
        with stages() as progress:
            done = backup.restore(chosen, which, open_, secret=secret, replace=yes, jobs=jobs, progress=progress)
    finally:
        if True in started:
            server.stop(chosen.data_dir)
        if seat is not None:
            seat.leave()

    def show(console: Console) -> None:
        console.print(
            f"{done.name} is restored: {done.rows:,} rows, {done.packs:,} packs put back, {done.records:,} records of"
            " evidence opened. kat up starts the install.",
            style="green",
            markup=False,
        )
        for note in done.notes:
            console.print(f"Note: {note}.", style="yellow", markup=False)
        if done.kept_as:
            console.print(
                f"What was there before is kept (database {done.kept_database}): kat backup discard {done.kept_as}"
                " removes it for good.",
                markup=False,
            )

    emit(done, json, show)
    return 0


@app.command
def discard(stamp: str, /, *, json: Json = False) -> int:
    """Removes for good what a restore put aside.

    Parameters
    ----------
    stamp
        As kat backup list shows it.
    """
    with reached() as (chosen, database):
        way = reach.of(chosen, database)
        aside = {kept.stamp: kept for kept in swap.kept(chosen, way)}
        if stamp not in aside:
            there = ", ".join(aside) or "nothing"
            raise UsageError(f"No restore has put aside {stamp!r}; there is: {there}.")
        swap.discard(way, aside[stamp])
    emit({"discarded": stamp}, json, lambda console: console.print(f"{stamp} is gone.", markup=False))
    return 0


@contextmanager
def reached() -> Iterator[tuple[Settings, Database]]:
    """The database of this install whatever its revision: a backup is made before it is brought to another.

    A server that was started for it is stopped again; a restore that was broken off is ended first.
    """
    chosen = settings.load()
    started = False
    if not chosen.database_url:
        state = server.status(chosen.data_dir).state
        if state == server.State.ABSENT:
            raise NoInstallError(
                f"There is no install in {chosen.data_dir} yet: kat up makes one, kat backup restore FOLDER brings one"
                " back."
            )
        started = state != server.State.RUNNING
    database = open_database(chosen)
    try:
        said = swap.settle(chosen, database)
        if said is not None:
            progress_console().print(said, markup=False)
        yield chosen, database
    finally:
        database.close()
        seat = Seat.take(chosen) if started else None
        if seat is not None:
            server.stop(chosen.data_dir)
            seat.leave()


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of the work, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=progress_console()) as bars:
        known: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            said = f"{done:,} of {total:,}" if stage in COUNTED else f"{size(done)} of {size(total)}"
            if stage not in known:
                known[stage] = bars.add_task(STAGES.get(stage, stage), total=total, said=said)
            bars.update(known[stage], completed=done, total=total, said=said)

        yield progress


def secret_from(passphrase_file: Path | None, private_key: Path | None) -> keys.Secret | None:
    """The recovery secret from files; None without any. Raises `UsageError` for a file that can't be read."""
    if passphrase_file is None and private_key is None:
        return None
    try:
        passphrase = ""
        if passphrase_file is not None:
            text = sys.stdin.readline() if str(passphrase_file) == "-" else passphrase_file.read_text()
            passphrase = text.splitlines()[0].strip() if text.strip() else ""
        return keys.Secret(passphrase, private_key.read_bytes() if private_key is not None else b"")
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"{passphrase_file or private_key} can't be read ({problem}); give another file.") from None


def ask(prompt: str) -> keys.Secret | None:
    """The passphrase as typed, unseen; None for an empty one."""
    typed = getpass.getpass(prompt).strip()
    return keys.Secret(typed) if typed else None


def size(count: int) -> str:
    """Bytes for eyes."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _document(found: Backup) -> dict[str, Any]:
    told = msgspec.to_builtins(found.manifest)
    told["tables"] = len(found.manifest.tables)
    told["rows"] = sum(contents.rows for contents in found.manifest.tables.values())
    del told["sequences"]
    return {"path": str(found.path), **told, "proof": msgspec.to_builtins(found.proof)}


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and not 0 < jobs <= 64:
        raise UsageError(f"--jobs {jobs} is out of range; it is 1 to 64.")


def _seat(chosen: Settings) -> Seat | None:
    """Keeps `kat up` from starting meanwhile; None where nothing has ever been there."""
    if not chosen.data_dir.is_dir():
        return None
    seat = Seat.take(chosen)
    if seat is None:
        raise backup.InUseError("This install runs: stop it with Ctrl-C in `kat up`, then type the same command again.")
    return seat

"""`kat keys recovery set|check|show`: what the keys in backups are wrapped to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console

from kattegat import settings
from kattegat.cli.backup import PassphraseFile, PrivateKey, ask, secret_from
from kattegat.cli.install import NoInstallError
from kattegat.cli.output import emit
from kattegat.errors import UsageError
from kattegat.lifecycle import keys
from kattegat.settings import Settings

app = App(name="keys", help="The keys of this install.")
recovery = App(name="recovery", help="The passphrase or public key that backups wrap the install's keys to.")
app.command(recovery)

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]


@recovery.command(name="set")
def set_(
    *,
    passphrase_file: PassphraseFile = None,
    recipient: Path | None = None,
    replace: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Sets the recovery passphrase: a new one, shown this once, unless a file with one or a public key is given.

    Parameters
    ----------
    recipient
        A file with an X25519 public key (PEM); then only its private key opens the keys in backups.
    replace
        Takes the place of one that is set; backups made until now still need the former.
    """
    chosen = _install()
    if keys.recovery(chosen.data_dir) is not None and not replace:
        raise UsageError(
            "A recovery key is set already: `kat keys recovery check` tries it, `kat keys recovery set --replace` sets"
            " another, and backups made until now still need the former."
        )
    if recipient is not None and passphrase_file is not None:
        raise UsageError("Give either --recipient or --passphrase-file.")
    shown: str | None = None
    if recipient is not None:
        try:
            made = keys.set_recipient(chosen.data_dir, recipient.read_bytes())
        except OSError as problem:
            raise UsageError(f"{recipient} can't be read ({problem.strerror}); give another file.") from None
    elif passphrase_file is not None:
        secret = secret_from(passphrase_file, None)
        made = keys.set_passphrase(chosen.data_dir, secret.passphrase if secret else "")
    else:
        shown = keys.generate()
        made = keys.set_passphrase(chosen.data_dir, shown, generated=True)
    document: dict[str, Any] = {"kind": made.kind, "key": made.key_id(), "made_at": made.made_at, "passphrase": shown}

    def show(console: Console) -> None:
        if shown is not None:
            console.print("The recovery passphrase is", end=" ")
            console.print(shown, style="bold", markup=False)
            console.print(
                "It is shown this once. Keep it away from this machine: whoever has it and a backup can read the"
                " evidence, and without it a backup can't be brought back on a new machine."
            )
        console.print(f"Backups made from now on wrap the keys to it (key {made.key_id()}).", markup=False)

    emit(document, json, show)
    return 0


@recovery.command
def check(*, passphrase_file: PassphraseFile = None, private_key: PrivateKey = None, json: Json = False) -> int:
    """Tries the recovery passphrase or private key. Ends with 3 when it is not the one that is set."""
    found = _set(_install())
    secret = secret_from(passphrase_file, private_key)
    if secret is None and found.kind != "recipient" and sys.stdin.isatty():
        secret = ask("Recovery passphrase: ")
    if secret is None:
        raise UsageError("Give the passphrase with --passphrase-file FILE, or the private key with --private-key FILE.")
    keys.check(found, secret)
    emit({"key": found.key_id(), "right": True}, json, lambda console: console.print("It is the right one."))
    return 0


@recovery.command
def show(*, json: Json = False) -> int:
    """Says what backups wrap the keys to."""
    found = _set(_install())
    kinds = {"generated": "a passphrase made by Kattegat", "passphrase": "a passphrase", "recipient": "a public key"}
    emit(
        {"kind": found.kind, "key": found.key_id(), "public": found.public, "made_at": found.made_at},
        json,
        lambda console: console.print(
            f"Backups wrap the keys to {kinds[found.kind]}, set at {found.made_at} (key {found.key_id()}).",
            markup=False,
        ),
    )
    return 0


def _install() -> Settings:
    chosen = settings.load()
    if not chosen.data_dir.is_dir():
        raise NoInstallError(f"There is no install in {chosen.data_dir} yet: kat up makes one.")
    return chosen


def _set(chosen: Settings) -> keys.Recovery:
    found = keys.recovery(chosen.data_dir)
    if found is None:
        raise keys.NoRecoveryError
    return found

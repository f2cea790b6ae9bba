"""Keys: the install key in a file, and each organisation's evidence key, wrapped by it, in the database.

Destroying an organisation's key makes its evidence unreadable at once, wherever copies of the packs are.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, text

from kattegat.evidence import leaf
from kattegat.evidence.errors import DestroyedKeyError, InstallKeyError, WrappedKeyError
from kattegat.evidence.packs import Objects
from kattegat.store.layout import owned_by_parent

KEY_BYTES = 32
NONCE = 12
FORM = b"\x01"


class Key(msgspec.Struct, frozen=True):
    """An organisation's key, opened."""

    organisation_id: int
    id: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(organisation_id={self.organisation_id}, id={self.id})"


class InstallKey:
    """The key that wraps all others: a file of this install, readable by its owner only. Read on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._secret: bytes | None = None

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def load(self) -> bytes:
        """The key (32 bytes); raises `InstallKeyError` when the file is missing or damaged."""
        if self._secret is None:
            try:
                content = self.path.read_bytes()
            except FileNotFoundError:
                raise InstallKeyError(
                    f"The install key {self.path} is missing, and the evidence of this install is encrypted with it:"
                    " restore that file from a backup."
                ) from None
            except OSError as problem:
                raise InstallKeyError(
                    f"The install key {self.path} can't be read ({problem.strerror}): run as the owner of the file."
                ) from None
            try:
                secret = base64.b64decode(content.strip(), validate=True)
            except binascii.Error:
                secret = b""
            if len(secret) != KEY_BYTES:
                raise InstallKeyError(f"The install key {self.path} is damaged: restore that file from a backup.")
            self._secret = secret
        return self._secret

    def make(self) -> bytes:
        """Makes the file with a new key, whole or not at all; one made by another process meanwhile is used."""
        folder = self.path.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            owned_by_parent(folder, folder.parent)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as file:
                owned_by_parent(fd, folder)
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(fd)
            # A link, unlike a rename, never replaces a key that another process has just made and used.
            with suppress(FileExistsError):
                os.link(new, self.path)
        finally:
            new.unlink()
        way = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(way)
        finally:
            os.close(way)
        return self.load()


def lock(conn: Connection, organisation_id: int) -> None:
    """One transaction at a time numbers, seals or makes keys for an organisation; held until it ends."""
    conn.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('kattegat.evidence', :organisation))"),
        {"organisation": organisation_id},
    )


def current(conn: Connection, install: InstallKey, organisation_id: int, *, objects: Objects) -> Key:
    """The key to encrypt with; made on the organisation's first evidence.

    A missing install key is made only while the object store is empty and no key is wrapped: else it was lost.
    Raises `DestroyedKeyError`, `InstallKeyError`, `WrappedKeyError`.
    """
    found = _latest(conn, organisation_id)
    if found is None:
        lock(conn, organisation_id)
        found = _latest(conn, organisation_id)
    if found is not None:
        return unwrap(install, *found)
    if not install.exists():
        used = conn.execute(text("SELECT EXISTS (SELECT FROM evidence_key WHERE wrapped IS NOT NULL)")).scalar_one()
        if used or not objects.empty():
            install.load()
        install.make()
    made = Key(organisation_id, 1, secrets.token_bytes(KEY_BYTES))
    at = datetime.now(UTC)
    conn.execute(
        text(
            "INSERT INTO evidence_key (organisation_id, id, wrapped, created_at)"
            " VALUES (:organisation, :id, :wrapped, :at)"
        ),
        {"organisation": organisation_id, "id": made.id, "wrapped": _wrap(install, made, leaf.instant(at)), "at": at},
    )
    return made


Row = tuple[int, int, bytes | None, str, datetime | None]
_COLUMNS = "organisation_id, id, wrapped, CAST(extract(epoch FROM created_at) AS text), destroyed_at"


def _latest(conn: Connection, organisation_id: int) -> Row | None:
    row = conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM evidence_key"  # noqa: S608 - a constant list of columns
            " WHERE organisation_id = :organisation ORDER BY id DESC LIMIT 1"
        ),
        {"organisation": organisation_id},
    ).one_or_none()
    return None if row is None else (row[0], row[1], row[2], row[3], row[4])


def rows(conn: Connection, organisation_id: int) -> dict[int, Row]:
    """Every key row of an organisation by its id, still wrapped."""
    found = conn.execute(
        text(f"SELECT {_COLUMNS} FROM evidence_key WHERE organisation_id = :organisation"),  # noqa: S608
        {"organisation": organisation_id},
    )
    return {row[1]: (row[0], row[1], row[2], row[3], row[4]) for row in found}


def by_id(conn: Connection, install: InstallKey, organisation_id: int, key_id: int | None) -> Key | None:
    """The key of this id; None when there is none. Raises `DestroyedKeyError` or `WrappedKeyError`."""
    found = rows(conn, organisation_id).get(key_id or 0)
    return None if found is None else unwrap(install, *found)


def unwrap(
    install: InstallKey, organisation_id: int, id_: int, wrapped: bytes | None, created: str, destroyed: datetime | None
) -> Key:
    """Opens a key row; raises `DestroyedKeyError` or `WrappedKeyError`."""
    if wrapped is None or destroyed is not None:
        raise DestroyedKeyError(organisation_id, id_, destroyed)
    if wrapped[:1] != FORM:
        raise WrappedKeyError(organisation_id, id_)
    body = wrapped[len(FORM) :]
    try:
        secret = AESGCM(install.load()).decrypt(body[:NONCE], body[NONCE:], _bound(organisation_id, id_, created))
    except (InvalidTag, ValueError):
        raise WrappedKeyError(organisation_id, id_) from None
    return Key(organisation_id, id_, secret)


def _wrap(install: InstallKey, key: Key, created: str) -> bytes:
    nonce = secrets.token_bytes(NONCE)
    bound = _bound(key.organisation_id, key.id, created)
    return FORM + nonce + AESGCM(install.load()).encrypt(nonce, key.secret, bound)


def _bound(organisation_id: int, id_: int, created: str) -> bytes:
    return f"kattegat evidence key {FORM[0]}:{organisation_id}:{id_}:{created}".encode()


def destroy(conn: Connection, organisation_id: int) -> int:
    """Destroys the organisation's keys; gives how many. Its evidence is unreadable once the transaction commits.

    The leaves stay, so that what was there can still be told; `retention.sweep` removes the bytes.
    """
    lock(conn, organisation_id)
    done = conn.execute(
        text(
            "UPDATE evidence_key SET wrapped = NULL, destroyed_at = clock_timestamp()"
            " WHERE organisation_id = :organisation AND destroyed_at IS NULL"
        ),
        {"organisation": organisation_id},
    )
    return done.rowcount

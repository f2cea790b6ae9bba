"""Plans that travel in the database they are for: the way back of each revision, signed.

A release that has none of a revision's files finds here what takes the database back, in SQL, and need not understand
it. Such a table holds code that will be run, so every row is signed (Ed25519, RFC 8032) with a key that lies outside
the database, and nothing is run whose signature is not that key's, unless its SHA-256 was accepted by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from msgspec import Struct
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.schema import ledger, shape, steps
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan, Step

# What is signed begins with this, so that a signature of the same key over anything else is worth nothing here.
PURPOSE = "kattegat stored plan 1"
SET_REVISION = "set revision"
VERSION_TABLE = "public.alembic_version"

_NAME = re.compile(r"[A-Za-z0-9_.]+")


class PlanKeyError(KattegatError):
    """The key file can't be used; `path` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"The key that signs plans, {path}, can't be used ({reason}): restore it from a backup.")


class UntrustedPlanError(KattegatError):
    """A stored plan that is not to be run; `sha256` names exactly what is stored now."""

    def __init__(self, revision: str, sha256: str, sentence: str) -> None:
        self.revision = revision
        self.sha256 = sha256
        super().__init__(sentence)


class UnsignedPlanError(UntrustedPlanError):
    """A stored plan that the key file at hand has not signed: there is none, another one, or no signature."""

    def __init__(self, revision: str, sha256: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            revision,
            sha256,
            f"The stored plan of revision {revision} can't be verified ({reason}): restore the key file from a backup,"
            f" or read the plan and accept it with --accept-plan {sha256}"
            f" (with plain Alembic: -x accept-plan={sha256}).",
        )


class TamperedPlanError(UntrustedPlanError):
    """A stored plan that is not what was signed."""

    def __init__(self, revision: str, sha256: str) -> None:
        super().__init__(
            revision,
            sha256,
            f"The stored plan of revision {revision} is not the one that was signed: somebody changed it in the"
            " database; restore table lifecycle.plan from a backup, and find out who did.",
        )


class NoStoredPlanError(KattegatError):
    """No plan is stored for a revision."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        super().__init__(
            f"No way back is stored for revision {revision}: only the release that made it can take it back."
        )


class SchemaDriftError(KattegatError):
    """The schema is not what the plan starts from; `differences` has a line for each thing."""

    def __init__(self, revision: str, differences: Iterable[str]) -> None:
        self.revision = revision
        self.differences = tuple(differences)
        shown = "; ".join(self.differences[:3])
        more = f" and {len(self.differences) - 3} more" if len(self.differences) > 3 else ""
        super().__init__(
            f"The schema is not that of revision {revision} ({shown}{more}): somebody changed it by hand; put it right,"
            " then type the same command again."
        )


class PlanKey:
    """The key that signs this install's plans. `id` names its public half (16 hex digits of its SHA-256)."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = hashlib.sha256(public).hexdigest()[:16]

    @classmethod
    def generate(cls) -> PlanKey:
        """A new key, kept nowhere: for a database that lives no longer than its maker."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> PlanKey | None:
        """The key in this file; None when there is none. Raises `PlanKeyError` for one that can't be read."""
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise PlanKeyError(path, problem.strerror or "it can't be read") from problem
        except (ValueError, TypeError) as problem:
            raise PlanKeyError(path, "it holds no key") from problem
        if not isinstance(private, Ed25519PrivateKey):
            raise PlanKeyError(path, "it holds a key of another kind than Ed25519")
        return cls(private)

    @classmethod
    def open(cls, path: Path) -> PlanKey:
        """The key in this file, which is made (mode 0600, owned as its folder is) when there is none."""
        found = cls.load(path)
        if found is not None:
            return found
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        half = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    if os.geteuid() == 0:
                        folder = path.parent.stat()
                        os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
                    file.write(pem)
                    file.flush()
                    os.fsync(file.fileno())
                # A link never replaces a file: of two processes that make one at once, both get the first one's.
                os.link(half, path)
            except FileExistsError:
                pass
            finally:
                half.unlink()
        except OSError as problem:
            raise PlanKeyError(path, problem.strerror or "it can't be written") from problem
        made = cls.load(path)
        if made is None:
            raise PlanKeyError(path, "it was removed while it was being made")
        return made

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._private.sign(message)

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature over the message."""
        try:
            self._private.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Stored(Struct, frozen=True):
    """A row of `lifecycle.plan`. `document` is the plan from the shape after the revision (`after`) to the one before
    it (`before`); `back` is true while the revision is taken back, its things parked."""

    revision: str
    follows: str | None
    release: str
    document: str
    before: str
    after: str
    sha256: str
    signature: bytes | None = None
    key_id: str | None = None
    back: bool = False
    stored_at: datetime | None = None

    def message(self) -> bytes:
        """What is signed: the purpose and the six columns that say what will be run, as canonical JSON."""
        return msgspec.json.encode(
            [PURPOSE, self.revision, self.follows, self.release, self.document, self.before, self.after]
        )

    def plan(self) -> Plan:
        """The way back; raises `steps.UnknownPlanError` for a format that this release can't read."""
        return steps.decode(self.document)

    def shape_before(self) -> Snapshot:
        """The shape before the revision."""
        return shape.decode(self.before)

    def shape_after(self) -> Snapshot:
        """The shape after the revision."""
        return shape.decode(self.after)


def signed(
    key: PlanKey, *, revision: str, follows: str | None, release: str, plan: Plan, before: Snapshot, after: Snapshot
) -> Stored:
    """A row ready to be stored, with its SHA-256 and signature."""
    bare = Stored(
        revision=revision,
        follows=follows,
        release=release,
        document=plan.document().decode(),
        before=before.document().decode(),
        after=after.document().decode(),
        sha256="",
    )
    message = bare.message()
    return msgspec.structs.replace(
        bare, sha256=hashlib.sha256(message).hexdigest(), signature=key.sign(message), key_id=key.id
    )


def verify(row: Stored, key: PlanKey | None, accept: Collection[str] = frozenset()) -> None:
    """Raises `UnsignedPlanError` or `TamperedPlanError` unless the key signed the row or its SHA-256 is accepted."""
    message = row.message()
    sha256 = hashlib.sha256(message).hexdigest()
    if sha256 in accept:
        return
    if key is None:
        raise UnsignedPlanError(row.revision, sha256, "the key file plan-key is missing")
    if row.signature is None or row.key_id is None:
        raise UnsignedPlanError(row.revision, sha256, "it has no signature")
    if row.key_id != key.id:
        raise UnsignedPlanError(row.revision, sha256, f"key {row.key_id} signed it, and the key file holds {key.id}")
    if sha256 != row.sha256 or not key.signed(row.signature, message):
        raise TamperedPlanError(row.revision, sha256)


def read(connection: Connection, revision: str) -> Stored:
    """The row of a revision; raises `NoStoredPlanError`."""
    for row in everything(connection):
        if row.revision == revision:
            return row
    raise NoStoredPlanError(revision)


def everything(connection: Connection) -> list[Stored]:
    """Every stored revision, each after the one it follows; none when the database has no ledger."""
    if not ledger.present(connection):
        return []
    rows = [msgspec.convert(dict(row._mapping), Stored) for row in connection.execute(_ALL)]
    by_follows = {row.follows: row for row in rows}
    ordered: list[Stored] = []
    at = by_follows.pop(None, None)
    while at is not None:
        ordered.append(at)
        at = by_follows.pop(at.revision, None)
    # What hangs on nothing (a row was lost) comes last: it is of use to whoever reads, and no walk reaches it.
    return ordered + [row for row in rows if row not in ordered]


def store(connection: Connection, row: Stored) -> None:
    """Writes the row, in the caller's transaction; one that is there already is replaced."""
    connection.execute(
        _PUT,
        {name: getattr(row, name) for name in Stored.__struct_fields__ if name not in ("back", "stored_at")},
    )


def insertion(row: Stored) -> str:
    """The SQL text that stores the row, for a plan that is to be shown and run as text."""
    values = [
        _literal(row.revision),
        _literal(row.follows),
        _literal(row.release),
        _literal(row.document),
        _literal(row.before),
        _literal(row.after),
        _literal(row.sha256),
        "NULL" if row.signature is None else f"'\\x{row.signature.hex()}'::bytea",
        _literal(row.key_id),
    ]
    return _PUT_TEXT.format(values=", ".join(values))


def deletion(revision: str) -> str:
    """The SQL text that removes the row of a revision again."""
    return f"DELETE FROM lifecycle.plan WHERE revision = {_literal(revision)}"  # noqa: S608 - quoted


def set_revision(revision: str, follows: str, *, table: str = VERSION_TABLE) -> Step:
    """The step that every way back ends with, so that its SQL alone leaves the right revision behind.

    `table` is Alembic's, qualified. The first statement of each direction is about that table, the second about ours.
    """
    for name in (revision, follows):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a revision")
    change = f"UPDATE {table} SET version_num = '{{}}' WHERE version_num = '{{}}'"  # noqa: S608 - checked above
    mark = f"UPDATE lifecycle.plan SET back = {{}} WHERE revision = '{revision}'"  # noqa: S608
    return Step(
        kind=SET_REVISION,
        target=table,
        words=f"The database says revision {follows} again, and that {revision} is taken back.",
        do=(change.format(follows, revision), mark.format("true")),
        undo=(change.format(revision, follows), mark.format("false")),
        undo_words=f"The database says revision {revision} again.",
        lock="",
        rows=2,
    )


def _literal(value: str | None) -> str:
    # As PostgreSQL reads it with standard_conforming_strings on, which every session of a change has.
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


_COLUMNS = "revision, follows, release, document, before, after, sha256, signature, key_id"
_UPSERT = (
    "ON CONFLICT (revision) DO UPDATE SET follows = excluded.follows, release = excluded.release,"
    " document = excluded.document, before = excluded.before, after = excluded.after, sha256 = excluded.sha256,"
    " signature = excluded.signature, key_id = excluded.key_id, back = false, stored_at = now()"
)
_PUT_TEXT = f"INSERT INTO lifecycle.plan ({_COLUMNS}) VALUES ({{values}}) {_UPSERT}"  # noqa: S608 - names of ours
_PUT = text(
    f"INSERT INTO lifecycle.plan ({_COLUMNS}) VALUES (:revision, :follows, :release, :document, :before, :after,"  # noqa: S608
    f" :sha256, :signature, :key_id) {_UPSERT}"
)
_ALL = text(f"SELECT {_COLUMNS}, back, stored_at FROM lifecycle.plan ORDER BY stored_at, revision")  # noqa: S608

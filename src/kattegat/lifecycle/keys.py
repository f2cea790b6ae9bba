"""The keys of an install, wrapped so that a backup can carry them: to a recovery passphrase, or to a public key.

Setting a passphrase makes an X25519 key pair from it (scrypt, RFC 7914, with a random salt); only its public half is
kept in `secrets/recovery.json`. So a backup is made without anybody typing the passphrase, and nothing on the machine
can open it. A public key from elsewhere (`openssl genpkey -algorithm X25519`) takes its place as it is. Wrapping is
HPKE (RFC 9180) in base mode: X25519, HKDF-SHA256, AES-256-GCM, bound to the backup that carries it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kattegat.errors import KattegatError, UsageError
from kattegat.evidence.keys import InstallKey
from kattegat.store.layout import owned_by_parent, write_file

FORMAT = 1
INSTALL_KEY = "secrets/install.key"
# What an install can't make again: the rest of `secrets` are passwords that a new database server gets anew.
FILES = (INSTALL_KEY, "plan-key", "secrets/runner.token")
LEAST_LETTERS = 12
# Crockford's base 32: nothing in it is taken for something else when it is read from paper.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MISREAD = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


class RecoveryError(KattegatError):
    """The recovery key can't be used as it is."""


class NoRecoveryError(RecoveryError):
    """Neither a passphrase nor a public key has been set."""

    def __init__(self) -> None:
        super().__init__("No recovery passphrase is set for this install: type `kat keys recovery set`.")


class WrongRecoveryError(RecoveryError):
    """Another passphrase or private key than the one that the keys were wrapped to."""


class Recovery(msgspec.Struct, frozen=True):
    """What keys are wrapped to: the public key (32 bytes, base64), and for a passphrase how it is made from that."""

    kind: Literal["generated", "passphrase", "recipient"]
    public: str
    made_at: str
    salt: str = ""
    n: int = 0
    r: int = 0
    p: int = 0
    format: int = FORMAT

    def key_id(self) -> str:
        """A short name of the public key: 16 hex digits of its SHA-256."""
        return hashlib.sha256(base64.b64decode(self.public)).hexdigest()[:16]


class Wrapped(msgspec.Struct, frozen=True):
    """A wrapped bundle of keys, with what is needed to open it but the secret."""

    recovery: Recovery
    sealed: str  # base64 of the HPKE message: 32 bytes of encapsulated key, then the ciphertext


class Bundle(msgspec.Struct, frozen=True):
    """The keys themselves: contents of files by their path below the data directory, and settings that hold secrets."""

    files: dict[str, str]
    settings: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Bundle(files={sorted(self.files)}, settings={sorted(self.settings)})"

    def install_key(self) -> bytes | None:
        """The install key (32 bytes); None where there is none, and for one that is damaged."""
        try:
            secret = base64.b64decode(self.files.get(INSTALL_KEY, "").strip(), validate=True)
        except binascii.Error:
            return None
        return secret if len(secret) == 32 else None


class Secret(msgspec.Struct, frozen=True):
    """What opens a wrapped bundle: a passphrase, or the private key in PEM."""

    passphrase: str = ""
    private_key: bytes = b""

    def __repr__(self) -> str:
        return "Secret(...)"


class HeldKey(InstallKey):
    """An install key in memory, for evidence that is read from a backup."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(Path("(in memory)"))
        self._secret = secret

    def exists(self) -> bool:
        return True


def path(data_dir: Path) -> Path:
    """The file that says what keys are wrapped to."""
    return data_dir / "secrets" / "recovery.json"


def recovery(data_dir: Path) -> Recovery | None:
    """What keys are wrapped to; None while nothing is set. Raises `RecoveryError` for a damaged file."""
    try:
        content = path(data_dir).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise RecoveryError(f"{path(data_dir)} can't be read ({problem.strerror}): run as its owner.") from None
    return decode(content, path(data_dir))


def decode(content: bytes, where: Path) -> Recovery:
    """A `Recovery` from its file; raises `RecoveryError`."""
    try:
        found = msgspec.json.decode(content, type=Recovery)
        public = base64.b64decode(found.public, validate=True)
    except (msgspec.MsgspecError, binascii.Error):
        found, public = None, b""
    if found is None or len(public) != 32 or found.format != FORMAT:
        raise RecoveryError(f"{where} is damaged or of another release: type `kat keys recovery set` to replace it.")
    return found


def generate() -> str:
    """A new passphrase: 25 characters in five groups, 125 bits of chance."""
    letters = [secrets.choice(ALPHABET) for _ in range(25)]
    return "-".join("".join(letters[start : start + 5]) for start in range(0, 25, 5))


def set_passphrase(data_dir: Path, passphrase: str, *, generated: bool = False, n: int = 2**17) -> Recovery:
    """Wraps keys to this passphrase from now on; `n` is scrypt's cost (128 MiB of memory at 2**17).

    Raises `UsageError` for one that is too short.
    """
    kind: Literal["generated", "passphrase"] = "generated" if generated else "passphrase"
    normal = _normal(passphrase, kind)
    if len(normal) < LEAST_LETTERS:
        raise UsageError(f"A recovery passphrase has at least {LEAST_LETTERS} characters; choose a longer one.")
    salt = secrets.token_bytes(16)
    made = Recovery(kind, "", "", base64.b64encode(salt).decode(), n, 8, 1)
    public = _from_passphrase(made, passphrase).public_key()
    return _save(data_dir, msgspec.structs.replace(made, public=_text(public), made_at=_now()))


def set_recipient(data_dir: Path, pem: bytes) -> Recovery:
    """Wraps keys to this X25519 public key (PEM) from now on; raises `UsageError` for anything else."""
    try:
        public = serialization.load_pem_public_key(pem)
    except ValueError:
        public = None
    if not isinstance(public, X25519PublicKey):
        raise UsageError(
            "That file holds no X25519 public key: make a pair with `openssl genpkey -algorithm X25519 -out"
            " recovery.pem` and `openssl pkey -in recovery.pem -pubout -out recovery.pub`, and give recovery.pub."
        )
    return _save(data_dir, Recovery("recipient", _text(public), _now()))


def check(found: Recovery, secret: Secret) -> X25519PrivateKey:
    """The private key, if this passphrase or key is the right one; raises `WrongRecoveryError`."""
    if found.kind == "recipient":
        private = _from_pem(secret)
        said = "That private key is not the one of the public key"
    else:
        if not secret.passphrase:
            raise WrongRecoveryError("The keys are wrapped to a passphrase: give it with --passphrase-file FILE.")
        private = _from_passphrase(found, secret.passphrase)
        said = "That is not the recovery passphrase"
    if not hmac.compare_digest(_text(private.public_key()), found.public):
        raise WrongRecoveryError(
            f"{said} that was set on {found.made_at[:10]} (key {found.key_id()}): try again with that one."
        )
    return private


def collect(data_dir: Path, settings: Mapping[str, str]) -> Bundle:
    """The keys of this install as they are now; `settings` are those that hold secrets.

    Raises `RecoveryError` for a file that can't be read.
    """
    files: dict[str, str] = {}
    for name in FILES:
        try:
            files[name] = (data_dir / name).read_text()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as problem:
            raise RecoveryError(f"{data_dir / name} can't be read ({problem}): run as its owner.") from None
    return Bundle(files, dict(settings))


def key_id(secret: bytes) -> str:
    """A short name of an install key that tells nothing of it: 16 hex digits."""
    return hmac.new(secret, b"kattegat install key", hashlib.sha256).hexdigest()[:16]


def wrap(found: Recovery, bundle: Bundle, bound_to: str) -> Wrapped:
    """The bundle for the holder of the recovery key alone; opens only together with `bound_to`."""
    public = X25519PublicKey.from_public_bytes(base64.b64decode(found.public))
    sealed = _suite().encrypt(msgspec.json.encode(bundle), public, _info(bound_to))
    return Wrapped(found, base64.b64encode(sealed).decode())


def unwrap(wrapped: Wrapped, secret: Secret, bound_to: str) -> Bundle:
    """The bundle again; raises `WrongRecoveryError`, or `RecoveryError` for one that was changed."""
    private = check(wrapped.recovery, secret)
    try:
        content = _suite().decrypt(base64.b64decode(wrapped.sealed), private, _info(bound_to))
        return msgspec.json.decode(content, type=Bundle)
    except (InvalidTag, ValueError, msgspec.MsgspecError):
        raise RecoveryError("The wrapped keys were changed, or belong to another backup: use another backup.") from None


def place(data_dir: Path, bundle: Bundle) -> list[str]:
    """Writes the bundle's files where they are missing; gives those written. Present files are never replaced."""
    written: list[str] = []
    for name in FILES:
        target = data_dir / name
        if name not in bundle.files or target.exists():
            continue
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True)
            owned_by_parent(target.parent, data_dir)
        write_file(target, bundle.files[name], 0o600)
        written.append(name)
    return written


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(bound_to: str) -> bytes:
    return f"kattegat keys {FORMAT}:{bound_to}".encode()


def _normal(passphrase: str, kind: str) -> str:
    plain = unicodedata.normalize("NFC", passphrase.strip())
    return plain.upper().translate(MISREAD) if kind == "generated" else plain


def _from_passphrase(made: Recovery, passphrase: str) -> X25519PrivateKey:
    normal = _normal(passphrase, made.kind).encode()
    try:
        derive = Scrypt(salt=base64.b64decode(made.salt), length=32, n=made.n, r=made.r, p=made.p)
        return X25519PrivateKey.from_private_bytes(derive.derive(normal))
    except (ValueError, TypeError, MemoryError) as problem:
        raise RecoveryError(f"The key can't be made from the passphrase ({problem}): free some memory.") from None


def _from_pem(secret: Secret) -> X25519PrivateKey:
    if not secret.private_key:
        raise WrongRecoveryError("The keys are wrapped to a public key: give its private key with --private-key FILE.")
    try:
        private = serialization.load_pem_private_key(
            secret.private_key, secret.passphrase.encode() if secret.passphrase else None
        )
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, X25519PrivateKey):
        raise WrongRecoveryError("The file given with --private-key holds no X25519 private key in PEM: give another.")
    return private


def _save(data_dir: Path, made: Recovery) -> Recovery:
    folder = path(data_dir).parent
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        owned_by_parent(folder, folder.parent)
    write_file(path(data_dir), msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n", 0o600)
    return made


def _text(public: X25519PublicKey) -> str:
    return base64.b64encode(public.public_bytes_raw()).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

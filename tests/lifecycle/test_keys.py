"""The recovery key: what is wrapped to it opens with it, and with nothing else."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from kattegat.errors import UsageError
from kattegat.lifecycle import keys

QUICK = 2**10


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with an install key and a key that plans are signed with."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "install.key").write_bytes(base64.b64encode(bytes(range(32))) + b"\n")
    (tmp_path / "plan-key").write_text("plan key\n")
    (tmp_path / "secrets" / "kat_owner").write_text("a password that no backup needs\n")
    return tmp_path


def _pem(private: x25519.X25519PrivateKey) -> tuple[bytes, bytes]:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ), private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_passphrase_opens_what_was_wrapped_without_it(data: Path) -> None:
    keys.set_passphrase(data, "correct horse battery", n=QUICK)
    found = keys.recovery(data)
    assert found is not None
    bundle = keys.collect(data, {"KAT_DATABASE_URL": "postgresql://a:secret@b/c"})
    assert set(bundle.files) == {"secrets/install.key", "plan-key"}
    wrapped = keys.wrap(found, bundle, "backup 1")
    # Through JSON, as in a backup; and nothing of the secrets is readable there.
    text = msgspec.json.encode(wrapped)
    assert b"secret@" not in text
    assert bundle.files["secrets/install.key"].strip().encode() not in text
    again = msgspec.json.decode(text, type=keys.Wrapped)
    assert keys.unwrap(again, keys.Secret("correct horse battery"), "backup 1") == bundle
    assert bundle.install_key() == bytes(range(32))
    for wrong in ("correct horse", "correct horse batterz", ""):
        with pytest.raises(keys.WrongRecoveryError):
            keys.unwrap(again, keys.Secret(wrong), "backup 1")
    with pytest.raises(keys.RecoveryError, match="belong to another backup"):
        keys.unwrap(again, keys.Secret("correct horse battery"), "backup 2")


def test_every_changed_bit_of_wrapped_keys_is_seen(data: Path) -> None:
    found = keys.set_passphrase(data, "correct horse battery", n=QUICK)
    wrapped = keys.wrap(found, keys.collect(data, {}), "x")
    sealed = base64.b64decode(wrapped.sealed)
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(keys.RecoveryError):
            keys.unwrap(
                msgspec.structs.replace(wrapped, sealed=base64.b64encode(changed).decode()),
                keys.Secret("correct horse battery"),
                "x",
            )


def test_a_generated_passphrase_may_be_typed_as_it_was_read(data: Path) -> None:
    made = keys.generate()
    assert len(made) == 29
    assert made != keys.generate()
    found = keys.set_passphrase(data, made, generated=True, n=QUICK)
    typed = made.replace("-", " ").lower().replace("0", "o").replace("1", "l")
    keys.check(found, keys.Secret(typed))
    with pytest.raises(keys.WrongRecoveryError, match="try again with that one"):
        keys.check(found, keys.Secret(keys.generate()))


def test_a_public_key_whose_private_key_is_elsewhere(data: Path) -> None:
    private, public = _pem(x25519.X25519PrivateKey.generate())
    other, _ = _pem(x25519.X25519PrivateKey.generate())
    found = keys.set_recipient(data, public)
    wrapped = keys.wrap(found, keys.collect(data, {}), "x")
    assert keys.unwrap(wrapped, keys.Secret(private_key=private), "x").files["plan-key"] == "plan key\n"
    for wrong in (keys.Secret(private_key=other), keys.Secret("a passphrase"), keys.Secret(private_key=b"no key")):
        with pytest.raises(keys.WrongRecoveryError):
            keys.unwrap(wrapped, wrong, "x")


def test_what_can_not_be_set(data: Path) -> None:
    signing = ed25519.Ed25519PrivateKey.generate().public_key()
    wrong = signing.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for pem in (wrong, b"", b"no key"):
        with pytest.raises(UsageError, match="openssl genpkey"):
            keys.set_recipient(data, pem)
    with pytest.raises(UsageError, match="at least 12 characters"):
        keys.set_passphrase(data, "short", n=QUICK)
    assert keys.recovery(data) is None


def test_the_file_is_the_owners_and_damage_is_said(data: Path) -> None:
    keys.set_passphrase(data, "correct horse battery", n=QUICK)
    where = keys.path(data)
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    assert "correct" not in where.read_text()
    good = json.loads(where.read_text())
    for content in ("{}", "no json", json.dumps(good | {"format": 2}), json.dumps(good | {"public": "AAAA"})):
        where.write_text(content)
        with pytest.raises(keys.RecoveryError, match="kat keys recovery set"):
            keys.recovery(data)


def test_secrets_are_in_no_representation(data: Path) -> None:
    bundle = keys.collect(data, {"KAT_DATABASE_URL": "postgresql://a:hidden@b/c"})
    assert "hidden" not in repr(bundle)
    assert bundle.files["plan-key"].strip() not in repr(bundle)
    assert "hidden" not in repr(keys.Secret("hidden"))

"""DKIM public key records (RFC 6376 section 3.6.1, RFC 8301 on RSA and SHA-1, RFC 8463 on Ed25519)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kattegat.plugins.mail.tags import Tag, TagProblem, decode, parse_tags, shorten

VERSION = "DKIM1"
MIN_RSA_BITS = 1024
"""Signatures with a smaller key count as none (RFC 8301 section 3.2)."""
ADVISED_RSA_BITS = 2048
MAX_RSA_BITS = 4096
"""Verifiers need not accept a larger key (RFC 8301 section 3.2)."""

KeyType: TypeAlias = Literal["rsa", "ed25519"]
_KNOWN = frozenset({"v", "h", "k", "n", "p", "s", "t"})
_CANDIDATE = re.compile(rb"[ \t]*v[ \t]*=[ \t]*DKIM1|(?:.*;)?[ \t]*p[ \t]*=", re.DOTALL)
_FOLDED = re.compile(r"[ \t\r\n]+")


class DkimKey(msgspec.Struct, frozen=True):
    """A DKIM key record.

    `bits` is the size of an RSA modulus, 256 for Ed25519, None when there is no usable key. `revoked`: p= is empty.
    `hashes`: what h= allows, None for any. `services` and `flags`: of s= and t=. `testing` is the flag y, `strict` the
    flag s (i= must be in exactly this domain). `usable`: a verifier can verify a message with this record.
    """

    key_type: str
    bits: int | None = None
    revoked: bool = False
    usable: bool = False
    hashes: tuple[str, ...] | None = None
    services: tuple[str, ...] = ("*",)
    flags: tuple[str, ...] = ()
    notes: str = ""
    tags: tuple[Tag, ...] = ()
    problems: tuple[TagProblem, ...] = ()

    @property
    def testing(self) -> bool:
        return "y" in self.flags

    @property
    def strict(self) -> bool:
        return "s" in self.flags


def select_records(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """The records among the TXT records at SELECTOR._domainkey.DOMAIN that can be key records; more than one is wrong.

    The version is optional, so that any record with a p= tag, or with the version, is taken for one.
    """
    return tuple(text for text in texts if _CANDIDATE.match(text))


def parse(record: bytes | str) -> DkimKey:
    """Read a key record; never raises for any input, what is wrong is in `problems`.

    Problem codes: version, syntax, duplicate-tag, unknown-tag, unknown-key-type, missing-key, revoked, invalid-key,
    key-too-short (RSA under 1024 bits), key-short (under 2048), key-too-long (over 4096), sha1-only, no-known-hash,
    not-for-email, testing.
    """
    problems: list[TagProblem] = []
    tags = parse_tags(decode(record), problems)
    values = {tag.name: tag.value for tag in tags}

    def problem(code: str, tag: str, detail: str) -> None:
        problems.append(TagProblem(code, tag, detail))

    version_ok = "v" not in values or tags[0] == Tag("v", VERSION)
    if not version_ok:
        problem("version", "v", f"v= must come first and be {VERSION}, or a verifier ignores the record")
    for name in sorted(values.keys() - _KNOWN):
        problem("unknown-tag", name, f"{name}= is not known and ignored")
    key_type = values.get("k", "rsa")
    hashes = _list(values["h"]) if "h" in values else None
    if hashes is not None and "sha256" not in hashes:
        code = "sha1-only" if "sha1" in hashes else "no-known-hash"
        problem(code, "h", "h= does not allow sha256, the only hash that verifiers accept (RFC 8301)")
    services = _list(values["s"]) if "s" in values else ("*",)
    if not {"*", "email"} & set(services):
        problem("not-for-email", "s", "s= does not allow the service email")
    flags = _list(values.get("t", ""))
    if "y" in flags:
        problem("testing", "t", "t=y: the domain is testing, a verifier may not treat a bad signature as one")
    bits = None
    revoked = False
    if "p" not in values:
        problem("missing-key", "p", "there is no p=")
    elif not (revoked := not _FOLDED.sub("", values["p"])):
        bits = _bits(key_type, values["p"], problems)
    else:
        problem("revoked", "p", "p= is empty: the key is revoked")
    blocking = {"version", "sha1-only", "no-known-hash", "not-for-email", "key-too-short", "syntax", "duplicate-tag"}
    usable = bits is not None and not any(found.code in blocking for found in problems)
    notes = values.get("n", "")
    return DkimKey(key_type, bits, revoked, usable, hashes, services, flags, notes, tags, tuple(problems))


def _list(value: str) -> tuple[str, ...]:
    return tuple(item for item in (_FOLDED.sub("", item) for item in value.split(":")) if item)


def _bits(key_type: str, value: str, problems: list[TagProblem]) -> int | None:
    """The size of the key in bits; None, with a problem, if it cannot be used at all."""
    try:
        data = base64.b64decode(_FOLDED.sub("", value), validate=True)
    except (binascii.Error, ValueError):  # ValueError: a character outside ASCII
        problems.append(TagProblem("invalid-key", "p", f"{shorten(value)!r} is not Base64"))
        return None
    if key_type == "ed25519":
        return _ed25519_bits(data, problems)
    if key_type != "rsa":
        problems.append(TagProblem("unknown-key-type", "k", f"the key type {shorten(key_type)!r} is not known"))
        return None
    try:
        # Both encodings in use: SubjectPublicKeyInfo, and the bare RSAPublicKey that RFC 6376 names (erratum 3017).
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        problems.append(TagProblem("invalid-key", "p", f"p= is not a DER public key: {shorten(str(error))}"))
        return None
    if not isinstance(key, RSAPublicKey):
        problems.append(TagProblem("invalid-key", "p", "p= holds no RSA key, but k= says rsa"))
        return None
    bits = key.key_size
    for code, wrong, detail in (
        ("key-too-short", bits < MIN_RSA_BITS, f"under {MIN_RSA_BITS}: no verifier accepts it"),
        ("key-short", MIN_RSA_BITS <= bits < ADVISED_RSA_BITS, f"under the advised {ADVISED_RSA_BITS}"),
        ("key-too-long", bits > MAX_RSA_BITS, f"over {MAX_RSA_BITS}: verifiers need not accept it"),
    ):
        if wrong:
            problems.append(TagProblem(code, "p", f"the RSA key has {bits} bits, {detail}"))
    return bits


def _ed25519_bits(data: bytes, problems: list[TagProblem]) -> int | None:
    try:
        Ed25519PublicKey.from_public_bytes(data)
    except ValueError:
        detail = f"an Ed25519 key has 32 octets, this one {len(data)}"
        problems.append(TagProblem("invalid-key", "p", detail))
        return None
    return 256

"""Key exchanges up to the server's reply, which carries its host key and proves that it has the private half.

RFC 4253 §8 (Diffie-Hellman), RFC 4419 (group exchange), RFC 5656 (elliptic curves), RFC 8731 (Curve25519), RFC 8268
(larger groups with SHA-2). Our private values are derived from the cookie of our KEXINIT, which is sent in the clear:
the exchange protects nothing, on purpose, and so the recorded bytes alone are enough to verify it again later.
"""

from __future__ import annotations

import base64
import functools
import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kattegat.plugins.shared.exchange import Cursor, WireError
from kattegat.plugins.ssh.wire import mpint, string

GEX_SIZES = (2048, 4096, 8192)
"""The least, wanted and greatest size of the prime that is asked for, in bits (RFC 4419 §3; RFC 8270 §3)."""

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "nistp256": ec.SECP256R1,
    "nistp384": ec.SECP384R1,
    "nistp521": ec.SECP521R1,
}

# method: (family, hash, what the family needs)
METHODS: dict[str, tuple[str, str, str]] = {
    "curve25519-sha256": ("x25519", "sha256", ""),
    "curve25519-sha256@libssh.org": ("x25519", "sha256", ""),
    "ecdh-sha2-nistp256": ("ecdh", "sha256", "nistp256"),
    "ecdh-sha2-nistp384": ("ecdh", "sha384", "nistp384"),
    "ecdh-sha2-nistp521": ("ecdh", "sha512", "nistp521"),
    "diffie-hellman-group14-sha256": ("dh", "sha256", "2048"),
    "diffie-hellman-group15-sha512": ("dh", "sha512", "3072"),
    "diffie-hellman-group16-sha512": ("dh", "sha512", "4096"),
    "diffie-hellman-group18-sha512": ("dh", "sha512", "8192"),
    "diffie-hellman-group14-sha1": ("dh", "sha1", "2048"),
    "diffie-hellman-group-exchange-sha256": ("gex", "sha256", ""),
    "diffie-hellman-group-exchange-sha1": ("gex", "sha1", ""),
    "diffie-hellman-group1-sha1": ("dh", "sha1", "1024"),
}
"""The key exchanges that can be carried out, in the order in which they are tried."""

_OFFSETS = {1024: 129093, 2048: 124476, 3072: 1690314, 4096: 240904, 8192: 4743158}


class HostKey(msgspec.Struct, frozen=True):
    """A host key. `type`: its format ("ssh-rsa", "ssh-ed25519", ...); `bits`: of the modulus or curve, None if unknown.

    `fingerprint`: "SHA256:" and base64 without padding, as `ssh-keygen -l` prints it. `blob`: as sent (RFC 4253 §6.6).
    `signature`: the algorithm that signed; `proven`: whether the signature over the exchange is right, None where this
    scanner cannot tell.
    """

    type: str
    bits: int | None
    fingerprint: str
    blob: bytes
    signature: str = ""
    proven: bool | None = None


@functools.cache
def prime(bits: int) -> int:
    """The prime of the MODP group of that size: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + k) (RFC 2409, 3526)."""
    # Machin's formula, with 64 spare bits: pi = 16 arctan(1/5) - 4 arctan(1/239).
    scale = bits - 130 + 64

    def arctan(inverse: int) -> int:
        total = term = (1 << scale) // inverse
        divisor = 1
        while term:
            term //= -inverse * inverse
            if term == -1:
                break
            divisor += 2
            total += term // divisor
        return total

    pi = (16 * arctan(5) - 4 * arctan(239)) >> 64
    return (1 << bits) - (1 << (bits - 64)) - 1 + (1 << 64) * (pi + _OFFSETS[bits])


def _private(cookie: bytes, size: int) -> bytes:
    return hashlib.shake_256(b"kattegat key exchange" + cookie).digest(size)


def _ec_private(cookie: bytes, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    # One bit less than the curve's order has, so that the number is always a valid private key.
    number = int.from_bytes(_private(cookie, 66), "big") >> (528 - curve.key_size + 1)
    return ec.derive_private_key(1 + number, curve)


def _exponent(cookie: bytes) -> int:
    return int.from_bytes(_private(cookie, 64), "big")


def first_message(method: str, cookie: bytes) -> bytes:
    """The payload that begins the key exchange `method`; with a group exchange it asks for a group."""
    family, _, detail = METHODS[method]
    if family == "gex":
        return bytes([34]) + b"".join(size.to_bytes(4, "big") for size in GEX_SIZES)
    return bytes([30]) + _public(family, detail, cookie, 0, 0)


def _public(family: str, detail: str, cookie: bytes, p: int, g: int) -> bytes:
    if family == "x25519":
        private = x25519.X25519PrivateKey.from_private_bytes(_private(cookie, 32))
        return string(private.public_key().public_bytes_raw())
    if family == "ecdh":
        point = _ec_private(cookie, _CURVES[detail]()).public_key()
        return string(point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    if family == "dh":
        p, g = prime(int(detail)), 2
    return mpint(pow(g, _exponent(cookie), p))


def read_group(payload: bytes) -> tuple[int, int]:
    """(p, g) of a group that the server chose (RFC 4419 §3); raises `WireError` for one that cannot be used."""
    cursor = Cursor(payload[1:], "SSH", "the group exchange")
    p, g = int.from_bytes(cursor.vector(4), "big"), int.from_bytes(cursor.vector(4), "big")
    if not 512 <= p.bit_length() <= GEX_SIZES[2] or not 1 < g < p - 1 or p % 2 == 0:
        raise WireError("SSH", f"the server's group of {p.bit_length()} bits cannot be used")
    return p, g


def second_message(payload: bytes, cookie: bytes) -> bytes:
    """The payload that answers the server's choice of a group; raises `WireError`."""
    p, g = read_group(payload)
    return bytes([32]) + _public("gex", "", cookie, p, g)


def reply_number(method: str) -> int:
    """The number of the message that carries the host key."""
    return 33 if METHODS[method][0] == "gex" else 31


def _secret(family: str, detail: str, cookie: bytes, peer: bytes, p: int) -> int:
    try:
        if family == "x25519":
            private = x25519.X25519PrivateKey.from_private_bytes(_private(cookie, 32))
            return int.from_bytes(private.exchange(x25519.X25519PublicKey.from_public_bytes(peer)), "big")
        if family == "ecdh":
            own = _ec_private(cookie, _CURVES[detail]())
            return int.from_bytes(
                own.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(own.curve, peer)), "big"
            )
    except ValueError as error:
        raise WireError("SSH", "the server's half of the key exchange is no valid key") from error
    if family == "dh":
        p = prime(int(detail))
    number = int.from_bytes(peer, "big")
    if not 1 <= number <= p - 1:
        raise WireError("SSH", "the server's half of the key exchange is out of range")
    return pow(number, _exponent(cookie), p)


def read_reply(
    method: str, cookie: bytes, payload: bytes, hello: tuple[bytes, bytes, bytes, bytes], group: bytes | None
) -> HostKey:
    """The host key in the server's reply, its signature verified.

    `hello`: the identifications of client and server without line ends, then their KEXINIT payloads. `group`: the
    server's message with its group, in a group exchange. Raises `WireError`.
    """
    family, algorithm, detail = METHODS[method]
    cursor = Cursor(payload[1:], "SSH", "the key exchange reply")
    blob, peer, signature = cursor.vector(4), cursor.vector(4), cursor.vector(4)
    p, g = read_group(group) if group is not None else (0, 0)
    if family == "gex" and group is None:
        raise WireError("SSH", "the key exchange reply comes before its group")
    secret = _secret(family, detail, cookie, peer, p)
    hashed = b"".join(string(part) for part in (*hello, blob))
    if family == "gex":
        hashed += b"".join(size.to_bytes(4, "big") for size in GEX_SIZES) + mpint(p) + mpint(g)
    hashed += _public(family, detail, cookie, p, g) + string(peer) + mpint(secret)
    return _host_key(blob, signature, hashlib.new(algorithm, hashed).digest())


def _host_key(blob: bytes, signature: bytes, digest: bytes) -> HostKey:
    outer = Cursor(signature, "SSH", "the signature")
    algorithm, raw = outer.vector(4).decode("ascii", "backslashreplace"), outer.vector(4)
    kind = Cursor(blob, "SSH", "the host key").vector(4).decode("ascii", "backslashreplace")
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
    try:
        bits, proven = _verify(kind, blob, algorithm, raw, digest)
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("SSH", f"the host key of type {kind[:40]} is no valid key") from error
    return HostKey(kind, bits, fingerprint, blob, algorithm, proven)


def _verify(kind: str, blob: bytes, algorithm: str, raw: bytes, digest: bytes) -> tuple[int | None, bool | None]:
    """(bits, whether the signature is right) of a host key."""
    cursor = Cursor(blob, "SSH", "the host key")
    cursor.vector(4)
    try:
        if kind == "ssh-ed25519":
            ed25519.Ed25519PublicKey.from_public_bytes(cursor.vector(4)).verify(raw, digest)
            return 256, algorithm == kind
        if kind == "ssh-ed448":
            ed448.Ed448PublicKey.from_public_bytes(cursor.vector(4)).verify(raw, digest)
            return 448, algorithm == kind
    except InvalidSignature:
        return (256 if kind == "ssh-ed25519" else 448), False
    if kind.startswith("ecdsa-sha2-") and kind[11:] in _CURVES:
        cursor.vector(4)
        curve = _CURVES[kind[11:]]()
        point = ec.EllipticCurvePublicKey.from_encoded_point(curve, cursor.vector(4))
        hash_ = {256: hashes.SHA256(), 384: hashes.SHA384()}.get(curve.key_size, hashes.SHA512())
        numbers = Cursor(raw, "SSH", "the signature")
        r, s = int.from_bytes(numbers.vector(4), "big"), int.from_bytes(numbers.vector(4), "big")
        try:
            point.verify(encode_dss_signature(r, s), digest, ec.ECDSA(hash_))
        except InvalidSignature:
            return curve.key_size, False
        return curve.key_size, algorithm == kind
    if kind == "ssh-rsa":
        e, n = int.from_bytes(cursor.vector(4), "big"), int.from_bytes(cursor.vector(4), "big")
        return n.bit_length(), _verify_rsa(e, n, algorithm, raw, digest)
    if kind == "ssh-dss":
        p, q, g, y = (int.from_bytes(cursor.vector(4), "big") for _ in range(4))
        return p.bit_length(), _verify_dsa((p, q, g, y), raw, digest)
    return None, None


def _verify_rsa(e: int, n: int, algorithm: str, raw: bytes, digest: bytes) -> bool | None:
    known: dict[str, hashes.HashAlgorithm] = {
        "ssh-rsa": hashes.SHA1(),  # noqa: S303 - what old servers sign with is to be verified, not to be relied on
        "rsa-sha2-256": hashes.SHA256(),
        "rsa-sha2-512": hashes.SHA512(),
    }
    if algorithm not in known:
        return None
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
        key.verify(raw, digest, padding.PKCS1v15(), known[algorithm])
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm):
        # A key too small or too odd for the library: its size is known all the same.
        return None
    return True


def _verify_dsa(numbers: tuple[int, int, int, int], raw: bytes, digest: bytes) -> bool | None:
    p, q, g, y = numbers
    try:
        key = dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key()
        signature = encode_dss_signature(int.from_bytes(raw[:20], "big"), int.from_bytes(raw[20:], "big"))
        key.verify(signature, digest, hashes.SHA1())  # noqa: S303
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm):
        return None
    return True

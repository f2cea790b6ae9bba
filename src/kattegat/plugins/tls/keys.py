"""The key schedule of TLS 1.3 (RFC 8446 §7.1, §7.3), as far as reading the server's first flight needs it.

The private keys of the key shares are derived from the ClientHello's random, which is sent in the clear. That gives
the handshake no secrecy, on purpose: nothing confidential is ever sent or received in it, and so the recorded bytes
alone are enough to decrypt the certificate again, years later, without storing keys beside the evidence.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kattegat.plugins.shared.exchange import WireError
from kattegat.plugins.tls.groups import SECP256R1, SECP384R1, SECP521R1, X448, X25519

_CURVES: dict[int, type[ec.EllipticCurve]] = {SECP256R1: ec.SECP256R1, SECP384R1: ec.SECP384R1, SECP521R1: ec.SECP521R1}

_Private = x25519.X25519PrivateKey | x448.X448PrivateKey | ec.EllipticCurvePrivateKey


def _private(random: bytes, group: int) -> _Private:
    seed = hashlib.shake_256(b"kattegat key share" + group.to_bytes(2, "big") + random)
    if group == X25519:
        return x25519.X25519PrivateKey.from_private_bytes(seed.digest(32))
    if group == X448:
        return x448.X448PrivateKey.from_private_bytes(seed.digest(56))
    if group not in _CURVES:
        raise WireError("TLS", f"this scanner has no key exchange for group {group}")
    curve = _CURVES[group]()
    # One bit less than the curve's order has, so that the number is always a valid private key.
    return ec.derive_private_key(1 + (int.from_bytes(seed.digest(66), "big") >> (528 - curve.key_size + 1)), curve)


def public_share(random: bytes, group: int) -> bytes:
    """Our key share for `group` (RFC 8446 §4.2.8.2), derived from the 32 bytes of `random`."""
    private = _private(random, group)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return private.public_key().public_bytes_raw()


def shared_secret(random: bytes, group: int, peer: bytes) -> bytes:
    """The secret agreed on with the server's key share `peer`; raises `WireError` if that is no valid key."""
    private = _private(random, group)
    try:
        if isinstance(private, x25519.X25519PrivateKey):
            return private.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
        if isinstance(private, x448.X448PrivateKey):
            return private.exchange(x448.X448PublicKey.from_public_bytes(peer))
        return private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(private.curve, peer))
    except ValueError as error:
        raise WireError("TLS", "the server's key share is no valid key") from error


def hash_name(suite: int) -> str | None:
    """The hash of a TLS 1.3 suite as `hashlib` calls it; None for a suite that cannot be decrypted here."""
    return {0x1301: "sha256", 0x1302: "sha384", 0x1303: "sha256", 0x1304: "sha256", 0x1305: "sha256"}.get(suite)


def transcript_hash(algorithm: str, messages: bytes) -> bytes:
    """The transcript hash (RFC 8446 §4.4.1)."""
    return hashlib.new(algorithm, messages).digest()


def message_hash(algorithm: str, first_hello: bytes) -> bytes:
    """What stands for the first ClientHello in the transcript after a HelloRetryRequest (RFC 8446 §4.4.1)."""
    digest = transcript_hash(algorithm, first_hello)
    return b"\xfe" + len(digest).to_bytes(3, "big") + digest


def _expand_label(algorithm: str, secret: bytes, label: str, context: bytes, length: int) -> bytes:
    name = b"tls13 " + label.encode("ascii")
    info = length.to_bytes(2, "big") + bytes([len(name)]) + name + bytes([len(context)]) + context
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(secret, block + info + bytes([counter]), algorithm).digest()
        out += block
        counter += 1
    return out[:length]


class ServerKeys:
    """Decrypts the records of the server's handshake flight.

    `transcript`: the messages from ClientHello to ServerHello. Raises `WireError` for a suite it has no cipher for.
    """

    def __init__(self, suite: int, secret: bytes, transcript: bytes) -> None:
        algorithm = hash_name(suite)
        if algorithm is None:
            raise WireError("TLS", f"this scanner cannot decrypt suite 0x{suite:04X}")
        size = hashlib.new(algorithm).digest_size
        early = hmac.new(bytes(size), bytes(size), algorithm).digest()
        derived = _expand_label(algorithm, early, "derived", transcript_hash(algorithm, b""), size)
        handshake = hmac.new(derived, secret, algorithm).digest()
        context = transcript_hash(algorithm, transcript)
        traffic = _expand_label(algorithm, handshake, "s hs traffic", context, size)
        key = _expand_label(algorithm, traffic, "key", b"", 32 if suite in (0x1302, 0x1303) else 16)
        self._iv = int.from_bytes(_expand_label(algorithm, traffic, "iv", b"", 12), "big")
        self._sequence = 0
        self._aead: AESGCM | ChaCha20Poly1305 | AESCCM
        if suite == 0x1303:
            self._aead = ChaCha20Poly1305(key)
        elif suite in (0x1304, 0x1305):
            self._aead = AESCCM(key, tag_length=16 if suite == 0x1304 else 8)
        else:
            self._aead = AESGCM(key)

    def decrypt(self, header: bytes, payload: bytes) -> tuple[int, bytes]:
        """(content type, plaintext) of the next record (RFC 8446 §5.2); raises `WireError`."""
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        try:
            inner = self._aead.decrypt(nonce, payload, header).rstrip(b"\0")
        except (InvalidTag, ValueError) as error:
            raise WireError("TLS", "an encrypted record cannot be decrypted") from error
        if not inner:
            raise WireError("TLS", "an encrypted record is empty")
        return inner[-1], inner[:-1]

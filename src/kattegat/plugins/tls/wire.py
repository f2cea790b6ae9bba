"""What a client sends to open a TLS handshake: ClientHello of every version, and how to read one back.

RFC 8446 (TLS 1.3), RFC 5246 (1.2), RFC 4346 (1.1), RFC 2246 (1.0), RFC 6101 (SSL 3.0), and the record of SSL 2.0 for
detection only (RFC 6101 appendix E, RFC 6176). The server's side is in `reply`.
"""

from __future__ import annotations

import ipaddress

import msgspec

from kattegat.plugins.shared.exchange import Cursor, WireError
from kattegat.plugins.tls.groups import CURVES, KEY_SHARE_GROUPS, OFFERED_SCHEMES, SECP256R1, TLS13_GROUPS, X25519
from kattegat.plugins.tls.keys import public_share
from kattegat.plugins.tls.suites import FALLBACK_SCSV, RENEGOTIATION_SCSV, offer

SSL2, SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0002, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304

VERSIONS = {SSL2: "SSLv2", SSL3: "SSLv3", TLS10: "TLSv1.0", TLS11: "TLSv1.1", TLS12: "TLSv1.2", TLS13: "TLSv1.3"}

SSL2_CIPHERS = {
    0x010080: "SSL_CK_RC4_128_WITH_MD5",
    0x020080: "SSL_CK_RC4_128_EXPORT40_WITH_MD5",
    0x030080: "SSL_CK_RC2_128_CBC_WITH_MD5",
    0x040080: "SSL_CK_RC2_128_CBC_EXPORT40_WITH_MD5",
    0x050080: "SSL_CK_IDEA_128_CBC_WITH_MD5",
    0x060040: "SSL_CK_DES_64_CBC_WITH_MD5",
    0x0700C0: "SSL_CK_DES_192_EDE3_CBC_WITH_MD5",
}

EXT_SERVER_NAME, EXT_STATUS_REQUEST, EXT_GROUPS, EXT_POINT_FORMATS, EXT_SIGNATURES = 0, 5, 10, 11, 13
EXT_ALPN, EXT_PADDING, EXT_MASTER_SECRET, EXT_VERSIONS, EXT_COOKIE = 16, 21, 23, 43, 44
EXT_KEY_SHARE, EXT_RENEGOTIATION = 51, 0xFF01

HANDSHAKE = 22
CLIENT_HELLO = 1


class ClientHello(msgspec.Struct, frozen=True):
    """One offer. `versions` highest first; one entry below TLS 1.3 is offered without the supported_versions extension.

    `random`: 32 bytes, from which the key shares are derived (see `keys`). `shares`: groups to send a key share for,
    used with TLS 1.3 only. `compression`: method numbers (RFC 3749); 0 is none, 1 is DEFLATE. `cookie`: what a
    HelloRetryRequest said to send back (RFC 8446 §4.2.2).
    """

    versions: tuple[int, ...]
    random: bytes
    suites: tuple[int, ...]
    server_name: str | None = None
    groups: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()
    alpn: tuple[str, ...] = ()
    compression: tuple[int, ...] = (0,)
    cookie: bytes = b""

    @property
    def fallback(self) -> bool:
        """Whether it says that it is a repeat after a failed higher version (RFC 7507)."""
        return FALLBACK_SCSV in self.suites

    @property
    def real_suites(self) -> tuple[int, ...]:
        """The suites without the two signalling values."""
        return tuple(code for code in self.suites if code not in (FALLBACK_SCSV, RENEGOTIATION_SCSV))


def single(version: int, random: bytes, server_name: str | None = None) -> ClientHello:
    """The offer of one version (0x0300 to 0x0304) with everything that it could choose from."""
    return ClientHello(
        versions=(version,),
        random=random,
        suites=offer(version) if version == TLS13 else (*offer(version), RENEGOTIATION_SCSV),
        server_name=server_name,
        groups=TLS13_GROUPS if version == TLS13 else CURVES,
        shares=(X25519, SECP256R1) if version == TLS13 else (),
    )


def visitor(
    random: bytes, server_name: str | None = None, alpn: tuple[str, ...] = (), *, old: bool = False
) -> ClientHello:
    """The offer of a visitor: TLS 1.3 and 1.2, with `old` down to 1.0.

    Only groups are offered whose key exchange can be finished.
    """
    return ClientHello(
        versions=(TLS13, TLS12, TLS11, TLS10) if old else (TLS13, TLS12),
        random=random,
        suites=(0x1301, 0x1302, 0x1303, 0x1304, 0x1305, *offer(TLS12), RENEGOTIATION_SCSV),
        server_name=server_name,
        groups=KEY_SHARE_GROUPS,
        shares=(X25519, SECP256R1),
        alpn=alpn,
    )


def _vector(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def _codes(codes: tuple[int, ...]) -> bytes:
    return b"".join(code.to_bytes(2, "big") for code in codes)


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _vector(data, 2)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def host_name(name: str | None) -> str | None:
    """The name as it goes into server_name: without the last dot; None for an address (RFC 6066 §3 forbids those)."""
    if name is None or _is_address(name):
        return None
    name = name.rstrip(".").lower()
    if not name or not name.isascii() or len(name) > 253:
        raise WireError("TLS", f"{name[:60]!r} is no host name in its ASCII form")
    return name


def _extensions(hello: ClientHello) -> bytes:
    tls13 = TLS13 in hello.versions
    out = b""
    if hello.server_name is not None:
        out += _extension(EXT_SERVER_NAME, _vector(b"\0" + _vector(hello.server_name.encode("ascii"), 2), 2))
    out += _extension(EXT_MASTER_SECRET, b"")
    if hello.groups:
        out += _extension(EXT_GROUPS, _vector(_codes(hello.groups), 2))
        out += _extension(EXT_POINT_FORMATS, b"\x01\x00")
    if max(hello.versions) >= TLS12:
        out += _extension(EXT_SIGNATURES, _vector(_codes(OFFERED_SCHEMES), 2))
    out += _extension(EXT_STATUS_REQUEST, b"\x01\0\0\0\0")
    if hello.alpn:
        out += _extension(EXT_ALPN, _vector(b"".join(_vector(name.encode("ascii"), 1) for name in hello.alpn), 2))
    if tls13:
        out += _extension(EXT_VERSIONS, _vector(_codes(hello.versions), 1))
        shares = b"".join(
            group.to_bytes(2, "big") + _vector(public_share(hello.random, group), 2) for group in hello.shares
        )
        out += _extension(EXT_KEY_SHARE, _vector(shares, 2))
    if hello.cookie:
        out += _extension(EXT_COOKIE, _vector(hello.cookie, 2))
    return out


def build(hello: ClientHello) -> bytes:
    """The ClientHello as a handshake message (RFC 8446 §4.1.2), without its record."""
    legacy = min(max(hello.versions), TLS12)
    # A TLS 1.3 offer sends a session id, as boxes on the way expect of a resumption (RFC 8446 appendix D.4).
    session = hello.random[::-1] if TLS13 in hello.versions else b""
    body = legacy.to_bytes(2, "big") + hello.random + _vector(session, 1)
    body += _vector(_codes(hello.suites), 2) + _vector(bytes(hello.compression), 1)
    if max(hello.versions) > SSL3:
        extensions = _extensions(hello)
        # Some load balancers hang on a ClientHello of 256 to 511 bytes (RFC 7685).
        size = 4 + len(body) + 2 + len(extensions)
        if 256 <= size < 512:
            extensions += _extension(EXT_PADDING, bytes(max(0, 512 - size - 4)))
        body += _vector(extensions, 2)
    return bytes([CLIENT_HELLO]) + _vector(body, 3)


def record(message: bytes, version: int) -> bytes:
    """A handshake message in plaintext records of that version (RFC 8446 §5.1)."""
    pieces = [message[at : at + 16384] for at in range(0, len(message), 16384)]
    return b"".join(bytes([HANDSHAKE]) + version.to_bytes(2, "big") + _vector(piece, 2) for piece in pieces)


def first_flight(hello: ClientHello, *, retried: bool = False) -> bytes:
    """The bytes that carry the ClientHello; `retried`: it answers a HelloRetryRequest.

    The record says 3.0 or 3.1, as servers of old versions want it; after a HelloRetryRequest 3.3 (RFC 8446 §5.1).
    """
    return record(build(hello), TLS12 if retried else min(max(hello.versions), TLS10))


def ssl2_hello(challenge: bytes) -> bytes:
    """A CLIENT-HELLO of SSL 2.0 that offers all its seven ciphers; `challenge`: 16 bytes (RFC 6101 appendix E)."""
    specs = b"".join(code.to_bytes(3, "big") for code in SSL2_CIPHERS)
    body = b"\x01\x00\x02" + b"".join(len(part).to_bytes(2, "big") for part in (specs, b"", challenge))
    body += specs + challenge
    return (0x8000 | len(body)).to_bytes(2, "big") + body


def is_ssl2_hello(sent: bytes) -> bool:
    """Whether the bytes open an SSL 2.0 handshake."""
    return len(sent) > 5 and sent[0] & 0x80 == 0x80 and sent[2:5] == b"\x01\x00\x02"


def handshake_of(sent: bytes) -> bytes:
    """The handshake message in the plaintext records that we sent; raises `WireError`."""
    cursor = Cursor(sent, "TLS", "the ClientHello's record")
    message = b""
    while cursor.left():
        if cursor.uint(1) != HANDSHAKE:
            raise WireError("TLS", "what was sent is no handshake record")
        cursor.take(2)
        message += cursor.vector(2)
    return message


def parse(message: bytes) -> ClientHello:
    """The offer that a ClientHello handshake message makes, as far as `ClientHello` tells it; raises `WireError`."""
    outer = Cursor(message, "TLS", "the ClientHello")
    if outer.uint(1) != CLIENT_HELLO:
        raise WireError("TLS", "what was sent is no ClientHello")
    body = Cursor(outer.vector(3), "TLS", "the ClientHello")
    versions: tuple[int, ...] = (body.uint(2),)
    random = body.take(32)
    body.vector(1)
    suites = _read_codes(body.vector(2))
    compression = tuple(body.vector(1))
    extensions = read_extensions(body.vector(2)) if body.left() else {}
    name = None
    if EXT_SERVER_NAME in extensions:
        try:
            name = extensions[EXT_SERVER_NAME][5:].decode("ascii")
        except UnicodeDecodeError as error:
            raise WireError("TLS", "the name in the ClientHello is not ASCII") from error
    if EXT_VERSIONS in extensions:
        versions = _read_codes(extensions[EXT_VERSIONS][1:])
    shares: list[int] = []
    if EXT_KEY_SHARE in extensions:
        entries = Cursor(Cursor(extensions[EXT_KEY_SHARE], "TLS", "key_share").vector(2), "TLS", "key_share")
        while entries.left():
            shares.append(entries.uint(2))
            entries.vector(2)
    return ClientHello(
        versions=versions,
        random=random,
        suites=suites,
        server_name=name,
        groups=_read_codes(extensions.get(EXT_GROUPS, b"\0\0")[2:]),
        shares=tuple(shares),
        alpn=read_alpn(extensions[EXT_ALPN]) if EXT_ALPN in extensions else (),
        compression=compression,
        cookie=extensions.get(EXT_COOKIE, b"")[2:],
    )


def _read_codes(data: bytes) -> tuple[int, ...]:
    if len(data) % 2:
        raise WireError("TLS", "a list of two-byte codes has an odd length")
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def read_extensions(data: bytes) -> dict[int, bytes]:
    """The extensions of a hello by their number (RFC 8446 §4.2); raises `WireError`, also for a repeated one."""
    cursor = Cursor(data, "TLS", "the list of extensions")
    found: dict[int, bytes] = {}
    while cursor.left():
        kind = cursor.uint(2)
        if kind in found:
            raise WireError("TLS", f"extension {kind} is there twice")
        found[kind] = cursor.vector(2)
    return found


def read_alpn(data: bytes) -> tuple[str, ...]:
    """The protocol names of an ALPN extension (RFC 7301 §3.1); bytes outside ASCII are shown as escapes."""
    cursor = Cursor(Cursor(data, "TLS", "ALPN").vector(2), "TLS", "ALPN")
    names: list[str] = []
    while cursor.left():
        names.append(cursor.vector(1).decode("ascii", "backslashreplace"))
    return tuple(names)

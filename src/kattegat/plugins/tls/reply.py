"""Reads what a server answers to a ClientHello, piece by piece: records, handshake messages, alerts.

RFC 8446 and RFC 5246; the server's key exchange of RFC 8422 §5.4 and RFC 5246 §7.4.3; SERVER-HELLO of SSL 2.0.
Nothing here trusts the input: every malformed, oversized or endless reply ends in a `WireError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kattegat.plugins.shared.exchange import MAX_REPLY, Cursor, WireError
from kattegat.plugins.tls import keys
from kattegat.plugins.tls.suites import suites
from kattegat.plugins.tls.wire import (
    EXT_ALPN,
    EXT_COOKIE,
    EXT_KEY_SHARE,
    EXT_MASTER_SECRET,
    EXT_RENEGOTIATION,
    EXT_STATUS_REQUEST,
    EXT_VERSIONS,
    SSL3,
    TLS12,
    TLS13,
    handshake_of,
    is_ssl2_hello,
    parse,
    read_alpn,
    read_extensions,
)

ALERTS = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",
    22: "record_overflow",
    30: "decompression_failure",
    40: "handshake_failure",
    41: "no_certificate",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    60: "export_restriction",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}

_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_MAX_RECORD = (1 << 14) + 2048
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _DATA = 20, 21, 22, 23


@dataclass
class Reply:
    """What has been understood of the server's answer so far.

    `version` and `suite`: the server's choice, None as long as there is none. `retry`: it was a HelloRetryRequest.
    `group`: the named group of the key exchange; `dh_bits`: the size of the prime of a finite-field key exchange;
    `scheme`: the signature scheme of ServerKeyExchange or CertificateVerify. `chain`: DER certificates as sent, leaf
    first; None as long as no Certificate message came. `ssl2_ciphers`: the codes in a SERVER-HELLO of SSL 2.0.
    """

    version: int | None = None
    suite: int | None = None
    retry: bool = False
    cookie: bytes = b""
    compression: int = 0
    extended_master_secret: bool = False
    secure_renegotiation: bool = False
    group: int | None = None
    dh_bits: int | None = None
    scheme: int | None = None
    chain: tuple[bytes, ...] | None = None
    ocsp_stapled: bool = False
    alpn: str | None = None
    alert: int | None = None
    warnings: list[int] = field(default_factory=list)
    ssl2_ciphers: tuple[int, ...] | None = None


class ReplyReader:
    """Feeds on the server's bytes; `done` once nothing more is wanted, `error` if they were malformed.

    `sent`: our bytes that are answered (records, or an SSL 2.0 CLIENT-HELLO). `before`: after a HelloRetryRequest, the
    bytes (sent, received) of the first half. `hello_only`: stop at ServerHello, as when only the choice is asked for.
    Raises `WireError` if our own bytes cannot be read.
    """

    def __init__(self, sent: bytes, before: tuple[bytes, bytes] | None = None, *, hello_only: bool = False) -> None:
        self.reply = Reply()
        self.done = False
        self.error: WireError | None = None
        self.received = 0
        self._hello_only = hello_only
        self._raw = bytearray()
        self._messages = bytearray()
        self._keys: keys.ServerKeys | None = None
        self._transcript = b""
        self._ssl2 = is_ssl2_hello(sent)
        self._before = before
        if not self._ssl2:
            message = handshake_of(sent)
            self._random = parse(message).random
            self._transcript = message

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes; True once nothing more is wanted. Never raises: see `error`."""
        if self.done:
            return True
        self.received += len(data)
        self._raw += data
        try:
            if self._ssl2 and self._raw[:1] and not self._looks_like_record():
                self._server_hello_ssl2()
            else:
                self._records()
            if not self.done and self.received > MAX_REPLY:
                raise WireError("TLS", f"the reply is longer than {MAX_REPLY} bytes")
        except WireError as error:
            self.error = error
            self.done = True
        return self.done

    @property
    def untouched(self) -> bool:
        """Whether the server has said nothing at all, a polite close_notify aside."""
        return (
            not self.error
            and not self._raw
            and not self._messages
            and self.reply.alert in (None, 0)
            and not (self.reply.version or self.reply.ssl2_ciphers is not None)
        )

    def _looks_like_record(self) -> bool:
        # An alert or a handshake record; an SSL 2.0 header has its highest bit set.
        return self._raw[0] in (_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE)

    def _records(self) -> None:
        while not self.done and len(self._raw) >= 5:
            kind, major, length = self._raw[0], self._raw[1], int.from_bytes(self._raw[3:5], "big")
            if not _CHANGE_CIPHER_SPEC <= kind <= _DATA or major != 3:
                raise WireError("TLS", f"the server's bytes are no record, they begin with {bytes(self._raw[:5])!r}")
            if length > _MAX_RECORD:
                raise WireError("TLS", f"a record claims {length} bytes")
            if len(self._raw) < 5 + length:
                return
            header, payload = bytes(self._raw[:5]), bytes(self._raw[5 : 5 + length])
            del self._raw[: 5 + length]
            if kind == _DATA:
                if self._keys is None:
                    raise WireError("TLS", "an encrypted record comes before the keys are agreed on")
                kind, payload = self._keys.decrypt(header, payload)
            if kind == _ALERT:
                self._alert(payload)
            elif kind == _HANDSHAKE:
                self._handshake(payload)

    def _alert(self, payload: bytes) -> None:
        if len(payload) < 2:
            raise WireError("TLS", "an alert is shorter than two bytes")
        level, description = payload[0], payload[1]
        if level == 1 and description != 0:
            self.reply.warnings.append(description)
            return
        self.reply.alert = description
        self.done = True

    def _handshake(self, payload: bytes) -> None:
        self._messages += payload
        while not self.done and len(self._messages) >= 4:
            length = int.from_bytes(self._messages[1:4], "big")
            if length > MAX_REPLY:
                raise WireError("TLS", f"a handshake message claims {length} bytes")
            if len(self._messages) < 4 + length:
                return
            message = bytes(self._messages[: 4 + length])
            del self._messages[: 4 + length]
            self._message(message[0], message[4:], message)

    def _message(self, kind: int, body: bytes, message: bytes) -> None:
        reply = self.reply
        if kind == 2:
            if reply.version is not None:
                raise WireError("TLS", "a second ServerHello comes where none may")
            self._server_hello(body, message)
        elif reply.version is None:
            if kind != 0:
                raise WireError("TLS", f"handshake message {kind} comes before ServerHello")
        elif kind == 8 and reply.version == TLS13:
            extensions = read_extensions(Cursor(body, "TLS", "EncryptedExtensions").vector(2))
            self._read_alpn(extensions)
        elif kind == 11:
            self._certificate(body)
        elif kind == 15 and reply.version == TLS13:
            reply.scheme = Cursor(body, "TLS", "CertificateVerify").uint(2)
            self.done = True
        elif kind == 12:
            self._server_key_exchange(body)
        elif kind == 22:
            reply.ocsp_stapled = len(body) > 4 and body[0] == 1
        elif kind in (14, 20):
            self.done = True

    def _server_hello(self, body: bytes, message: bytes) -> None:
        reply = self.reply
        cursor = Cursor(body, "TLS", "ServerHello")
        version, random = cursor.uint(2), cursor.take(32)
        cursor.vector(1)
        suite, compression = cursor.uint(2), cursor.uint(1)
        extensions = read_extensions(cursor.vector(2)) if cursor.left() else {}
        cursor.end()
        if EXT_VERSIONS in extensions:
            version = Cursor(extensions[EXT_VERSIONS], "TLS", "supported_versions").uint(2)
        if not SSL3 <= version <= TLS13:
            raise WireError("TLS", f"ServerHello chooses version 0x{version:04X}")
        reply.version, reply.suite, reply.compression = version, suite, compression
        reply.extended_master_secret = EXT_MASTER_SECRET in extensions
        reply.secure_renegotiation = EXT_RENEGOTIATION in extensions
        self._read_alpn(extensions)
        if version == TLS13:
            self._server_hello_13(extensions, random, message)
        if self._hello_only:
            self.done = True

    def _server_hello_13(self, extensions: dict[int, bytes], random: bytes, message: bytes) -> None:
        reply = self.reply
        share = Cursor(extensions.get(EXT_KEY_SHARE, b""), "TLS", "key_share")
        if random == _RETRY_RANDOM:
            reply.retry = True
            if share.left():
                reply.group = share.uint(2)
            if EXT_COOKIE in extensions:
                reply.cookie = Cursor(extensions[EXT_COOKIE], "TLS", "cookie").vector(2)
            self.done = True
            return
        reply.group = share.uint(2)
        peer = share.vector(2)
        if self._hello_only:
            return
        suite = reply.suite or 0
        prefix = b""
        algorithm = keys.hash_name(suite)
        if self._before is not None and algorithm is not None:
            prefix = keys.message_hash(algorithm, handshake_of(self._before[0])) + _first_message(self._before[1])
        secret = keys.shared_secret(self._random, reply.group, peer)
        self._keys = keys.ServerKeys(suite, secret, prefix + self._transcript + message)

    def _read_alpn(self, extensions: dict[int, bytes]) -> None:
        if EXT_ALPN in extensions:
            names = read_alpn(extensions[EXT_ALPN])
            self.reply.alpn = names[0] if names else None

    def _certificate(self, body: bytes) -> None:
        cursor = Cursor(body, "TLS", "the Certificate message")
        tls13 = self.reply.version == TLS13
        if tls13:
            cursor.vector(1)
        entries = Cursor(cursor.vector(3), "TLS", "the certificate list")
        chain: list[bytes] = []
        while entries.left():
            chain.append(entries.vector(3))
            if tls13:
                extensions = read_extensions(entries.vector(2))
                self.reply.ocsp_stapled |= EXT_STATUS_REQUEST in extensions and len(chain) == 1
        self.reply.chain = tuple(chain)

    def _server_key_exchange(self, body: bytes) -> None:
        reply = self.reply
        suite = suites().get(reply.suite or 0)
        if suite is None:
            return
        cursor = Cursor(body, "TLS", "ServerKeyExchange")
        if suite.key_exchange == "ECDHE" or (suite.key_exchange == "ECDH" and suite.authentication == "anon"):
            curve_type = cursor.uint(1)
            if curve_type != 3:
                raise WireError("TLS", f"the key exchange has a curve of its own making (type {curve_type})")
            reply.group = cursor.uint(2)
            cursor.vector(1)
        elif suite.key_exchange in ("DHE", "DH", "RSA"):
            # RSA sends one in export suites only: the short-lived key that is cut down (RFC 2246 §7.4.3).
            number = int.from_bytes(cursor.vector(2), "big")
            reply.dh_bits = number.bit_length() if suite.key_exchange != "RSA" else None
            cursor.vector(2)
            if suite.key_exchange != "RSA":
                cursor.vector(2)
        if reply.version == TLS12 and suite.authentication != "anon" and cursor.left() >= 2:
            reply.scheme = cursor.uint(2)

    def _server_hello_ssl2(self) -> None:
        if not self._raw[0] & 0x80:
            raise WireError(
                "TLS", f"the server's bytes are no SSL 2.0 record, they begin with {bytes(self._raw[:5])!r}"
            )
        if len(self._raw) < 2:
            return
        length = int.from_bytes(self._raw[:2], "big") & 0x7FFF
        if len(self._raw) < 2 + length:
            return
        cursor = Cursor(bytes(self._raw[2 : 2 + length]), "TLS", "the SERVER-HELLO of SSL 2.0")
        kind = cursor.uint(1)
        if kind == 0:
            # ERROR: whatever its code, no session of SSL 2.0 comes about although every cipher was offered.
            self.reply.alert = 40
        elif kind == 4:
            cursor.take(2)
            version = cursor.uint(2)
            if version != 2:
                raise WireError("TLS", f"the SERVER-HELLO of SSL 2.0 chooses version 0x{version:04X}")
            sizes = [cursor.uint(2) for _ in range(3)]
            certificate, specs = cursor.take(sizes[0]), cursor.take(sizes[1])
            self.reply.ssl2_ciphers = tuple(
                int.from_bytes(specs[at : at + 3], "big") for at in range(0, len(specs) - 2, 3)
            )
            self.reply.chain = (certificate,) if certificate else ()
        else:
            raise WireError("TLS", f"SSL 2.0 message {kind} comes in the place of SERVER-HELLO")
        self.done = True


def _first_message(received: bytes) -> bytes:
    """The first handshake message in plaintext records: the HelloRetryRequest."""
    cursor = Cursor(received, "TLS", "the HelloRetryRequest")
    message = b""
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        kind = cursor.uint(1)
        cursor.take(2)
        payload = cursor.vector(2)
        if kind == _HANDSHAKE:
            message += payload
    return message[: 4 + int.from_bytes(message[1:4], "big")]


def read_reply(sent: bytes, received: bytes, before: tuple[bytes, bytes] | None = None) -> Reply:
    """What the server's recorded bytes say in answer to `sent`; raises `WireError` for malformed ones.

    A reply that is cut short gives what came until there.
    """
    reader = ReplyReader(sent, before)
    reader.feed(received)
    if reader.error:
        raise reader.error
    return reader.reply

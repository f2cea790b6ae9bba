"""The SSH transport protocol in the clear (RFC 4253 §4.2, §6, §7.1): identification, packets, KEXINIT.

Nothing here trusts the input: every malformed, oversized or endless one ends in a `WireError`.
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from kattegat.plugins.shared.exchange import MAX_REPLY, Cursor, WireError

MAX_IDENTIFICATION = 255
"""The longest identification line with its line end (RFC 4253 §4.2)."""

MAX_PREAMBLE = 64 * 1024
"""The most bytes read before the identification line; RFC 4253 has no limit of its own."""

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, KEXINIT, NEWKEYS = 1, 2, 3, 4, 20, 21

MAX_LINES = 1024
"""The most lines read before the identification line."""

MAX_MESSAGES = 64
"""The most messages that count before any keys; a key exchange has five at most."""

_IDENTIFICATION = re.compile(rb"SSH-([^-\s]{1,16})-([^ ]*)(?: (.*))?", re.DOTALL)


class Identification(msgspec.Struct, frozen=True):
    """The server's identification line. `raw`: as sent, without its line end, as it goes into the exchange hash.

    `protocol`: "2.0", "1.99" (speaks 1 and 2), "1.5" (speaks 1 only). `before`: lines sent ahead of it. Bytes outside
    UTF-8 are shown as escapes.
    """

    raw: bytes
    protocol: str
    software: str
    comments: str | None
    before: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def speaks_2(self) -> bool:
        """Whether SSH 2 can be spoken with it (RFC 4253 §5.1)."""
        return self.protocol in ("2.0", "1.99")


def text(data: bytes) -> str:
    """Bytes for people: UTF-8 where they are, escapes where they are not."""
    return data.decode("utf-8", "backslashreplace")


def read_identification(data: bytes) -> tuple[Identification, int] | None:
    """The identification at the start of a server's bytes and how many bytes it takes; None if it is not all there.

    Raises `WireError` if none comes within the limits.
    """
    before: list[str] = []
    at = 0
    while True:
        end = data.find(b"\n", at, at + MAX_PREAMBLE)
        if end < 0:
            if data[at : at + 4] == b"SSH-" and len(data) - at > MAX_PREAMBLE:
                raise WireError("SSH", f"the identification is longer than {MAX_PREAMBLE} bytes")
            if len(data) > MAX_PREAMBLE:
                raise WireError("SSH", f"no identification comes within {MAX_PREAMBLE} bytes")
            return None
        line = data[at:end]
        if line.startswith(b"SSH-"):
            return _identification(line, before), end + 1
        before.append(text(line.rstrip(b"\r")))
        at = end + 1
        if at > MAX_PREAMBLE or len(before) > MAX_LINES:
            raise WireError("SSH", f"no identification comes within {MAX_PREAMBLE} bytes and {MAX_LINES} lines")


def _identification(line: bytes, before: list[str]) -> Identification:
    problems: list[str] = []
    if len(line) + 1 > MAX_IDENTIFICATION:
        problems.append(f"The identification is longer than {MAX_IDENTIFICATION} bytes (RFC 4253 section 4.2).")
    if line.endswith(b"\r"):
        line = line[:-1]
    else:
        problems.append("The identification does not end in CR LF (RFC 4253 section 4.2).")
    match = _IDENTIFICATION.fullmatch(line)
    if match is None:
        raise WireError("SSH", f"the identification {line[:60]!r} has no version")
    protocol, software, comments = match.groups()
    if not software or not all(0x20 < byte < 0x7F for byte in software) or any(byte < 0x20 for byte in line):
        problems.append("The software version is not printable ASCII (RFC 4253 section 4.2).")
    return Identification(
        raw=line,
        protocol=text(protocol),
        software=text(software),
        comments=None if comments is None else text(comments),
        before=tuple(before),
        problems=tuple(problems),
    )


def string(data: bytes) -> bytes:
    """`data` as a string of RFC 4251 §5."""
    return len(data).to_bytes(4, "big") + data


def mpint(number: int) -> bytes:
    """A number that is not negative as an mpint of RFC 4251 §5."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b"")


def packet(payload: bytes) -> bytes:
    """The payload in an unencrypted packet (RFC 4253 §6); the padding is zeros, as there is nothing to hide."""
    padding = 8 - (5 + len(payload)) % 8
    if padding < 4:
        padding += 8
    return (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


class KexInit(msgspec.Struct, frozen=True):
    """SSH_MSG_KEXINIT (RFC 4253 §7.1): lists of names in order of preference; c2s is from client to server."""

    cookie: bytes
    kex: tuple[str, ...]
    host_keys: tuple[str, ...]
    ciphers_c2s: tuple[str, ...]
    ciphers_s2c: tuple[str, ...]
    macs_c2s: tuple[str, ...]
    macs_s2c: tuple[str, ...]
    compression_c2s: tuple[str, ...]
    compression_s2c: tuple[str, ...]
    languages_c2s: tuple[str, ...] = ()
    languages_s2c: tuple[str, ...] = ()
    guess_follows: bool = False


_LISTS = KexInit.__struct_fields__[1:11]


def build_kexinit(kexinit: KexInit) -> bytes:
    """The payload of the message."""
    lists = b"".join(string(",".join(getattr(kexinit, name)).encode("utf-8")) for name in _LISTS)
    return bytes([KEXINIT]) + kexinit.cookie + lists + bytes([kexinit.guess_follows]) + bytes(4)


def read_kexinit(payload: bytes) -> KexInit:
    """The message in a packet's payload; raises `WireError`."""
    cursor = Cursor(payload, "SSH", "KEXINIT")
    if cursor.uint(1) != KEXINIT:
        raise WireError("SSH", "the message is no KEXINIT")
    cookie = cursor.take(16)

    def names() -> tuple[str, ...]:
        listed = cursor.vector(4)
        return tuple(text(name) for name in listed.split(b",")) if listed else ()

    found = KexInit(
        cookie, names(), names(), names(), names(), names(), names(), names(), names(), names(), names(), False
    )
    return replace(found, guess_follows=cursor.uint(1) != 0)


class ServerReader:
    """Feeds on what a server sends until the keys change: identification, then packets.

    `identification`: None until it came. `payloads`: of the packets so far, without those that mean nothing (IGNORE,
    DEBUG). `disconnect`: the reason if the server took leave. `error`: if the bytes were malformed.
    """

    def __init__(self) -> None:
        self.identification: Identification | None = None
        self.payloads: list[bytes] = []
        self.disconnect: str | None = None
        self.error: WireError | None = None
        self.received = 0
        self._raw = bytearray()

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes; True if nothing more is to be expected. Never raises: see `error`."""
        if self.finished:
            return True
        self.received += len(data)
        self._raw += data
        try:
            self._read(data)
            if self.received > MAX_REPLY and not self.finished:
                raise WireError("SSH", f"the server sent more than {MAX_REPLY} bytes before any keys")
        except WireError as error:
            self.error = error
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether the conversation in the clear is over."""
        return (
            self.error is not None
            or self.disconnect is not None
            or (self.identification is not None and not self.identification.speaks_2)
            or bool(self.payloads and self.payloads[-1][0] == NEWKEYS)
        )

    @property
    def silent(self) -> bool:
        """Whether not a byte came."""
        return self.received == 0

    def find(self, number: int) -> bytes | None:
        """The payload of the first message with that number."""
        return next((payload for payload in self.payloads if payload[0] == number), None)

    def early_text(self) -> str:
        """What came in place of an identification, shortened; "" if nothing did."""
        return "" if self.identification else text(bytes(self._raw[:200])).strip()

    def _read(self, data: bytes) -> None:
        if self.identification is None:
            # Looking again at every byte that dribbles in would cost the square of the limit.
            if b"\n" not in data and len(self._raw) <= MAX_PREAMBLE:
                return
            found = read_identification(bytes(self._raw))
            if found is None:
                return
            self.identification, used = found
            del self._raw[:used]
        while not self.finished and len(self._raw) >= 5:
            length, padding = int.from_bytes(self._raw[:4], "big"), self._raw[4]
            if not padding + 2 <= length <= MAX_REPLY:
                raise WireError("SSH", f"a packet claims {length} bytes of which {padding} are padding")
            if len(self._raw) < 4 + length:
                return
            payload = bytes(self._raw[5 : 4 + length - padding])
            del self._raw[: 4 + length]
            self._message(payload)

    def _message(self, payload: bytes) -> None:
        if payload[0] == DISCONNECT:
            cursor = Cursor(payload[1:], "SSH", "the DISCONNECT message")
            code = cursor.uint(4)
            self.disconnect = f"{text(cursor.vector(4))[:200]} (reason {code})"
        elif payload[0] not in (IGNORE, DEBUG):
            if len(self.payloads) >= MAX_MESSAGES:
                raise WireError("SSH", f"the server sent more than {MAX_MESSAGES} messages before any keys")
            self.payloads.append(payload)

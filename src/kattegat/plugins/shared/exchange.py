"""What a probe and the driver that owns the sockets say to each other, and what is kept of it as evidence.

A probe is a generator that yields `Step` and is sent the `Exchange` that came of it; it opens no socket and reads no
clock. The list of exchanges is the evidence: `encode` makes one byte string of it, and analysing the decoded
conversation gives what analysing it live gave.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import msgspec

MAX_REPLY = 256 * 1024
"""The most bytes kept of one reply."""

MAX_CONVERSATION = 64 * 1024 * 1024

Ended = Literal["enough", "closed", "reset", "timeout", "limit", "unreachable"]
"""Why reading ended.

* `enough`: the step's own reader said that it has what it needs;
* `closed`: the server closed its side in order (FIN, end of stream);
* `reset`: the connection broke (RST, or writing failed);
* `timeout`: the server kept silent, or was too slow, for as long as the driver waits;
* `limit`: `Step.limit` bytes came and the reader still wanted more;
* `unreachable`: no connection came about, so nothing was sent.
"""


class WireError(ValueError):
    """Bytes that are no message of the protocol; `str()` is one sentence, `protocol` is "TLS" or "SSH"."""

    def __init__(self, protocol: str, reason: str) -> None:
        self.protocol = protocol
        self.reason = reason
        super().__init__(f"These bytes are no valid {protocol}: {reason}.")


@dataclass(frozen=True)
class Step:
    """One thing for the driver to do: (open a connection,) send `send`, read until `enough` says yes.

    `enough` is called with each piece of bytes as it comes, never twice with the same ones; it keeps its own state
    and never raises. With `same_connection` the bytes go over the connection of the step before, which the driver has
    kept open if, and only if, that step ended with `enough`. A driver reads at most `limit` bytes.
    """

    what: str
    send: bytes
    enough: Callable[[bytes], bool]
    same_connection: bool = False
    limit: int = MAX_REPLY


class Exchange(msgspec.Struct, frozen=True, array_like=True):
    """What came of one step. `what` is for the reader of the evidence only; no analysis looks at it."""

    what: str
    same_connection: bool
    sent: bytes
    received: bytes
    ended: Ended


class NotMeasured(msgspec.Struct, frozen=True):
    """Something that this run cannot tell, and one sentence why. Never to be read as absence."""

    what: str
    reason: str


Conversation = tuple[Exchange, ...]
Probe = Generator[Step, Exchange, None]

HOW_ENDED = {
    "enough": "the server's answer was not the one asked for",
    "closed": "the server closed the connection",
    "reset": "the connection was reset",
    "timeout": "the server did not answer in time",
    "limit": "the server sent more than is read of one reply",
    "unreachable": "no connection could be made",
}


def encode(conversation: Conversation) -> bytes:
    """The conversation as one byte string (MessagePack, an array of arrays), to be kept as evidence."""
    return msgspec.msgpack.encode(conversation)


def decode(data: bytes) -> Conversation:
    """The conversation of `encode`; raises `WireError` for bytes that are none."""
    if len(data) > MAX_CONVERSATION:
        raise WireError("conversation", f"{len(data)} bytes are more than the {MAX_CONVERSATION} that are read")
    try:
        return msgspec.msgpack.decode(data, type=tuple[Exchange, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("conversation", f"it cannot be decoded ({error})") from error


class Cursor:
    """Reads big-endian fields off `data`; a field that is not all there raises `WireError`."""

    def __init__(self, data: bytes, protocol: str, what: str) -> None:
        self.data = data
        self.at = 0
        self._protocol = protocol
        self._what = what

    def left(self) -> int:
        """The number of bytes not yet read."""
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.left():
            raise WireError(self._protocol, f"{self._what} ends {count - self.left()} bytes too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, width: int) -> int:
        """The next `width` bytes as a number."""
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """A vector: its length in `width` bytes, then as many bytes (RFC 8446 §3.4; RFC 4251 §5 with width 4)."""
        return self.take(self.uint(width))

    def end(self) -> None:
        """Raises `WireError` if anything is left."""
        if self.left():
            raise WireError(self._protocol, f"{self._what} has {self.left()} bytes too many")

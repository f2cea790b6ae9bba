"""The opening of an SMTP conversation (RFC 5321, STARTTLS of RFC 3207) without input or output.

`open_session` says what to send and reads what comes, as a generator of steps; `read_session` reads what was recorded.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import msgspec

from kattegat.plugins.shared.exchange import HOW_ENDED, Exchange, Step

MAX_REPLY = 16 * 1024
"""Octets of one reply that are read; a line has 512 at most (RFC 5321 section 4.5.3.1.5), and EHLO lines are few."""

BANNER, EHLO, STARTTLS = "banner", "EHLO", "STARTTLS"


class Answer(msgspec.Struct, frozen=True):
    """A reply (RFC 5321 section 4.2): its code, and its lines without code and line end, as Latin-1."""

    code: int
    lines: tuple[str, ...]


class ReplyReader:
    """Feeds on bytes; done with the last line of a reply, or with the first that is no line of one."""

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, data: bytes) -> bool:
        """Whether nothing more is wanted."""
        self._line += data
        *whole, rest = self._line.split(b"\n")
        done = any(line[3:4] != b"-" or not line[:3].isdigit() for line in whole)
        self._line = bytearray(rest)
        return done


def parse_reply(received: bytes) -> Answer | None:
    """The first whole reply; None when the bytes are none, or it is not all there."""
    lines: list[str] = []
    *whole, _ = received.split(b"\n")
    for line in whole:
        text = line.removesuffix(b"\r").decode("latin-1")
        if len(text) < 3 or not (text[:3].isascii() and text[:3].isdigit()) or text[3:4] not in ("", " ", "-"):
            return None
        lines.append(text[4:])
        if text[3:4] != "-":
            return Answer(int(text[:3]), tuple(lines))
    return None


def offers_starttls(ehlo: Answer) -> bool:
    """Whether the extensions have STARTTLS; the first line is the greeting."""
    return any(line.strip().upper() == "STARTTLS" for line in ehlo.lines[1:])


def open_session(client: str) -> Generator[Step, Exchange, bool]:
    """Waits for the banner, says EHLO and STARTTLS; returns whether the server is now ready for a TLS handshake.

    `client`: what to say behind EHLO, a name or an address literal (section 4.1.3).
    """
    banner = yield _step(BANNER, b"")
    greeting = parse_reply(banner.received)
    if greeting is None or greeting.code != 220:
        return False
    ehlo = yield _step(EHLO, f"EHLO {client}\r\n".encode("ascii"))
    extensions = parse_reply(ehlo.received)
    if extensions is None or extensions.code != 250 or not offers_starttls(extensions):
        return False
    started = yield _step(STARTTLS, b"STARTTLS\r\n")
    ready = parse_reply(started.received)
    return ready is not None and ready.code == 220


def _step(what: str, send: bytes) -> Step:
    return Step(what, send, ReplyReader().feed, same_connection=what != BANNER, limit=MAX_REPLY)


@dataclass(frozen=True)
class Session:
    """What a recorded opening shows. `problem`: why it says nothing about the server, or "".

    `starttls`: whether it is offered; `refusal`: what a server that offers it said in place of starting, or "".
    """

    problem: str = ""
    banner: str = ""
    extensions: tuple[str, ...] = ()
    starttls: bool = False
    refusal: str = ""


def read_session(exchanges: Sequence[Exchange]) -> Session:
    """Reads the exchanges of `open_session`; never raises. A server that turns us away has shown nothing."""
    banner = _answer(exchanges, 0, "banner")
    if isinstance(banner, str):
        return Session(banner)
    if banner.code != 220:
        return Session(f"it turned the connection away: {_shown(banner)}")
    said = " ".join(banner.lines)
    ehlo = _answer(exchanges, 1, "answer to EHLO")
    if isinstance(ehlo, str):
        return Session(ehlo)
    if 500 <= ehlo.code <= 504:
        return Session("", said)  # knows no EHLO, and so no extensions (RFC 5321 section 4.1.1.1)
    if ehlo.code != 250:
        return Session(f"it turned the connection away: {_shown(ehlo)}")
    if not offers_starttls(ehlo):
        return Session("", said, ehlo.lines[1:])
    started = _answer(exchanges, 2, "answer to STARTTLS")
    if isinstance(started, str):
        refusal = started
    else:
        refusal = "" if started.code == 220 else f"it refused STARTTLS: {_shown(started)}"
    return Session("", said, ehlo.lines[1:], True, refusal)


def _answer(exchanges: Sequence[Exchange], index: int, what: str) -> Answer | str:
    """The reply of an exchange, or why there is none."""
    if index >= len(exchanges):
        return f"it gave no {what}"
    found = parse_reply(exchanges[index].received)
    if found is not None:
        return found
    ended = exchanges[index].ended
    if ended == "enough":
        return f"its {what} is no reply of SMTP"
    return f"it gave no {what}, because {HOW_ENDED[ended]}"


def _shown(answer: Answer) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in " ".join(answer.lines))
    return f"{answer.code} {text[:200]}".rstrip()

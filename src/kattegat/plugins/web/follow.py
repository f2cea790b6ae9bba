"""Visiting a URL and following where it sends the visitor, hop by hop; what is kept of it, and reading that back.

Beside the responses (parts `hop`) stands at most one part `stopped` that says why the last redirect was not followed.
Every part has the note `chain`, so that one evidence holds several visits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urljoin

import msgspec

from kattegat.errors import KeyFormatError
from kattegat.plugin import URL, Blocked, Evidence, HttpReply, Net, NotReached, Part, Website

MOST_HOPS = 10
MOST_OF_BRIEF = 4096
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Stop(msgspec.Struct, frozen=True):
    """Why a redirect was not followed: `why` is "loop", "limit", "blocked", "failed", "unreadable" or "elsewhere"."""

    url: str
    why: str
    problem: str


class Visit(msgspec.Struct, frozen=True):
    """The responses to one visit, in order, and why it ended before a response that is no redirect, if it did."""

    replies: tuple[HttpReply, ...]
    stop: Stop | None = None


def clean(text: str) -> str:
    """Text that a database takes: NUL is written as an escape."""
    return text.replace("\x00", "\\x00")


def decoded(raw: bytes) -> str:
    """A header's value: UTF-8 where it is that, else Latin-1 (RFC 9110 section 5.5), without NUL."""
    try:
        return clean(raw.decode())
    except UnicodeDecodeError:
        return clean(raw.decode("latin-1"))


def website(url: str) -> Website | None:
    """The origin that a URL lies in, or None for what is no URL of the web."""
    try:
        return URL(url).website
    except (KeyFormatError, ValueError):
        return None


def location(reply: HttpReply) -> str | None:
    """Where a response sends the visitor, made absolute; None when it is no redirect (RFC 9110 section 15.4)."""
    if reply.status not in REDIRECTS:
        return None
    raw = next((value for name, value in reply.headers if name.lower() == b"location"), None)
    if raw is None:
        return None
    wanted = decoded(raw).strip()
    try:
        return urljoin(reply.url, wanted)
    except ValueError:
        return wanted


def is_address(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def brief(reply: HttpReply) -> HttpReply:
    """A response with the beginning of its body only: for looks at who answers, of which there are many."""
    return msgspec.structs.replace(
        reply, body=reply.body[:MOST_OF_BRIEF], cut=reply.cut or len(reply.body) > MOST_OF_BRIEF
    )


async def visit(
    net: Net, url: str, *, address: str | None = None, chain: str = "", most: int = MOST_HOPS, elsewhere: bool = True
) -> list[Part]:
    """Visits a URL; the parts of evidence. Raises `NotReached` and `Blocked` for the first response only.

    `address` pins the address of the first URL's host. Without `elsewhere` redirects to other hosts are not followed.
    Cookies go back to the origin that set them: some sites send a visitor without cookies in circles.
    """
    host = URL(url).website.host
    parts: list[Part] = []
    jar: dict[str, dict[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    url = URL(url).url
    while True:
        at = URL(url).website
        sent = _sent(jar.get(at.key, {}))
        seen.add((url, sent))
        try:
            reply = await net.get(
                url, address=address if at.host == host else None, headers={"Cookie": sent} if sent else None
            )
        except (NotReached, Blocked) as problem:
            if not parts:
                raise
            why = "blocked" if isinstance(problem, Blocked) else "failed"
            return [*parts, _stopped(chain, url, why, str(problem))]
        part = reply.part("hop")
        parts.append(Part("hop", part.content, {**part.notes, "chain": chain}))
        target = location(reply)
        if target is None:
            return parts
        for name, value in _cookies(reply):
            jar.setdefault(at.key, {})[name] = value
        site = website(target)
        if site is None:
            return [*parts, _stopped(chain, target, "unreadable", "The redirect leads to no URL of the web.")]
        if not elsewhere and site.host != at.host:
            return [*parts, _stopped(chain, target, "elsewhere", "Redirects to other hosts are not followed here.")]
        url = URL(target).url
        if (url, _sent(jar.get(site.key, {}))) in seen:
            return [*parts, _stopped(chain, url, "loop", "The redirect leads to a URL that was visited before.")]
        if len(parts) > most:
            return [*parts, _stopped(chain, url, "limit", f"There were more than {most} redirects.")]


def _sent(cookies: Mapping[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def _stopped(chain: str, url: str, why: str, problem: str) -> Part:
    return Part("stopped", b"", {"chain": chain, "url": clean(url), "why": why, "problem": problem})


def _cookies(reply: HttpReply) -> Iterator[tuple[str, str]]:
    for raw in reply.header("set-cookie"):
        name, equals, value = raw.partition(";")[0].partition("=")
        pair = (name.strip(), value.strip())
        # What can't stand in a request's header is dropped, as browsers do.
        if equals and pair[0] and all(text.isascii() and text.isprintable() for text in pair):
            yield pair


def reply_of(part: Part) -> HttpReply | None:
    """The response that a part holds, or None when it can't be read."""
    try:
        return HttpReply.from_part(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read(evidence: Evidence, chain: str = "") -> Visit:
    """The visit of this name in the evidence. It ends before the first response that can't be read."""
    replies: list[HttpReply] = []
    for part in evidence.named("hop"):
        if part.notes.get("chain") == chain:
            reply = reply_of(part)
            if reply is None:
                return Visit(tuple(replies), Stop("", "failed", "The recorded response can't be read."))
            replies.append(reply)
    for part in evidence.named("stopped"):
        if part.notes.get("chain") == chain:
            notes = {name: clean(str(part.notes.get(name, ""))) for name in ("url", "why", "problem")}
            return Visit(tuple(replies), Stop(**notes))
    return Visit(tuple(replies))

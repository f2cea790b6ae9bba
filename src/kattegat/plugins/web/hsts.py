"""The Strict-Transport-Security header (RFC 6797 section 6.1) as browsers read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_DIRECTIVE = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s";=]+))?""")


class Hsts(msgspec.Struct, frozen=True):
    """What a browser makes of the header: `max_age` in seconds; None with a `problem` when it ignores the header."""

    max_age: int | None
    subdomains: bool = False
    preload: bool = False
    problem: str = ""


def parse(values: Sequence[str]) -> Hsts | None:
    """The policy of a response's headers; None without one. Only the first header counts (section 8.1)."""
    if not values:
        return None
    found: dict[str, str] = {}
    # Some servers join repeated headers with a comma, which the grammar doesn't know: all of it is one bad header.
    for piece in _pieces(values[0]):
        text = piece.strip(" \t")
        if not text:
            continue
        match = _DIRECTIVE.fullmatch(text)
        if match is None:
            return Hsts(None, problem=f"{text[:60]!r} is no directive")
        name = match[1].lower()
        if name in found:
            return Hsts(None, problem=f"{name} stands in it twice")
        found[name] = (match[2] or "").strip('"')
    if "max-age" not in found:
        return Hsts(None, problem="it has no max-age")
    if not re.fullmatch(r"[0-9]+", found["max-age"]):
        return Hsts(None, problem=f"max-age is {found['max-age'][:40]!r} and not a number of seconds")
    # Python refuses to read thousands of digits; every browser has some highest age.
    age = int(found["max-age"][:18]) if len(found["max-age"]) > 18 else int(found["max-age"])
    return Hsts(age, "includesubdomains" in found, "preload" in found)


def _pieces(value: str) -> list[str]:
    pieces, quoted = [""], False
    for letter in value:
        if letter == ";" and not quoted:
            pieces.append("")
            continue
        quoted ^= letter == '"'
        pieces[-1] += letter
    return pieces

"""SPF macro strings (RFC 7208 section 7): syntax, expansion, and the DNS names that come out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import quote

import msgspec

MAX_NAME = 253  # characters of a DNS name written with dots, RFC 7208 section 7.3
MAX_LABEL = 63

_EXPAND = re.compile(r"%(?:\{([a-z])([0-9]*)(r?)([.\-+,/_=]*)\}|([%_-]))", re.IGNORECASE | re.ASCII)
_LETTERS = frozenset("slodiphv")
_EXPLANATION_LETTERS = frozenset("crt")
_TOP_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.IGNORECASE | re.ASCII)
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}


class MacroSyntaxError(ValueError):
    """A text that is no macro string or no domain-spec; str() is the reason."""


class Macro(msgspec.Struct, frozen=True):
    """One `%{...}`: `keep` is how many right-hand parts stay (0 for all), `delimiters` is never empty."""

    letter: str
    keep: int = 0
    reverse: bool = False
    delimiters: str = "."
    url_escape: bool = False


MacroString: TypeAlias = tuple[str | Macro, ...]


def parse_macro_string(text: str, *, explanation: bool = False) -> MacroString:
    """The literals and macros of `text` in order; `explanation` allows spaces and the letters c, r and t.

    Raises `MacroSyntaxError`.
    """
    parts: list[str | Macro] = []
    position = 0
    while position < len(text):
        end = text.find("%", position)
        end = len(text) if end < 0 else end
        literal = text[position:end]
        for character in literal:
            if not ("\x21" <= character <= "\x7e" or (explanation and character == " ")):
                raise MacroSyntaxError(f"the character {character!r} is not allowed")
        if literal:
            parts.append(literal)
        if end == len(text):
            break
        found = _EXPAND.match(text, end)
        if found is None:
            raise MacroSyntaxError(f"{text[end : end + 12]!r} is not a macro")
        parts.append(_ESCAPES[found[5]] if found[5] else _macro(found, explanation))
        position = found.end()
    return tuple(parts)


def _macro(found: re.Match[str], explanation: bool) -> Macro:
    letter, digits, reverse, delimiters = found[1], found[2], found[3], found[4]
    allowed = _LETTERS | _EXPLANATION_LETTERS if explanation else _LETTERS
    if letter.lower() not in allowed:
        raise MacroSyntaxError(f"the macro letter {letter!r} is not allowed here")
    # Names have no more than 127 labels and mailboxes no more than 320 octets, so any larger number means "all".
    keep = int(digits[:9]) if digits else 0
    if digits and keep == 0:
        raise MacroSyntaxError(f"{found[0]!r} keeps 0 parts")
    return Macro(letter.lower(), keep, bool(reverse), delimiters or ".", letter.isupper())


def parse_domain_spec(text: str) -> MacroString:
    """The parts of a domain-spec: a macro string that ends in a macro or in a top label (RFC 7208 section 7.1).

    Raises `MacroSyntaxError`.
    """
    if not text:
        raise MacroSyntaxError("the domain is empty")
    parts = parse_macro_string(text)
    end = max((found.end() for found in _EXPAND.finditer(text)), default=0)
    if end and end == len(text):
        return parts
    _, dot, top = text[end:].removesuffix(".").rpartition(".")
    if not dot or not _is_top_label(top):
        raise MacroSyntaxError(f"{text!r} does not end in a dot and a top-level label")
    return parts


def letters(parts: MacroString) -> frozenset[str]:
    """The macro letters in use, in lower case."""
    return frozenset(part.letter for part in parts if isinstance(part, Macro))


def expand(parts: MacroString, values: Mapping[str, str]) -> str:
    """The text with every macro replaced; `values` has the value of each letter in use (RFC 7208 section 7.3)."""
    return "".join(part if isinstance(part, str) else _expand_one(part, values[part.letter]) for part in parts)


def _expand_one(macro: Macro, value: str) -> str:
    pieces = re.split(f"[{re.escape(macro.delimiters)}]", value)
    if macro.reverse:
        pieces.reverse()
    if macro.keep:
        pieces = pieces[-macro.keep :]
    text = ".".join(pieces)
    return quote(text, safe="") if macro.url_escape else text


def target_name(expanded: str) -> str | None:
    """The DNS name for an expanded domain-spec, in lower case: at most 253 characters, cut from the left.

    None when DNS cannot hold it (an empty label, a label over 63 characters, a character outside ASCII). RFC 7208
    section 4.8 leaves that case open; here, as for the domain of a message (section 4.3), such a name does not exist.
    """
    if not expanded.isascii():  # before lower(), which turns some other letters into ASCII ones
        return None
    name = expanded.removesuffix(".").lower()
    while len(name) > MAX_NAME and "." in name:
        name = name.partition(".")[2]
    return name if is_name(name) else None


def is_name(name: str) -> bool:
    """Whether DNS can hold `name` (no final dot)."""
    return name.isascii() and 0 < len(name) <= MAX_NAME and all(0 < len(x) <= MAX_LABEL for x in name.split("."))


def is_multi_label_domain(name: str) -> bool:
    """Whether `name` can be the domain of a mail address: two labels or more, the last one no number (section 4.3)."""
    return is_name(name) and "." in name and _is_top_label(name.rpartition(".")[2])


def _is_top_label(label: str) -> bool:
    return _TOP_LABEL.fullmatch(label) is not None and not label.isdigit()

"""The tag-list syntax that DMARC, DKIM keys, MTA-STS and TLS-RPT records share: `name=value` between semicolons."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_NAME = re.compile(r"[a-z][a-z0-9_.-]*", re.IGNORECASE | re.ASCII)
_URI = re.compile(r"([a-z][a-z0-9+.-]*):([\x22-\x2b\x2d-\x3a\x3c-\x7e]+)", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE | re.ASCII)
_SPACE = " \t\r\n"


class Tag(msgspec.Struct, frozen=True):
    """One `name=value`, without the space around either."""

    name: str
    value: str


class TagProblem(msgspec.Struct, frozen=True):
    """What is wrong with a record: `code` is the kind, `tag` the tag ("" for the whole record), `detail` in words."""

    code: str
    tag: str
    detail: str


def decode(record: bytes | str) -> str:
    """The text of a record, each octet outside ASCII as one character, so that it stays visible and never raises."""
    return record if isinstance(record, str) else record.decode("latin-1")


def parse_tags(text: str, problems: list[TagProblem]) -> tuple[Tag, ...]:
    """The tags in order; of a name that is there twice only the first counts, as no reader may rely on the other.

    Adds a problem "syntax" for each piece that is no tag and "duplicate-tag" for each repeated name.
    """
    tags: dict[str, Tag] = {}
    pieces = [piece.strip(_SPACE) for piece in text.split(";")]
    if pieces[-1] == "":  # one semicolon may end the list
        pieces.pop()
    for piece in pieces:
        name, equals, value = piece.partition("=")
        name = name.rstrip(_SPACE)
        if not equals or not _NAME.fullmatch(name):
            problems.append(TagProblem("syntax", "", f"{shorten(piece)!r} is not name=value"))
        elif name in tags:
            problems.append(TagProblem("duplicate-tag", name, f"{name}= is there more than once"))
        else:
            tags[name] = Tag(name, value.lstrip(_SPACE))
    return tuple(tags.values())


def shorten(text: str) -> str:
    """The text, cut to what a message can show."""
    return text if len(text) <= 60 else text[:57] + "..."


def select_by_version(texts: Sequence[bytes], version: str, *, strict: bool = False) -> tuple[bytes, ...]:
    """Those TXT records whose first tag is `v=version` (case counts).

    Space around "=" is allowed and the version may be all there is, unless `strict`.
    """
    written = re.escape(version)
    pattern = rf"v={written}[ \t]*;" if strict else rf"v[ \t]*=[ \t]*{written}[ \t]*(?:;|\Z)"
    compiled = re.compile(pattern.encode("ascii"))
    return tuple(text for text in texts if compiled.match(text))


def split_uri(text: str) -> tuple[str, str] | None:
    """The scheme in lower case and the rest of a URI (comma, semicolon and ! must be encoded); None if it is none."""
    found = _URI.fullmatch(text)
    return (found[1].lower(), found[2]) if found else None


def mailto_domain(rest: str) -> str | None:
    """The domain, in lower case, of the one address in a mailto URI (RFC 6068); None if there is not exactly one."""
    local, at, domain = rest.partition("?")[0].rpartition("@")
    return domain.lower() if at and local and "@" not in local and is_hostname(domain) else None


def is_hostname(name: str) -> bool:
    """Whether `name` is a DNS name in ASCII of two labels or more, without a final dot."""
    labels = name.split(".")
    return len(name) <= 253 and len(labels) > 1 and all(_LABEL.fullmatch(label) for label in labels)

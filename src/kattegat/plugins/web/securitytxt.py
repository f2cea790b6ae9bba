"""security.txt as RFC 9116 defines it: read tolerantly, every departure from the rules told."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

MOST_BYTES = 32 * 1024  # what readers may stop at (RFC 9116 section 5.4)
MOST_FIELD = 2048
_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*?)[ \t]*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*|\*")
# RFC 3339 section 5.6, which knows a lower-case t and z, and leap seconds.
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(?:\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)  # fmt: skip
_BEGIN = "-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
_END = "-----END PGP SIGNATURE-----"
_LINKS = ("acknowledgments", "canonical", "encryption", "hiring", "policy")


class Problem(msgspec.Struct, frozen=True):
    """A rule that is broken: `code` names the rule and `detail` the value or line it is about.

    Codes: too-large, not-utf-8, long-line, syntax, contact-missing, contact-uri, contact-http, expires-missing,
    expires-several, expires-format, languages-several, languages-format, uri, http-uri, empty, signature; and of the
    way it is served: content-type, charset, canonical, http, legacy-place.
    """

    code: str
    detail: str = ""


class Text(msgspec.Struct, frozen=True):
    """What a file says. `fields` are (name in lower case, value) in order; `expires` in UTC."""

    fields: tuple[tuple[str, str], ...]
    expires: datetime | None
    signed: bool
    problems: tuple[Problem, ...]

    def all(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for field, value in self.fields if field == name]


def looks_like(body: bytes) -> bool:
    """Whether a body has a field that every security.txt has, so that it is no page that says "not found"."""
    start = body[:MOST_BYTES]
    if b"<html" in start.lower():
        return False
    return re.search(rb"(?im)^[ \t]*(contact|expires)[ \t]*:", start) is not None


def parse(body: bytes, *, cut: bool = False) -> Text:
    """Reads a file; never raises. `cut`: the body is not all of it."""
    problems: list[Problem] = []
    if cut or len(body) > MOST_BYTES:
        problems.append(Problem("too-large", f"{len(body)}{'+' if cut else ''}"))
    try:
        text = body[:MOST_BYTES].decode("utf-8")
    except UnicodeDecodeError as error:
        # A file cut at the limit may end inside a character.
        if len(body) <= MOST_BYTES or error.start < MOST_BYTES - 4:
            problems.append(Problem("not-utf-8", f"byte {error.start}"))
        text = body[:MOST_BYTES].decode("utf-8", "replace")
    lines = [line.rstrip("\r") for line in text.replace("\x00", "\ufffd").removeprefix("\ufeff").split("\n")]
    signed, content = _unwrap(lines, problems)
    fields: list[tuple[str, str]] = []
    for line in content:
        if len(line) > MOST_FIELD:
            problems.append(Problem("long-line", line[:40]))
        if not line.strip() or line.startswith("#"):
            continue
        match = _FIELD.fullmatch(line)
        if match is None:
            problems.append(Problem("syntax", line[:80]))
        else:
            fields.append((match[1].lower(), match[2][:MOST_FIELD]))
    expires = _judge(fields, problems)
    return Text(tuple(fields), expires, signed, tuple(dict.fromkeys(problems)))


def _unwrap(lines: list[str], problems: list[Problem]) -> tuple[bool, list[str]]:
    """The lines inside an OpenPGP cleartext signature (RFC 9580 section 7), which is not verified here."""
    begins = next((index for index, line in enumerate(lines) if line.rstrip() == _BEGIN), None)
    if begins is None:
        if any(line.rstrip() == _SIGNATURE for line in lines):
            problems.append(Problem("signature", "it has a signature, and no line that begins the signed text"))
            at = next(index for index, line in enumerate(lines) if line.rstrip() == _SIGNATURE)
            return True, lines[:at]
        return False, lines
    if any(line.strip() for line in lines[:begins]):
        problems.append(Problem("signature", "there is text in front of the signed text"))
    # Armor headers (Hash: SHA512) end with an empty line.
    start = next((index + 1 for index in range(begins + 1, len(lines)) if not lines[index].strip()), len(lines))
    ends = next((index for index in range(start, len(lines)) if lines[index].rstrip() == _SIGNATURE), None)
    last = next((index for index in range(start, len(lines)) if lines[index].rstrip() == _END), None)
    if ends is None or last is None or last < ends:
        problems.append(Problem("signature", "the signature is not complete"))
    elif any(line.strip() for line in lines[last + 1 :]):
        problems.append(Problem("signature", "there is text behind the signature"))
    content = lines[start : len(lines) if ends is None else ends]
    return True, [line.removeprefix("- ") for line in content]


def _judge(fields: list[tuple[str, str]], problems: list[Problem]) -> datetime | None:
    """Adds what is wrong with the fields; gives when the file expires."""
    named: dict[str, list[str]] = {}
    for name, value in fields:
        named.setdefault(name, []).append(value)
        if not value and name in (*_LINKS, "contact", "expires", "preferred-languages"):
            problems.append(Problem("empty", name))
    if "contact" not in named:
        problems.append(Problem("contact-missing"))
    for value in filter(None, named.get("contact", ())):
        if not _URI.fullmatch(value):
            problems.append(Problem("contact-uri", value[:200]))
        elif value.lower().startswith("http:"):
            problems.append(Problem("contact-http", value[:200]))
    for name in _LINKS:
        for value in filter(None, named.get(name, ())):
            if not _URI.fullmatch(value):
                problems.append(Problem("uri", f"{name}: {value[:200]}"))
            elif value.lower().startswith("http:"):
                problems.append(Problem("http-uri", f"{name}: {value[:200]}"))
    languages = named.get("preferred-languages", [])
    if len(languages) > 1:
        problems.append(Problem("languages-several", str(len(languages))))
    problems += [
        Problem("languages-format", value[:200])
        for value in languages
        if value and not all(_TAG.fullmatch(tag.strip()) for tag in value.split(","))
    ]
    times = named.get("expires", [])
    if not times:
        problems.append(Problem("expires-missing"))
        return None
    if len(times) > 1:
        problems.append(Problem("expires-several", str(len(times))))
    read = [_time(value) for value in times]
    problems += [Problem("expires-format", value[:200]) for value, at in zip(times, read, strict=True) if at is None]
    # Of several the earliest: a reader that takes any of them finds the file expired by then at the latest.
    return min((at for at in read if at is not None), default=None)


def _time(value: str) -> datetime | None:
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    seconds = "59" if match[3] == "60" else match[3]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}:{seconds}{match[4].upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None

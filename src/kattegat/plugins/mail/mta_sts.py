"""MTA Strict Transport Security: the TXT record and the policy file (RFC 8461 section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import msgspec

from kattegat.plugins.mail.tags import Tag, TagProblem, decode, is_hostname, parse_tags, select_by_version, shorten

VERSION = "STSv1"
MAX_AGE = 31557600
"""Seconds; the largest max_age (section 3.2)."""
MAX_POLICY = 64 * 1024
"""Octets of a policy file that are read (section 3.3 suggests 64 kilobytes)."""

Mode: TypeAlias = Literal["enforce", "testing", "none"]
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


class StsRecord(msgspec.Struct, frozen=True):
    """The TXT record at `_mta-sts.` and the domain; `id` is None when it is missing or wrong: there is no policy."""

    id: str | None
    tags: tuple[Tag, ...] = ()
    problems: tuple[TagProblem, ...] = ()


class StsPolicy(msgspec.Struct, frozen=True):
    """The policy file: `mode`, `max_age` in seconds, and `mx` patterns in lower case.

    `mode` and `max_age` are None when missing or wrong. `valid`: a sender can use the policy.
    """

    mode: Mode | None
    max_age: int | None
    mx: tuple[str, ...]
    valid: bool
    fields: tuple[Tag, ...] = ()
    problems: tuple[TagProblem, ...] = ()


def select_records(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """The MTA-STS records among TXT records; anything but one means no policy (section 3.1)."""
    return select_by_version(texts, VERSION, strict=True)


def parse_record(record: bytes | str) -> StsRecord:
    """Read the TXT record; never raises. Problem codes: version, syntax, duplicate-tag, missing-id, invalid-id."""
    problems: list[TagProblem] = []
    tags = parse_tags(decode(record), problems)
    if not tags or tags[0] != Tag("v", VERSION):
        problems.append(TagProblem("version", "v", f"the record does not start with v={VERSION}"))
    id_ = next((tag.value for tag in tags if tag.name == "id"), None)
    if id_ is None:
        problems.append(TagProblem("missing-id", "id", "there is no id="))
    elif not _ID.fullmatch(id_):
        problems.append(TagProblem("invalid-id", "id", f"{shorten(id_)!r} is not 1 to 32 letters and digits"))
        id_ = None
    return StsRecord(id_, tags, tuple(problems))


def parse_policy(body: bytes) -> StsPolicy:
    """Read the policy file; never raises for any input.

    Problem codes: too-large, not-utf8, syntax, duplicate-field, version, invalid-mode, invalid-max-age, invalid-mx,
    missing-mx. A field other than mx that is repeated counts once (section 3.2).
    """
    problems: list[TagProblem] = []

    def problem(code: str, field: str, detail: str) -> None:
        problems.append(TagProblem(code, field, detail))

    if len(body) > MAX_POLICY:
        problem("too-large", "", f"the policy has {len(body)} octets, more than {MAX_POLICY}")
        body = body[:MAX_POLICY]
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        problem("not-utf8", "", "the policy is not UTF-8")
        text = body.decode("latin-1")
    values: dict[str, str] = {}
    patterns: list[str] = []
    fields: list[Tag] = []
    for line in re.split(r"\r?\n", text):
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        value = value.strip(" \t\r")
        if not colon or not _KEY.fullmatch(key):
            problem("syntax", "", f"{shorten(line)!r} is not 'key: value'")
            continue
        fields.append(Tag(key, value))
        if key == "mx":
            patterns.append(value.lower())
        elif key in values:
            problem("duplicate-field", key, f"{key} is there more than once")
        else:
            values[key] = value
    if values.get("version") != VERSION:
        problem("version", "version", f"version is not {VERSION}")
    mode = values.get("mode")
    if mode not in ("enforce", "testing", "none"):
        problem("invalid-mode", "mode", f"mode is {shorten(mode or '')!r}, not enforce, testing or none")
        mode = None
    max_age = _max_age(values.get("max_age"), problems)
    for pattern in patterns:
        if not is_hostname(pattern.removeprefix("*.")):
            problem("invalid-mx", "mx", f"{shorten(pattern)!r} is not a host name, nor one after '*.'")
    usable = tuple(pattern for pattern in patterns if is_hostname(pattern.removeprefix("*.")))
    if mode in ("enforce", "testing") and not usable:
        problem("missing-mx", "mx", f"mode {mode} needs at least one mx")
    valid = all(found.code == "duplicate-field" for found in problems)
    return StsPolicy(cast("Mode | None", mode), max_age, usable, valid, tuple(fields), tuple(problems))


def _max_age(value: str | None, problems: list[TagProblem]) -> int | None:
    if value is not None and re.fullmatch("[0-9]{1,10}", value) and int(value) <= MAX_AGE:
        return int(value)
    problems.append(TagProblem("invalid-max-age", "max_age", f"max_age is not a number from 0 to {MAX_AGE}"))
    return None


def mx_allowed(host: str, patterns: Sequence[str]) -> bool:
    """Whether an MX host matches a pattern; "*." stands for exactly one label (section 4.1)."""
    name = host.removesuffix(".").lower()
    first, _, parent = name.partition(".")
    return any(
        bool(first) and parent == pattern[2:] if pattern.startswith("*.") else name == pattern for pattern in patterns
    )

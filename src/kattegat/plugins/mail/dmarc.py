"""DMARC policy records (RFC 7489 sections 6.3, 6.4 and 6.6.3; np= from RFC 9091)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import msgspec

from kattegat.plugins.mail.tags import (
    Tag,
    TagProblem,
    decode,
    mailto_domain,
    parse_tags,
    select_by_version,
    shorten,
    split_uri,
)

VERSION = "DMARC1"
DmarcPolicy: TypeAlias = Literal["none", "quarantine", "reject"]
Alignment: TypeAlias = Literal["r", "s"]

_POLICIES = ("none", "quarantine", "reject")
_SIZE = re.compile(r"(.*)!([0-9]{1,19})([kmgt]?)", re.IGNORECASE | re.ASCII | re.DOTALL)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_KNOWN = frozenset({"v", "p", "sp", "np", "pct", "adkim", "aspf", "fo", "rf", "ri", "rua", "ruf"})
# Of later versions and extensions: no error, and no meaning here.
_EXTENSIONS = frozenset({"psd", "t"})


class ReportUri(msgspec.Struct, frozen=True):
    """Where reports go: the URI without its size limit, its scheme, the address' domain (mailto only), octets."""

    uri: str
    scheme: str
    domain: str | None = None
    max_bytes: int | None = None


class Dmarc(msgspec.Struct, frozen=True):
    """A DMARC record as a receiver applies it.

    `policy` is None when a receiver must ignore the record (section 6.6.3): no usable p= or sp= and no rua= to make up
    for it. `subdomain_policy` and `nonexistent_policy` have the value that applies when the tag is not there. `percent`
    is 0 to 100, `report_interval` in seconds. A tag with a wrong value has its default, and a problem says so.
    """

    policy: DmarcPolicy | None
    subdomain_policy: DmarcPolicy | None
    nonexistent_policy: DmarcPolicy | None
    percent: int = 100
    adkim: Alignment = "r"
    aspf: Alignment = "r"
    failure_options: tuple[str, ...] = ("0",)
    report_formats: tuple[str, ...] = ("afrf",)
    report_interval: int = 86400
    rua: tuple[ReportUri, ...] = ()
    ruf: tuple[ReportUri, ...] = ()
    tags: tuple[Tag, ...] = ()
    problems: tuple[TagProblem, ...] = ()


def select_records(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """The DMARC records among the TXT records of `_dmarc.` and the domain; anything but one means no policy."""
    return select_by_version(texts, VERSION)


def external_report_name(domain: str, destination: str) -> str:
    """The name whose TXT record `v=DMARC1` permits reports on `domain` to go to `destination` (section 7.1)."""
    return f"{domain}._report._dmarc.{destination}"


def parse(record: bytes | str) -> Dmarc:
    """Read a DMARC record; never raises for any input, what is wrong is in `problems`.

    Problem codes: version, syntax, duplicate-tag, unknown-tag, missing-policy, policy-position, invalid-value,
    invalid-uri.
    """
    problems: list[TagProblem] = []
    tags = parse_tags(decode(record), problems)
    values = {tag.name.lower(): tag.value for tag in tags}
    if not tags or tags[0] != Tag("v", VERSION):
        problems.append(TagProblem("version", "v", f"the record does not start with v={VERSION}"))
    if "p" in values and (len(tags) < 2 or tags[1].name.lower() != "p"):
        problems.append(TagProblem("policy-position", "p", "p= must come right after the version"))
    problems += [
        TagProblem("unknown-tag", tag.name, f"{tag.name}= is not known and ignored")
        for tag in tags
        if tag.name.lower() not in _KNOWN | _EXTENSIONS
    ]
    rua = _uris("rua", values.get("rua"), problems)
    policies = {name: _policy(name, values[name], problems) for name in ("p", "sp", "np") if name in values}
    policy = policies.get("p")
    if "p" not in values:
        problems.append(TagProblem("missing-policy", "p", "there is no p="))
    unusable = policy is None or any(policies[name] is None for name in policies)
    if unusable:
        # Section 6.6.3: without a valid p= or sp=, a record with a usable rua= is as p=none, any other is ignored.
        policy = "none" if rua else None
        policies = {}
    subdomain = policies.get("sp") or policy
    return Dmarc(
        policy,
        subdomain,
        policies.get("np") or subdomain,
        _number("pct", values.get("pct"), 100, 100, problems),
        cast("Alignment", _choice("adkim", values.get("adkim"), ("r", "s"), "r", problems)),
        cast("Alignment", _choice("aspf", values.get("aspf"), ("r", "s"), "r", problems)),
        _options("fo", values.get("fo"), ("0", "1", "d", "s"), "0", problems),
        _options("rf", values.get("rf"), ("afrf",), "afrf", problems),
        _number("ri", values.get("ri"), 86400, 2**32 - 1, problems),
        rua,
        _uris("ruf", values.get("ruf"), problems),
        tags,
        tuple(problems),
    )


def _policy(name: str, value: str, problems: list[TagProblem]) -> DmarcPolicy | None:
    if value.lower() in _POLICIES:
        return cast("DmarcPolicy", value.lower())
    problems.append(TagProblem("invalid-value", name, f"{shorten(value)!r} is not none, quarantine or reject"))
    return None


def _choice(name: str, value: str | None, allowed: tuple[str, ...], default: str, problems: list[TagProblem]) -> str:
    if value is None or value.lower() in allowed:
        return default if value is None else value.lower()
    problems.append(TagProblem("invalid-value", name, f"{shorten(value)!r} is not {' or '.join(allowed)}"))
    return default


def _options(
    name: str, value: str | None, allowed: tuple[str, ...], default: str, problems: list[TagProblem]
) -> tuple[str, ...]:
    if value is None:
        return (default,)
    options = [_choice(name, option.strip(), allowed, "", problems) for option in value.split(":")]
    return tuple(option for option in options if option) or (default,)


def _number(name: str, value: str | None, default: int, largest: int, problems: list[TagProblem]) -> int:
    if value is None:
        return default
    if re.fullmatch("[0-9]{1,10}", value) and int(value) <= largest:
        return int(value)
    problems.append(TagProblem("invalid-value", name, f"{shorten(value)!r} is not a number from 0 to {largest}"))
    return default


def _uris(name: str, value: str | None, problems: list[TagProblem]) -> tuple[ReportUri, ...]:
    if value is None:
        return ()
    uris: list[ReportUri] = []
    for text in (piece.strip() for piece in value.split(",")):
        sized = _SIZE.fullmatch(text)
        uri = sized[1] if sized else text
        limit = int(sized[2]) << _UNITS[sized[3].lower()] if sized else None
        parts = split_uri(uri)
        domain = mailto_domain(parts[1]) if parts and parts[0] == "mailto" else None
        if parts is None or (parts[0] == "mailto" and domain is None):
            problems.append(TagProblem("invalid-uri", name, f"{shorten(text)!r} is not the URI of one address"))
            continue
        if parts[0] != "mailto":
            problems.append(TagProblem("invalid-uri", name, f"no receiver has to report to {shorten(text)!r}"))
        uris.append(ReportUri(uri, parts[0], domain, limit))
    return tuple(uris)

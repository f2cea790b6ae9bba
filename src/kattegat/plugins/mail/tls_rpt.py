"""SMTP TLS Reporting records (RFC 8460 section 3)."""

from __future__ import annotations

from collections.abc import Sequence

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

VERSION = "TLSRPTv1"


class TlsRpt(msgspec.Struct, frozen=True):
    """The TXT record at `_smtp._tls.` and the domain; `rua`: the URIs (mailto or https) that reports can go to."""

    rua: tuple[str, ...]
    tags: tuple[Tag, ...] = ()
    problems: tuple[TagProblem, ...] = ()


def select_records(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """The TLS-RPT records among TXT records; anything but one means that no reports are wanted."""
    return select_by_version(texts, VERSION, strict=True)


def parse(record: bytes | str) -> TlsRpt:
    """Read a record; never raises. Problem codes: version, syntax, duplicate-tag, missing-rua, invalid-uri."""
    problems: list[TagProblem] = []
    tags = parse_tags(decode(record), problems)
    if not tags or tags[0] != Tag("v", VERSION):
        problems.append(TagProblem("version", "v", f"the record does not start with v={VERSION}"))
    value = next((tag.value for tag in tags if tag.name == "rua"), None)
    if value is None:
        problems.append(TagProblem("missing-rua", "rua", "there is no rua="))
        return TlsRpt((), tags, tuple(problems))
    uris: list[str] = []
    for uri in (piece.strip() for piece in value.split(",")):
        parts = split_uri(uri)
        mail = parts is not None and parts[0] == "mailto" and mailto_domain(parts[1]) is not None
        web = parts is not None and parts[0] == "https" and parts[1].startswith("//") and len(parts[1]) > 2
        if mail or web:
            uris.append(uri)
        else:
            problems.append(TagProblem("invalid-uri", "rua", f"{shorten(uri)!r} is no mailto or https URI"))
    return TlsRpt(tuple(uris), tags, tuple(problems))

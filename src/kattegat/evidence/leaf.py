"""The leaf of a record: SHA-256 over its canonical metadata and the hash of its content.

Domain separation as in RFC 6962 section 2.1: 0x00 before a leaf, 0x01 before an inner node (`merkle`), and 0x02 before
a link of the chain of roots (`seal`). The canonical form is a JSON list with a fixed order, so that no two different
records have the same bytes; times are seconds since the epoch with six decimals, and numbers are exact decimals, so
that what PostgreSQL gives back is the same as what was stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

FORM = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Metadata(msgspec.Struct, frozen=True):
    """All that a leaf covers beside the content. Times as `instant` gives them, `detail` as `canonical` does."""

    organisation_id: int
    leaf_number: int
    recorded_at: str
    scanner: str
    plugin_version: int
    asset_type: str
    asset_key: str
    vantage: str
    runner: str
    started_at: str
    ended_at: str
    detail: str
    size: int
    content_hash: bytes


def instant(at: datetime) -> str:
    """A time as seconds since 1970 in UTC with six decimals: `extract(epoch FROM at)::text` in PostgreSQL.

    Raises ValueError for a time without a zone.
    """
    if at.tzinfo is None:
        raise ValueError("has no time zone")
    return f"{Decimal((at - _EPOCH) // timedelta(microseconds=1)).scaleb(-6):.6f}"


def canonical(value: Any) -> str:
    """One text for equal JSON values: keys sorted, numbers exact and without trailing zeros.

    Raises ValueError for what JSON can't hold (NaN, other types).
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("has a key that is no text")
        return "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    raise ValueError(f"has a value of type {type(value).__name__}, which JSON does not have")


def _number(value: float | Decimal) -> str:
    try:
        # repr of a float is the shortest decimal that reads back as the same float, and so is what JSON carries.
        sign, digits, exponent = Decimal(repr(value) if isinstance(value, float) else value).as_tuple()
    except InvalidOperation:
        raise ValueError("has a number that can't be read") from None
    if not isinstance(exponent, int):
        raise ValueError("has a number that is not finite")
    text = "".join(map(str, digits))
    bare = text.rstrip("0")
    if not bare.lstrip("0"):
        return "0"
    return f"{'-' if sign else ''}{bare.lstrip('0')}e{exponent + len(text) - len(bare)}"


def read_canonical(text: str) -> str:
    """The canonical form of a JSON text, with numbers read exactly."""
    return canonical(json.loads(text, parse_float=Decimal, parse_int=Decimal))


def clean(value: Any) -> Any:
    """A JSON value whose texts PostgreSQL can keep: NUL and lone surrogates become U+FFFD."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def associated(meta: Metadata) -> bytes:
    """What the encryption binds the content to. Not the number and time: they are given after the pack is written."""
    return _encode("kattegat evidence content", meta, ())


def digest(meta: Metadata) -> bytes:
    """The leaf (32 bytes)."""
    encoded = _encode("kattegat evidence leaf", meta, (meta.leaf_number, meta.recorded_at))
    return hashlib.sha256(b"\x00" + encoded).digest()


def _encode(domain: str, meta: Metadata, more: tuple[int | str, ...]) -> bytes:
    fields = (
        domain,
        FORM,
        meta.organisation_id,
        *more,
        meta.scanner,
        meta.plugin_version,
        meta.asset_type,
        meta.asset_key,
        meta.vantage,
        meta.runner,
        meta.started_at,
        meta.ended_at,
        meta.detail,
        meta.size,
        meta.content_hash.hex(),
    )
    return json.dumps(fields, separators=(",", ":")).encode()

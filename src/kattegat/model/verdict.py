"""Verdicts of checks: pass, fail with items, or unknown with the reason."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Severity = Literal["critical", "high", "medium", "low", "recommendation"]
SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low", "recommendation")


class Item(msgspec.Struct, frozen=True):
    """One thing that is wrong: the cipher, the header, the port.

    `key` is its identity inside (asset, check) and stays the same from run to run; `text` is a sentence with
    `{placeholders}` for `params`, so that it can be translated.
    """

    key: str
    text: str
    params: dict[str, str | int] = {}

    def __str__(self) -> str:
        return self.text.format(**self.params)


class Pass(msgspec.Struct, frozen=True, tag="pass"):
    """Nothing is wrong as far as the facts go. `until`: when time alone may change that."""

    until: datetime | None = None


class Fail(msgspec.Struct, frozen=True, tag="fail"):
    """At least one item is wrong."""

    items: tuple[Item, ...]
    until: datetime | None = None


class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
    """The facts do not say; `reason` is a phrase such as "the server reset the connection during TLS 1.0"."""

    reason: str
    until: datetime | None = None


Verdict = Pass | Fail | Unknown


def verdict(items: list[Item], *, until: datetime | None = None, unknown: str | None = None) -> Verdict:
    """Fail when there are items; else unknown when something was not measured; else pass."""
    if items:
        return Fail(tuple(items), until)
    return Unknown(unknown, until) if unknown else Pass(until)


def rank(severity: str) -> int:
    """0 for critical, and up for what is less severe."""
    return SEVERITIES.index(severity)

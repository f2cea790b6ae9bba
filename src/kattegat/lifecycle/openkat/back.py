"""What has become of one thing that was kept."""

from __future__ import annotations

from msgspec import Struct

from kattegat.lifecycle.openkat.facts import Part


class Back(Struct, frozen=True):
    """One thing that was kept: how many of its rows are back, and how many are left parked or set aside."""

    part: Part
    what: str
    back: int
    left: int
    words: str

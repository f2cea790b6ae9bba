"""The SQL functions, kept in schema `parked`, that set rows aside and bring them back."""

from __future__ import annotations

FUNCTIONS: tuple[str, ...] = ()

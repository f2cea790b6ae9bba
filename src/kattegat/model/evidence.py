"""Evidence: the raw bytes of one scan, in parts, with what is needed to read them again years later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

FORM = 1


class Part(msgspec.Struct, frozen=True):
    """Bytes as they were received (or a program's output), with a name and JSON-able remarks about how they came."""

    name: str
    content: bytes
    notes: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Evidence(msgspec.Struct, frozen=True):
    """What one fetch brought. `parts` keep their order; names may repeat."""

    parts: tuple[Part, ...] = ()

    def first(self, name: str) -> Part | None:
        """The first part of this name."""
        return next((part for part in self.parts if part.name == name), None)

    def named(self, name: str) -> list[Part]:
        """Every part of this name, in order."""
        return [part for part in self.parts if part.name == name]

    def pack(self) -> bytes:
        """One byte string (MessagePack, with the number of its form) that `unpack` reads."""
        return msgspec.msgpack.encode((FORM, self.parts))

    @staticmethod
    def unpack(content: bytes) -> Evidence:
        """The inverse of `pack`; raises `msgspec.DecodeError` or `msgspec.ValidationError` for other bytes."""
        form, parts = msgspec.msgpack.decode(content, type=tuple[int, tuple[Part, ...]])
        if form != FORM:
            raise msgspec.ValidationError(f"evidence of form {form} is not known to this release")
        return Evidence(parts)

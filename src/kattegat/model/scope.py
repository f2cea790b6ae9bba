"""The scope of a run: of which kinds and items it speaks. A run replaces what its source said inside its scope only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class Scope(msgspec.Struct, frozen=True):
    """`kinds[kind]` is None for every item of the kind, or the items asked; `except_` are (kind, item) left out.

    In the database a scope is `{"kinds": {kind: null | [item]}, "except": [[kind, item | null]]}`.
    """

    kinds: Mapping[str, frozenset[str] | None]
    except_: frozenset[tuple[str, str | None]] = frozenset()

    def covers(self, kind: str, item: str) -> bool:
        """Whether the run speaks of this item of this kind."""
        if kind not in self.kinds or (kind, None) in self.except_ or (kind, item) in self.except_:
            return False
        items = self.kinds[kind]
        return items is None or item in items

    def without(self, parts: Iterable[tuple[str, str | None]]) -> Scope:
        """The scope less the parts that could not be measured."""
        return Scope(self.kinds, self.except_ | frozenset(parts))

    @classmethod
    def of(cls, *kinds: str) -> Scope:
        """The scope that speaks of every item of these kinds."""
        return cls(dict.fromkeys(kinds))

"""Facts: typed, immutable records about an asset; what a parser finds and what it could not measure."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from kattegat.model.assets import Asset


class FactMeta(msgspec.StructMeta):
    """Lets a fact say what it is about in its class line: `class SecurityTxt(Fact, about=Website): ...`."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        about: type[Asset] | None = None,
        kind: str | None = None,
        form: int = 1,
        **options: Any,
    ) -> FactMeta:
        cls = super().__new__(mcs, name, bases, namespace, frozen=True, kw_only=True, **options)
        if about is not None:
            for attribute, value in (("about", about), ("kind", kind or name), ("form", form)):
                setattr(cls, attribute, value)
        return cls


class Fact(msgspec.Struct, metaclass=FactMeta):
    """A record about one asset from one source.

    Subclasses are declared with `about=` (the asset type), and optionally `kind=` (its name in the database, the class
    name by default) and `form=` (the number of its JSON form, raised when the shape of the value changes).
    """

    about: ClassVar[type[Asset]]
    kind: ClassVar[str]
    form: ClassVar[int]


class Link(msgspec.Struct, frozen=True):
    """A typed edge between two assets, claimed by a fact. `model.links.TYPES` says what clearance flows over it."""

    type: str
    origin: Asset
    target: Asset


class Found(msgspec.Struct, frozen=True):
    """One fact that a parser found: about which asset, which item of its kind, and which links it claims.

    `item` tells facts of one kind about one asset from one source apart (a record type, a port); "" when there is one.
    """

    asset: Asset
    fact: Fact
    item: str = ""
    links: tuple[Link, ...] = ()


class NotMeasured(msgspec.Struct, frozen=True):
    """A part of what the scanner was to measure that this evidence says nothing about: no answer, unreadable, cut off.

    What an earlier run said of that part stands; checks that need it say unknown with this reason. `item` None means
    every item of the kind; `about` None means every asset.
    """

    kind: str
    reason: str
    item: str | None = None
    about: Asset | None = None

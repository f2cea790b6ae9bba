"""What a report claims, in the form that is compared and stored: one claim per (asset, kind, item).

PostgreSQL's jsonb and text hold neither NUL characters nor lone surrogates. In every text of a fact, an item, a reason
and a key each of them is shown as U+FFFD (the replacement character); the evidence keeps the bytes as they came.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from kattegat.errors import KeyFormatError
from kattegat.model import assets
from kattegat.model.assets import Asset
from kattegat.model.facts import Found, Link, NotMeasured
from kattegat.model.scope import Scope

# A row of a B-tree index holds at most 2704 bytes; the rest of it is for the other columns.
LONGEST_KEY = 2000
LONGEST_ITEM = 600

IMPLICIT = "found_from"

Identity = tuple[str, str]
"""(type, key) of an asset."""
Place = tuple[Identity, str, str]
"""(asset, kind, item): where a claim stands among those of its source."""
Edge = tuple[str, Identity, Identity]
"""(type, origin, target) of a link."""
Unmeasured = tuple[str, str | None, str, Identity | None]
"""(kind, item or None for all, reason, asset or None for all)."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_encode = msgspec.json.Encoder(order="sorted").encode


class Report(msgspec.Struct, frozen=True):
    """What one run of one source says.

    `asset` is the subject. `scope` is what the run speaks of: inside it, less `unmeasured`, what the source said before
    and does not say now has ended. Times are aware. `reason` says why a run failed or was blocked.
    """

    organisation_id: int
    scanner: str
    asset: Asset
    started_at: datetime
    ended_at: datetime
    scope: Scope
    kind: Literal["scanner", "person", "import"] = "scanner"
    vantage: str = "internet"
    plugin_version: int = 1
    outcome: Literal["ok", "failed", "blocked"] = "ok"
    reason: str = ""
    found: Sequence[Found] = ()
    unmeasured: Sequence[NotMeasured] = ()
    task_id: int | None = None
    evidence_id: int | None = None


class Claim(msgspec.Struct, frozen=True):
    """One fact as it is stored: its JSON value, its links, and the SHA-256 over form, value and links."""

    form: int
    value: msgspec.Raw
    links: tuple[Edge, ...]
    digest: bytes


class Prepared(msgspec.Struct):
    """A report's claims by place, every asset that they name, and what could not be taken in."""

    subject: Identity
    scope: Scope
    claims: dict[Place, Claim]
    assets: set[Identity]
    unmeasured: list[Unmeasured]
    problems: list[str]


def storable(text: str) -> str:
    """The text with U+FFFD for NUL characters and lone surrogates."""
    return _UNSTORABLE.sub("\ufffd", text)


def identity(asset: Asset) -> Identity:
    """The (type, key) that an asset is stored under. Raises `KeyFormatError` if the key is too long."""
    key = storable(asset.key)
    if len(key) > LONGEST_KEY // 4 and len(key.encode()) > LONGEST_KEY:
        raise KeyFormatError(assets.type_of(asset), key, f"it is longer than {LONGEST_KEY} bytes")
    return storable(assets.type_of(asset)), key


def item_of(text: str) -> str:
    """The item as stored: one longer than 600 bytes is cut and ends in the SHA-256 of the whole."""
    item = storable(text)
    if len(item) <= LONGEST_ITEM // 4 or len(item.encode()) <= LONGEST_ITEM:
        return item
    return f"{item[: LONGEST_ITEM // 4 - 20]}… sha256:{hashlib.sha256(item.encode()).hexdigest()}"


def prepare(report: Report) -> Prepared:
    """Takes a report apart. What can't be stored is left out, named in `problems` and counted as not measured.

    Raises `KeyFormatError` when the subject itself has a key that can't be stored.
    """
    subject = identity(report.asset)
    prepared = Prepared(subject, _scope(report.scope), {}, {subject}, [], [])
    if report.outcome != "ok":
        return prepared
    for gap in report.unmeasured:
        _gap(prepared, gap)
    names: dict[Asset, Identity] = {report.asset: subject}
    taken: list[tuple[Place, Found, list[Edge]]] = []
    for found in report.found:
        try:
            about = names.get(found.asset) or names.setdefault(found.asset, identity(found.asset))
            edges = [_edge(link, names) for link in found.links]
        except KeyFormatError as problem:
            _refuse(prepared, found, str(problem))
            continue
        taken.append(((about, storable(found.fact.kind), item_of(found.item)), found, edges))
    _reach(subject, taken)
    for place, found, edges in taken:
        try:
            claim = _claim(found, edges)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as problem:
            _refuse(prepared, found, f"its value can't be stored ({problem})")
            continue
        if place in prepared.claims:
            prepared.problems.append(
                f"{place[1]} {place[2]!r} of {place[0][0]} {place[0][1]} was said twice; the last stands."
            )
        prepared.claims[place] = claim
    for place, claim in prepared.claims.items():
        prepared.assets.add(place[0])
        for _, origin, target in claim.links:
            prepared.assets.add(origin)
            prepared.assets.add(target)
    return prepared


def _scope(scope: Scope) -> Scope:
    """With kinds and items as they are stored."""
    return Scope(
        {
            storable(kind): None if items is None else frozenset(item_of(item) for item in items)
            for kind, items in scope.kinds.items()
        },
        frozenset((storable(kind), None if item is None else item_of(item)) for kind, item in scope.except_),
    )


def _gap(prepared: Prepared, gap: NotMeasured) -> None:
    try:
        about = identity(gap.about) if gap.about is not None else None
    except KeyFormatError:
        about = None
    item = item_of(gap.item) if gap.item is not None else None
    prepared.unmeasured.append((storable(gap.kind), item, storable(gap.reason), about))


def _refuse(prepared: Prepared, found: Found, reason: str) -> None:
    kind, item = storable(found.fact.kind), item_of(found.item)
    prepared.problems.append(f"{kind} {item!r} was left out: {reason}.")
    # As for any part that couldn't be read: what stood before stands, and checks that need it say so.
    prepared.unmeasured.append((kind, item, f"left out: {reason}", None))


def _edge(link: Link, names: dict[Asset, Identity]) -> Edge:
    origin = names.get(link.origin) or names.setdefault(link.origin, identity(link.origin))
    target = names.get(link.target) or names.setdefault(link.target, identity(link.target))
    return storable(link.type), origin, target


def _reach(subject: Identity, taken: Sequence[tuple[Place, Found, list[Edge]]]) -> None:
    """Adds `found_from` to the facts about assets to which no links of the report lead from the subject.

    Without it such an asset would be present for no reason that anyone could follow.
    """
    if all(place[0] == subject for place, _, _ in taken):
        return
    targets: dict[Identity, list[Identity]] = {}
    led_to: set[Identity] = set()
    for _, _, edges in taken:
        for _, origin, target in edges:
            targets.setdefault(origin, []).append(target)
            led_to.add(target)
    reached = _closure({subject}, targets, set())
    implicit: set[Identity] = set()
    # Those that nothing leads to come first: the rest may then be reached from them.
    for about in sorted({place[0] for place, _, _ in taken}, key=lambda about: (about in led_to, about)):
        if about not in reached:
            implicit.add(about)
            _closure({about}, targets, reached)
    for (about, _, _), _, edges in taken:
        # Each fact about it claims the link, so that the link stands while any of them does.
        if about in implicit:
            edges.append((IMPLICIT, subject, about))


def _closure(
    start: Iterable[Identity], targets: dict[Identity, list[Identity]], reached: set[Identity]
) -> set[Identity]:
    """Adds to `reached` what can be come to from `start`, and gives it."""
    todo = list(start)
    reached.update(todo)
    while todo:
        for target in targets.get(todo.pop(), ()):
            if target not in reached:
                reached.add(target)
                todo.append(target)
    return reached


def _claim(found: Found, edges: list[Edge]) -> Claim:
    value = _json(found.fact)
    links = tuple(sorted(set(edges))) if len(edges) > 1 else tuple(edges)
    form = found.fact.form
    digest = hashlib.sha256(b"%d\n%b\n%b" % (form, value, _encode(links))).digest()
    return Claim(form, msgspec.Raw(value), links, digest)


def _json(fact: Any) -> bytes:
    """Canonical JSON (sorted names), with every text storable."""
    try:
        value = _encode(fact)
        if b"\\u0000" not in value:
            return value
    except UnicodeEncodeError:
        pass
    return _encode(_storable_value(msgspec.to_builtins(fact)))


def _storable_value(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {
            storable(name) if isinstance(name, str) else name: _storable_value(inner) for name, inner in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_storable_value(inner) for inner in value]
    return value

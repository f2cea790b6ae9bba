"""Where an asset's clearance comes from: the declaration, and the links that it came over."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection

from kattegat.inventory import reading
from kattegat.inventory.reading import LinkRow, Row
from kattegat.model.links import TYPES


class Step(msgspec.Struct, frozen=True):
    """Clearance that flowed from `giver` to `receiver`: `along` the link (or against it), at most `cap` of it."""

    giver: Row
    receiver: Row
    link: LinkRow
    along: bool
    cap: int

    def __str__(self) -> str:
        verb = self.link.type if self.along else f"is {self.link.type} of"
        return f"{self.giver.key} {verb} {self.receiver.key} (lets {self.cap} through)"


class Origin(msgspec.Struct, frozen=True):
    """Why an asset has its clearance.

    `how`: "declared" (for this asset itself), "inherited" (over `steps`, first the declared asset's), "nothing"
    (present, but nothing lets clearance through to it), or "absent" (no declared asset leads to it). `declared` is the
    asset whose declaration it comes from.
    """

    asset: Row
    how: Literal["declared", "inherited", "nothing", "absent"]
    declared: Row | None = None
    steps: tuple[Step, ...] = ()

    @property
    def clearance(self) -> int:
        """The level, 0 to 4."""
        return self.asset.clearance

    def __str__(self) -> str:
        match self.how:
            case "declared":
                return f"{self.asset.declared_by} declared clearance {self.clearance} for {self.asset.key}."
            case "absent":
                return f"No declared asset leads to {self.asset.key}, so its clearance is 0."
            case "nothing":
                return f"Nothing lets clearance through to {self.asset.key}, so it is 0."
        way = ", ".join(str(step) for step in self.steps)
        level, by = (self.declared.declared_clearance, self.declared.declared_by) if self.declared else (None, None)
        return f"{self.asset.key} has clearance {self.clearance} from {by}'s declaration of {level}: {way}."


def why_clearance(
    connection: Connection, organisation_id: int, asset_id: int, at: datetime | None = None
) -> Origin | None:
    """The shortest way by which the asset has its clearance; None if it was not known (at that time).

    Two statements for every step of the way.
    """
    asset = reading.by_id(connection, organisation_id, [asset_id], at).get(asset_id)
    if asset is None:
        return None
    if asset.declared_clearance is not None:
        return Origin(asset, "declared", asset)
    if not asset.present:
        return Origin(asset, "absent")
    if asset.clearance == 0:
        return Origin(asset, "nothing")
    # Whoever is on the way has at least as much, and every link on it lets as much through.
    known = {asset_id: asset}
    towards: dict[int, tuple[LinkRow, bool]] = {}
    frontier = {asset_id}
    while frontier:
        offers: dict[int, tuple[LinkRow, bool]] = {}
        for link in reading.links(connection, organisation_id, frontier, at=at):
            for giver, receiver, along in (
                (link.origin_id, link.target_id, True),
                (link.target_id, link.origin_id, False),
            ):
                if receiver in frontier and giver not in known and _cap(link, along) >= asset.clearance:
                    offers.setdefault(giver, (link, along))
        rows = reading.by_id(connection, organisation_id, offers, at)
        frontier = set()
        for giver, row in sorted(rows.items()):
            if row.present and row.clearance >= asset.clearance:
                known[giver] = row
                towards[giver] = offers[giver]
                if row.declared_clearance is not None:
                    return Origin(asset, "inherited", row, _way(known, towards, giver, asset_id))
                frontier.add(giver)
    # Only between two statements of another transaction, or with caps that changed and were not derived again.
    return Origin(asset, "nothing")


def _cap(link: LinkRow, along: bool) -> int:
    kind = TYPES.get(link.type)
    if kind is None:
        return 0
    return kind.along if along else kind.against


def _way(known: dict[int, Row], towards: dict[int, tuple[LinkRow, bool]], giver: int, end: int) -> tuple[Step, ...]:
    steps = []
    while giver != end:
        link, along = towards[giver]
        receiver = link.target_id if along else link.origin_id
        steps.append(Step(known[giver], known[receiver], link, along, _cap(link, along)))
        giver = receiver
    return tuple(steps)

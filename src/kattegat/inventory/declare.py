"""What people declare: these assets are ours, and this much may be done to them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from kattegat.errors import UsageError
from kattegat.inventory import claim, planning, presence, register
from kattegat.inventory.presence import Change
from kattegat.model.assets import Asset

HIGHEST = 4

_DECLARE = """
    UPDATE asset a SET declared = true, declared_clearance = n.level, declared_by = :by, declared_at = :at
    FROM unnest(CAST(:assets AS bigint[]), CAST(:levels AS smallint[])) AS n(id, level)
    WHERE a.organisation_id = :organisation AND a.id = n.id
      AND (NOT a.declared OR a.declared_clearance IS DISTINCT FROM n.level)
    RETURNING a.id
"""
_WITHDRAW = """
    UPDATE asset a SET declared = false, declared_clearance = NULL, declared_by = :by, declared_at = :at
    FROM unnest(CAST(:assets AS bigint[])) AS n(id)
    WHERE a.organisation_id = :organisation AND a.id = n.id AND a.declared
    RETURNING a.id
"""


def declare(
    connection: Connection, organisation_id: int, assets: Sequence[tuple[Asset, int | None]], by: str
) -> list[int]:
    """Declares assets with their clearance, 0 to 4, or None to let it be inherited; gives their ids in the same order.

    What is declared as it already was is left alone. An asset that stands twice in the list gets the last level.
    Raises `UsageError` for a level out of range and `KeyFormatError` for a key that can't be stored.
    """
    for asset, level in assets:
        if level is not None and not 0 <= level <= HIGHEST:
            raise UsageError(f"Clearance {level} for {asset} is none: give 0 to {HIGHEST}.")
    names = [(organisation_id, claim.identity(asset)) for asset, _ in assets]
    ids, _ = register.assets(connection, dict.fromkeys(names))
    levels = {ids[name]: level for name, (_, level) in zip(names, assets, strict=True)}
    _change(connection, organisation_id, _DECLARE, {"assets": list(levels), "levels": list(levels.values())}, by)
    return [ids[name] for name in names]


def withdraw(connection: Connection, organisation_id: int, assets: Sequence[Asset], by: str) -> list[int]:
    """Takes declarations back; gives the ids of the assets that were declared until now.

    Such an asset stays present as long as links lead to it from another declared one. `by` and the time stand in the
    asset's history.
    """
    names = {(organisation_id, claim.identity(asset)) for asset in assets}
    ids = register.find(connection, names)
    return _change(connection, organisation_id, _WITHDRAW, {"assets": sorted(ids.values())}, by)


def _change(
    connection: Connection, organisation_id: int, sql: str, parameters: dict[str, list[int] | list[int | None]], by: str
) -> list[int]:
    presence.lock(connection, [organisation_id])
    at = presence.now(connection)
    given = {"organisation": organisation_id, "by": claim.storable(by), "at": at}
    changed = sorted(connection.execute(text(sql), parameters | given).scalars())
    if changed:
        with planning.by_index(connection):
            planning.in_order(connection)
            declared = {(organisation_id, id_) for id_ in changed}
            derived = presence.derive(connection, Change(declared=declared), at)
            presence.judge_again(connection, derived | declared, at)
    return changed

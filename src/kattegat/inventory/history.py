"""What happened to an asset, newest first: declarations, presence, clearance, facts that came and went."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, text

PAGE = 200

# WITH TIES: a page never ends between two moments of one time, so that the next starts right behind it.
_HISTORY = """
    SELECT * FROM (
        SELECT e.at, 'asset' AS what, e.id, e.present, e.clearance, e.declared, e.declared_clearance, e.declared_by,
               NULL AS kind, NULL AS item, NULL AS scanner, NULL AS vantage
        FROM asset_event e
        WHERE e.organisation_id = :organisation AND e.asset_id = :asset
        UNION ALL
        SELECT f.recorded_at, 'fact', f.id, NULL, NULL, NULL, NULL, NULL, f.kind, f.item, s.scanner, s.vantage
        FROM fact f JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
        WHERE f.organisation_id = :organisation AND f.asset_id = :asset
        UNION ALL
        SELECT f.ended_at, 'fact ended', f.id, NULL, NULL, NULL, NULL, NULL, f.kind, f.item, s.scanner, s.vantage
        FROM fact f JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
        WHERE f.organisation_id = :organisation AND f.asset_id = :asset AND f.ended_at IS NOT NULL
    ) moments
    WHERE CAST(:before AS timestamptz) IS NULL OR at < CAST(:before AS timestamptz)
    ORDER BY at DESC FETCH FIRST (:most) ROWS WITH TIES
"""


class Moment(msgspec.Struct, frozen=True):
    """One change. `what` says which fields are set: "asset" (the state from then on), "fact" or "fact ended".

    `id` is that of the asset event or the fact.
    """

    at: datetime
    what: Literal["asset", "fact", "fact ended"]
    id: int
    present: bool | None = None
    clearance: int | None = None
    declared: bool | None = None
    declared_clearance: int | None = None
    declared_by: str | None = None
    kind: str | None = None
    item: str | None = None
    scanner: str | None = None
    vantage: str | None = None


def history(
    connection: Connection, organisation_id: int, asset_id: int, *, before: datetime | None = None, most: int = PAGE
) -> list[Moment]:
    """The last `most` moments before a time (None = now), and any of the same time as the last of them.

    The next page is asked with the last moment's time as `before`; an empty list is the end.
    """
    parameters = {"organisation": organisation_id, "asset": asset_id, "before": before, "most": most}
    moments = [Moment(*row) for row in connection.execute(text(_HISTORY), parameters)]
    order = {"fact ended": 0, "fact": 1, "asset": 2}
    return sorted(moments, key=lambda moment: (moment.at, order[moment.what], moment.id), reverse=True)

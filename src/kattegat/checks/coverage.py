"""Coverage: for every check that applies to an asset, whether it passes, fails or is unknown, and why.

Verdicts stored are fail and unknown; what is applicable and neither is pass; what rests on a source not in order
is unknown with that source's reason, whatever was stored before. What is due to be judged again has not passed yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from kattegat.checks import judge, needs
from kattegat.model.assets import Asset
from kattegat.registry import Registry

PAGE = 1000

PRESENT = text(
    """
    SELECT id FROM asset
    WHERE organisation_id = :organisation AND present AND id > :after ORDER BY id LIMIT :most
    """
)
STORED = text(
    """
    SELECT asset_id, "check", outcome, reason FROM verdict
    WHERE organisation_id = :organisation AND asset_id = ANY(CAST(:ids AS bigint[]))
    """
)
DUE = text(
    """
    SELECT id FROM check_due
    WHERE organisation_id = :organisation AND due_at <= :now AND id = ANY(CAST(:ids AS bigint[]))
    """
)
NOT_YET = "it is due to be judged again, which the worker of this install does when it runs"

Outcome = Literal["pass", "fail", "unknown"]


class Covered(NamedTuple):
    """What a check says of an asset now."""

    asset_id: int
    asset: Asset
    check: str
    outcome: Outcome
    reason: str


def read(
    connection: Connection, organisation: int, registry: Registry, now: datetime, ids: Collection[int] | None = None
) -> Iterator[Covered]:
    """What every applicable check says of these assets (of every present asset when `ids` is None), in asset order."""
    for page in _pages(connection, organisation, ids):
        picture = needs.read(connection, organisation, page, registry, now)
        stored = {
            (row.asset_id, row.check): row
            for row in connection.execute(STORED, {"organisation": organisation, "ids": page})
        }
        due = set(connection.execute(DUE, {"organisation": organisation, "ids": page, "now": now}).scalars())
        for number in page:
            row = picture.rows.get(number)
            if row is None or not row.present:
                continue
            for spec in registry.checks.values():
                if not judge.applies(spec, row):
                    continue
                missing = judge.missing(spec, row, picture)
                verdict = stored.get((number, spec.name))
                if missing:
                    yield Covered(number, row.asset, spec.name, "unknown", missing)
                elif verdict is None:
                    # Stored verdicts are of when it was last judged; what is lost since then counts at once.
                    lost = judge.lost(spec, row, picture) or (NOT_YET if number in due else "")
                    yield Covered(number, row.asset, spec.name, "unknown" if lost else "pass", lost)
                else:
                    yield Covered(number, row.asset, spec.name, verdict.outcome, verdict.reason)


def _pages(connection: Connection, organisation: int, ids: Collection[int] | None) -> Iterator[list[int]]:
    if ids is not None:
        ordered = sorted(ids)
        for start in range(0, len(ordered), PAGE):
            yield ordered[start : start + PAGE]
        return
    after = 0
    while True:
        page = list(connection.execute(PRESENT, {"organisation": organisation, "after": after, "most": PAGE}).scalars())
        if not page:
            return
        yield page
        after = page[-1]

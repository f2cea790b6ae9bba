"""The audit trail: one row for each act of a person or of the install, never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

SYSTEM = "system"


class Act(msgspec.Struct, frozen=True):
    """One act: who did what to which object, when. `organisation_id` is None for acts on the install itself."""

    id: int
    at: datetime
    organisation_id: int | None
    actor: str
    act: str
    object: str
    detail: dict[str, Any]


def write(
    conn: Connection,
    actor: str,
    act: str,
    object_: str,
    detail: Mapping[str, Any] | None = None,
    organisation_id: int | None = None,
) -> None:
    """Records an act (`consent.grant`, `setting.set`, ...) in the caller's transaction: it counts if the act does."""
    conn.execute(
        text(
            "INSERT INTO audit (organisation_id, actor, act, object, detail)"
            " VALUES (:organisation, :actor, :act, :object, CAST(:detail AS jsonb))"
        ),
        {
            "organisation": organisation_id,
            "actor": actor,
            "act": act,
            "object": object_,
            "detail": json.dumps(dict(detail or {})),
        },
    )


def page(
    conn: Connection,
    *,
    organisation_id: int | None = None,
    before: tuple[datetime, int] | None = None,
    limit: int = 50,
) -> list[Act]:
    """The newest acts first, at most `limit`; for the next page give `(at, id)` of the last one as `before`.

    Without an organisation: all that the role may see.
    """
    rows = conn.execute(
        text(
            """
            SELECT id, at, organisation_id, actor, act, object, detail FROM audit
            WHERE (CAST(:organisation AS bigint) IS NULL OR organisation_id = :organisation)
              AND (CAST(:at AS timestamptz) IS NULL OR (at, id) < (:at, CAST(:id AS bigint)))
            ORDER BY at DESC, id DESC LIMIT :limit
            """
        ),
        {
            "organisation": organisation_id,
            "at": before[0] if before else None,
            "id": before[1] if before else None,
            "limit": limit,
        },
    )
    return [Act(*row) for row in rows]

"""Scans that a person asked for: what they are of, with which choice of scanners, and how they ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, text

OPEN = text(
    """
    INSERT INTO scan (organisation_id, targets, options, actor, started_at)
    VALUES (:organisation, CAST(:targets AS jsonb), CAST(:options AS jsonb), :actor, clock_timestamp())
    RETURNING id, started_at
    """
)
# A scan whose command died stays open; it must not steer later ones for ever.
CHOICE = text(
    """
    SELECT options FROM scan
    WHERE organisation_id = :organisation AND outcome = 'open' AND started_at > now() - interval '1 day'
    ORDER BY started_at DESC LIMIT 1
    """
)
CLOSE = text(
    """
    UPDATE scan SET ended_at = clock_timestamp(), outcome = :outcome, reason = :reason
    WHERE organisation_id = :organisation AND id = :id RETURNING ended_at
    """
)

Outcome = Literal["complete", "incomplete", "stopped"]


class Opened(NamedTuple):
    """A scan that has begun."""

    id: int
    started_at: datetime


class Choice(NamedTuple):
    """Which scanners a scan asked for (`only` None: all) and which it left out."""

    only: tuple[str, ...] | None
    skip: tuple[str, ...]


def open_(
    connection: Connection, organisation: int, targets: Sequence[str], choice: Choice, actor: str, **options: Any
) -> Opened:
    """Writes down that a scan begins."""
    said = {"only": list(choice.only) if choice.only is not None else None, "skip": list(choice.skip)} | options
    row = connection.execute(
        OPEN,
        {
            "organisation": organisation,
            "targets": json.dumps(list(targets)),
            "options": json.dumps(said),
            "actor": actor,
        },
    ).one()
    return Opened(row.id, row.started_at)


def choice(connection: Connection, organisation: int) -> Choice:
    """The choice of scanners of the organisation's open scan; everything when there is none.

    What an open scan discovers is planned with the same choice as what it began with.
    """
    options = connection.execute(CHOICE, {"organisation": organisation}).scalar()
    if not options:
        return Choice(None, ())
    only = options.get("only")
    return Choice(tuple(only) if only is not None else None, tuple(options.get("skip", ())))


def close(connection: Connection, organisation: int, scan: int, outcome: Outcome, reason: str) -> datetime:
    """Writes down how a scan ended; gives when."""
    ended: datetime = connection.execute(
        CLOSE, {"organisation": organisation, "id": scan, "outcome": outcome, "reason": reason}
    ).scalar_one()
    return ended

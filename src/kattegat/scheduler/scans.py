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
# A scan whose command died stays open; it must not steer what others find.
_ALIVE = "coalesce(CAST(options->>'seen_at' AS timestamptz), started_at) > now() - make_interval(secs => :forsaken)"
CHOICE = text(
    f"""
    SELECT options FROM scan
    WHERE organisation_id = :organisation AND outcome = 'open' AND {_ALIVE}
    ORDER BY started_at DESC LIMIT 1
    """  # noqa: S608 - a constant
)
SEEN = text(
    """
    UPDATE scan SET options = options || jsonb_build_object('seen_at', now())
    WHERE organisation_id = :organisation AND id = :id AND outcome = 'open'
    """
)
FORSAKEN = text(
    f"""
    UPDATE scan SET ended_at = clock_timestamp(), outcome = 'stopped', reason = 'its command died'
    WHERE outcome = 'open' AND NOT {_ALIVE} RETURNING organisation_id
    """  # noqa: S608 - a constant
)
FORSAKEN_SECONDS = 120.0
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
    asked = {"organisation": organisation, "forsaken": FORSAKEN_SECONDS}
    options = connection.execute(CHOICE, asked).scalar()
    if not options:
        return Choice(None, ())
    only = options.get("only")
    return Choice(tuple(only) if only is not None else None, tuple(options.get("skip", ())))


def seen(connection: Connection, organisation: int, scan: int) -> None:
    """Says that the command of an open scan lives; to be called often."""
    connection.execute(SEEN, {"organisation": organisation, "id": scan})


def forsaken(connection: Connection) -> set[int]:
    """Closes the open scans whose command has not been heard from for two minutes; gives their organisations."""
    return set(connection.execute(FORSAKEN, {"forsaken": FORSAKEN_SECONDS}).scalars())


def close(connection: Connection, organisation: int, scan: int, outcome: Outcome, reason: str) -> datetime:
    """Writes down how a scan ended; gives when."""
    ended: datetime = connection.execute(
        CLOSE, {"organisation": organisation, "id": scan, "outcome": outcome, "reason": reason}
    ).scalar_one()
    return ended

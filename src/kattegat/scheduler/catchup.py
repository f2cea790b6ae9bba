"""After an outage: what fell due meanwhile is spread over time to come, instead of run in one burst.

The dispatcher leaves a pulse. When it is found to be old, nobody dispatched between it and now; every re-scan that fell
due in that time gets a new time, by chance within as long as the outage took (a quarter of its interval at most, a day
at most). What a person asked for and what has never run is not moved.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, text

PULSE = "dispatch"
OUTAGE_SECONDS = 900.0
LONGEST_SECONDS = 86400.0
BATCH = 5000

BEAT = text(
    """
    WITH was AS (SELECT at, detail FROM pulse WHERE name = :name FOR UPDATE), beat AS (
      INSERT INTO pulse AS p (name) VALUES (:name)
      ON CONFLICT (name) DO UPDATE SET at = now() WHERE p.at < now() - interval '10 seconds'
    )
    SELECT at, detail, now() AS now, CAST(extract(epoch FROM now() - at) AS double precision) AS silent FROM was
    """
)
REMEMBER = text("UPDATE pulse SET detail = CAST(:detail AS jsonb) WHERE name = :name")
# A due time inside the outage is the mark of what has not been moved yet, so a crash half-way loses nothing.
SPREAD = text(
    """
    WITH late AS (
      SELECT h.organisation_id, h.id FROM schedule h
      WHERE h.hold = '' AND h.priority = 100 AND h.due_at <= :until
      ORDER BY h.due_at LIMIT :batch FOR UPDATE OF h SKIP LOCKED
    )
    UPDATE schedule h SET due_at = CAST(:until AS timestamptz) + interval '1 microsecond' + random() * least(
      h.every / 4, make_interval(secs => least(:seconds, :longest)))
    FROM late WHERE h.organisation_id = late.organisation_id AND h.id = late.id
    """
)


class Outage(NamedTuple):
    """The time in which nobody dispatched."""

    since: datetime
    until: datetime


def tick(conn: Connection, *, batch: int = BATCH) -> int:
    """Leaves the pulse, and after an outage moves the next batch of what fell due in it; gives how many were moved.

    To be called in the transaction that dispatches, before it does.
    """
    row = conn.execute(BEAT, {"name": PULSE}).one_or_none()
    if row is None:
        return 0
    outage = Outage(row.at, row.now) if row.silent > OUTAGE_SECONDS else _remembered(row.detail)
    if outage is None:
        return 0
    # What was late already before the outage counts too: it would be in the same burst.
    seconds = (outage.until - outage.since).total_seconds()
    moved = conn.execute(
        SPREAD, {"until": outage.until, "seconds": seconds, "longest": LONGEST_SECONDS, "batch": batch}
    ).rowcount
    left = {"since": outage.since, "until": outage.until} if moved == batch else {}
    conn.execute(REMEMBER, {"name": PULSE, "detail": msgspec.json.encode(left).decode()})
    return moved


def _remembered(detail: dict[str, str]) -> Outage | None:
    if "since" not in detail or "until" not in detail:
        return None
    return Outage(datetime.fromisoformat(detail["since"]), datetime.fromisoformat(detail["until"]))

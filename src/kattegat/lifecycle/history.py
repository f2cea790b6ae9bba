"""Who changed the release of this database when, from where, how long it took, and how it ended."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, text

from kattegat.schema import ledger

RUNS = text(
    """
    SELECT r.id, r.kind, r.from_release, r.to_release, r.from_revision, r.to_revision, r.state, r.by_whom, r.host,
           r.started_at, r.ended_at, r.backup, CAST(extract(epoch FROM r.ended_at - r.started_at) AS double precision)
           AS seconds, coalesce(r.result ->> 'refused', '') AS reason, count(j.number) AS steps,
           count(j.number) FILTER (WHERE j.state = 'done') AS done, CAST(coalesce(sum(j.rows), 0) AS bigint) AS rows
    FROM lifecycle.run AS r LEFT JOIN lifecycle.journal AS j ON j.run = r.id
    GROUP BY r.id ORDER BY r.id DESC LIMIT :limit
    """
)


class Entry(Struct, frozen=True):
    """A change. `state` is running, done, cancelling, cancelled or refused (with the `reason`); `seconds` is None while
    it has not ended; `rows` were written by its steps."""

    id: int
    kind: str
    from_release: str | None
    to_release: str | None
    from_revision: str | None
    to_revision: str | None
    state: str
    by_whom: str
    host: str
    started_at: datetime
    ended_at: datetime | None
    backup: str | None
    seconds: float | None
    reason: str
    steps: int
    done: int
    rows: int


def entries(connection: Connection, limit: int = 100) -> list[Entry]:
    """The newest changes first; none for a database that keeps no record of them."""
    if not ledger.present(connection):
        return []
    return [Entry(**row._mapping) for row in connection.execute(RUNS, {"limit": limit})]

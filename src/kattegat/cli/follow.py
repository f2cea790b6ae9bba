"""What a scan still has to do: read from the database, whoever does the work."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

PENDING = text(
    """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM asset WHERE organisation_id = :organisation AND id = ANY(CAST(:targets AS bigint[]))
        UNION
        SELECT l.target_id FROM link l JOIN reached r ON l.origin_id = r.id
        WHERE l.organisation_id = :organisation AND l.ended_at IS NULL
    ), sources AS (
        SELECT s.id, s.state, s.last_started_at, h.tries FROM source s
        JOIN reached r ON r.id = s.asset_id
        JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id AND a.present
        JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id AND h.hold = ''
        WHERE s.organisation_id = :organisation AND s.kind = 'scanner'
    )
    SELECT count(*) AS sources,
           count(*) FILTER (WHERE last_started_at >= :since) AS done,
           (SELECT count(*) FROM task t WHERE t.organisation_id = :organisation
              AND t.state IN ('queued', 'leased') AND t.kind = 'ingest') AS ingests,
           (SELECT count(*) FROM task t WHERE t.organisation_id = :organisation
              AND t.state IN ('queued', 'leased') AND t.kind = 'scan') AS scans
    FROM sources
    """
)
RUNNING = text(
    """
    SELECT t.scanner, a.type, a.key, t.started_at FROM task t
    JOIN source s ON s.organisation_id = t.organisation_id AND s.id = t.source_id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE t.organisation_id = :organisation AND t.kind = 'scan' AND t.state = 'leased'
    ORDER BY t.started_at LIMIT 5
    """
)
# What a scan asks for again: the sources of what its targets lead to, and nothing else of the organisation.
SOURCES = text(
    """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM asset WHERE organisation_id = :organisation AND id = ANY(CAST(:targets AS bigint[]))
        UNION
        SELECT l.target_id FROM link l JOIN reached r ON l.origin_id = r.id
        WHERE l.organisation_id = :organisation AND l.ended_at IS NULL
    )
    SELECT s.id FROM source s JOIN reached r ON r.id = s.asset_id
    WHERE s.organisation_id = :organisation AND s.kind = 'scanner' ORDER BY s.id
    """
)
UNMEASURED = text(
    """
    SELECT a.key, string_agg(DISTINCT s.reason, '; ') AS reason FROM asset a
    JOIN source s ON s.organisation_id = a.organisation_id AND s.asset_id = a.id AND s.kind = 'scanner'
    WHERE a.organisation_id = :organisation AND a.id = ANY(CAST(:targets AS bigint[]))
    GROUP BY a.id, a.key
    HAVING bool_or(s.state IN ('failed', 'blocked')) AND NOT bool_or(s.state = 'ok')
    """
)


class State(NamedTuple):
    """How far a scan is: sources done of those there are, and what runs now."""

    sources: int
    done: int
    open_tasks: int
    running: list[str]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.sources and not self.open_tasks


def state(connection: Connection, organisation: int, targets: list[int], since: datetime) -> State:
    """How far the scan of these target assets is that began at `since`."""
    asked = {"organisation": organisation, "targets": targets, "since": since}
    row = connection.execute(PENDING, asked).one()
    running = [
        f"{task.scanner} {task.key.removeprefix('internet|')}"
        for task in connection.execute(RUNNING, {"organisation": organisation})
    ]
    return State(row.sources, row.done, row.ingests + row.scans, running)


def sources(connection: Connection, organisation: int, targets: list[int]) -> list[int]:
    """The sources that belong to a scan of these targets."""
    return list(connection.execute(SOURCES, {"organisation": organisation, "targets": targets}).scalars())


def unmeasured(connection: Connection, organisation: int, targets: list[int]) -> list[tuple[str, str]]:
    """The targets of which nothing could be measured, with the reasons."""
    found = connection.execute(UNMEASURED, {"organisation": organisation, "targets": targets})
    return [(row.key, row.reason) for row in found]

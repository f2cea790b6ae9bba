"""What a scan still has to do: read from the database, whoever does the work."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from kattegat.scheduler import plan

# Only what the targets lead to: with `kat up` running, other work of the organisation never ends.
REACHED = """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM asset WHERE organisation_id = :organisation AND id = ANY(CAST(:targets AS bigint[]))
        UNION
        SELECT l.target_id FROM link l JOIN reached r ON l.origin_id = r.id
        WHERE l.organisation_id = :organisation AND l.ended_at IS NULL
    ), sources AS (
        SELECT s.id, s.state, s.last_started_at, h.due_at, h.hold,
               EXISTS (SELECT FROM task t WHERE t.organisation_id = s.organisation_id AND t.source_id = s.id
                         AND t.state IN ('queued', 'leased', 'paused') AND t.kind IN ('scan', 'ingest')) AS open
        FROM source s
        JOIN reached r ON r.id = s.asset_id
        JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id AND a.present
        JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
        WHERE s.organisation_id = :organisation AND s.kind = 'scanner'
    )
"""
PENDING = text(
    REACHED  # noqa: S608 - a constant
    + """
    SELECT count(*) FILTER (WHERE hold = '') AS sources,
           -- What succeeded and is due again all the same goes by a fact that has changed since: it is not done.
           count(*) FILTER (WHERE hold = '' AND last_started_at >= :since
                            AND NOT (state = 'ok' AND due_at <= now())) AS done,
           count(*) FILTER (WHERE open) AS open
    FROM sources
    """
)
OVERLOOKED = text(
    REACHED  # noqa: S608 - a constant
    + """
    SELECT id FROM sources
    WHERE hold = '' AND NOT open AND due_at > now() AND (last_started_at IS NULL OR last_started_at < :since)
    ORDER BY id
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
    SELECT a.key,
           coalesce(string_agg(DISTINCT s.reason, '; ') FILTER (WHERE s.state IN ('failed', 'blocked')),
                    string_agg(DISTINCT s.scanner || ' has not run: ' || h.hold, '; ') FILTER (WHERE h.hold <> ''),
                    'nothing has run') AS reason,
           bool_or(s.state = 'ok' AND (f.known OR NOT b.broken)) AS measured,
           bool_or(s.state IN ('failed', 'blocked')) OR bool_or(h.hold <> '' AND h.hold <> ALL (:chosen)) AS silent
    FROM asset a
    JOIN source s ON s.organisation_id = a.organisation_id AND s.asset_id = a.id AND s.kind = 'scanner'
    LEFT JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM fact f WHERE f.organisation_id = s.organisation_id
                                       AND f.source_id = s.id AND f.ended_at IS NULL) AS known) f
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM source o WHERE o.organisation_id = s.organisation_id
                                       AND o.asset_id = s.asset_id AND o.state IN ('failed', 'blocked')) AS broken) b
    WHERE a.organisation_id = :organisation AND a.id = ANY(CAST(:targets AS bigint[]))
    GROUP BY a.id, a.key ORDER BY a.id
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
    return State(row.sources, row.done, row.open, running)


def overlooked(connection: Connection, organisation: int, targets: list[int], since: datetime) -> list[int]:
    """The sources that belong to a scan by now and that nobody has asked for.

    Such as those of an address which was known before, and which only this scan found a target to lead to.
    """
    asked = {"organisation": organisation, "targets": targets, "since": since}
    return list(connection.execute(OVERLOOKED, asked).scalars())


def sources(connection: Connection, organisation: int, targets: list[int]) -> list[int]:
    """The sources that belong to a scan of these targets."""
    return list(connection.execute(SOURCES, {"organisation": organisation, "targets": targets}).scalars())


def unmeasured(connection: Connection, organisation: int, targets: list[int]) -> list[tuple[str, str]]:
    """The targets of which nothing could be measured, with the reasons.

    Where a scanner failed, one that ended well and found nothing (a host that is no mail server) measured nothing.
    A target that only scanners look at which were left out on request is one of them if nothing else was measured.
    """
    asked = {"organisation": organisation, "targets": targets, "chosen": [plan.NOT_CHOSEN, plan.SKIPPED]}
    found = connection.execute(UNMEASURED, asked).all()
    nothing = not any(row.measured for row in found)
    return [(row.key, row.reason) for row in found if not row.measured and (row.silent or nothing)]

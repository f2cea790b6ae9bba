"""Limits on scans at once: which of the tasks that wait may be claimed now, and which limit keeps a task waiting."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from kattegat.scheduler import pauses
from kattegat.scheduler.queue import Task
from kattegat.scheduler.regime import Limit

CLAIMING = 0x6B61745F6C696D74
LOOKED_AT = 20_000
"""How many waiting scans are looked at; the dispatcher queues far fewer."""

# Whoever claims under limits waits for the others who do: two that count at once would both find the last place free.
LOCK = text("SELECT pg_advisory_xact_lock(:key)")
RUNNING = text(
    """
    SELECT organisation_id, scanner, count(*) AS running FROM task
    WHERE state = 'leased' AND kind = 'scan' GROUP BY organisation_id, scanner
    """
)
WAITING = text(
    f"""
    SELECT t.id, t.organisation_id, t.scanner FROM task t
    LEFT JOIN source s ON s.organisation_id = t.organisation_id AND s.id = t.source_id
    LEFT JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE t.state = 'queued' AND t.kind = 'scan' AND t.run_after <= now()
      AND t.scanner = ANY(CAST(:scanners AS text[]))
      AND (t.vantage = '' OR t.vantage = ANY(CAST(:vantages AS text[])))
      AND (CAST(:organisations AS bigint[]) IS NULL OR t.organisation_id = ANY(CAST(:organisations AS bigint[])))
      AND (CAST(:networks AS cidr[]) IS NULL OR CASE WHEN a.type IN ('IPAddress', 'Service', 'Network')
             THEN CAST(split_part(a.key, '|', 2) AS inet) <<= ANY(CAST(:networks AS cidr[])) ELSE false END)
      AND (NOT (SELECT EXISTS (SELECT FROM pause)) OR NOT {pauses.COVERED})
    ORDER BY t.turn, t.priority, t.run_after, t.id LIMIT :most
    """  # noqa: S608 - constants
)


def choose(
    conn: Connection,
    limits: Sequence[Limit],
    scanners: Collection[str],
    vantages: Collection[str],
    most: int,
    *,
    organisations: Collection[int] | None = None,
    networks: Collection[str] | None = None,
) -> list[int]:
    """The tasks to claim, in their order, at most `most`: with each of them no limit is exceeded.

    With `organisations` only theirs, with `networks` only of addresses, services and networks in one of them. Where
    there are limits nobody else chooses until the caller's transaction ends.
    """
    if limits:
        conn.execute(LOCK, {"key": CLAIMING})
    left = _left(conn, limits)
    chosen: list[int] = []
    found = conn.execute(
        WAITING,
        {
            "scanners": list(scanners),
            "vantages": list(vantages),
            "organisations": list(organisations) if organisations is not None else None,
            "networks": list(networks) if networks is not None else None,
            "most": LOOKED_AT,
        },
    )
    for row in found:
        under = [place for place, limit in enumerate(limits) if limit.counts(row.organisation_id, row.scanner)]
        if all(left[place] > 0 for place in under):
            for place in under:
                left[place] -= 1
            chosen.append(row.id)
            if len(chosen) >= most:
                break
    return chosen


def full(conn: Connection, limits: Sequence[Limit], tasks: Sequence[Task]) -> dict[int, str]:
    """The limit that keeps each of these tasks waiting, in words; the others are left out."""
    if not limits or not tasks:
        return {}
    left = _left(conn, limits)
    found: dict[int, str] = {}
    for task in tasks:
        for place, limit in enumerate(limits):
            if left[place] <= 0 and limit.counts(task.organisation_id, task.scanner):
                found[task.id] = f"{limit.name}: that many run"
                break
    return found


def _left(conn: Connection, limits: Sequence[Limit]) -> list[int]:
    running = conn.execute(RUNNING).all()
    return [
        limit.most - sum(row.running for row in running if limit.counts(row.organisation_id, row.scanner))
        for limit in limits
    ]

"""Permits: the right to open one connection, granted before dialling, held across all runners.

A permit is a duration, not a date: the runner counts it on its own monotonic clock from the moment at which it asked,
which is before this side counts it; so however wrong a runner's clock is, it stops first. Here the place is free again
only when it is given back, or after the duration and a margin. A limit on new connections in a second gives each permit
the time after which it may be used, and it has to be used within a second of that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

from kattegat.scheduler.regime import Rates

SECONDS = 30.0
MARGIN_SECONDS = 5.0
AHEAD_SECONDS = 5.0
"""How far ahead new connections are granted where their rate is limited."""
MOST = 256
WAIT_SECONDS = 0.25

LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(p, 7)) FROM unnest(CAST(:places AS text[])) p ORDER BY p")
NOW = text("SELECT clock_timestamp()")
HELD = text(
    """
    SELECT p.place, count(m.permit_id) AS held FROM unnest(CAST(:places AS text[])) AS p(place)
    LEFT JOIN permit_place m ON m.place = p.place AND m.until > CAST(:now AS timestamptz)
    GROUP BY p.place
    """
)
PACE = text("SELECT place, free_at FROM pace WHERE place = ANY(CAST(:places AS text[]))")
GRANT = text(
    """
    WITH made AS (
      INSERT INTO permit (runner, task_id, until)
      SELECT :runner, :task, CAST(:now AS timestamptz) + make_interval(secs => :seconds) FROM generate_series(1, :most)
      RETURNING id, until
    ), placed AS (
      INSERT INTO permit_place (permit_id, place, until)
      SELECT made.id, p.place, made.until FROM made CROSS JOIN unnest(CAST(:places AS text[])) AS p(place)
    )
    SELECT id FROM made ORDER BY id
    """
)
PACED = text(
    """
    INSERT INTO pace (place, free_at)
    SELECT * FROM unnest(CAST(:places AS text[]), CAST(:times AS timestamptz[]))
    ON CONFLICT (place) DO UPDATE SET free_at = excluded.free_at
    """
)
RENEW = text(
    """
    WITH kept AS (
      UPDATE permit p SET until = clock_timestamp() + make_interval(secs => :seconds)
      WHERE p.id = ANY(CAST(:ids AS bigint[])) AND p.runner = :runner AND p.until > clock_timestamp()
        AND EXISTS (SELECT FROM task t WHERE t.id = p.task_id AND t.state = 'leased' AND t.leased_by = :runner)
      RETURNING p.id, p.until
    ), placed AS (
      UPDATE permit_place m SET until = kept.until FROM kept WHERE m.permit_id = kept.id
    )
    SELECT id FROM kept ORDER BY id
    """
)
RELEASE = text("DELETE FROM permit WHERE id = ANY(CAST(:ids AS bigint[])) AND runner = :runner")
SWEEP = text("DELETE FROM permit WHERE until < clock_timestamp() - interval '1 minute'")
SWEEP_PACE = text("DELETE FROM pace WHERE free_at < clock_timestamp() - interval '1 hour'")


class Granted(NamedTuple):
    """Permits, each with the seconds after which it may be used; none, and when to ask again."""

    permits: list[tuple[int, float]]
    wait_seconds: float = 0.0


def places(zone: str, address: str, rules: Mapping[str, Rates]) -> dict[str, Rates]:
    """Where a connection counts, by name: `internet|192.0.2.1`, its network, a key."""
    number = ipaddress.ip_address(address)
    network = ipaddress.ip_network((number, 24 if number.version == 4 else 56), strict=False)
    found: dict[str, Rates] = {}
    for kind, rates in rules.items():
        if kind == "address":
            found[f"address {zone}|{number}"] = rates
        elif kind == "network":
            found[f"network {zone}|{network}"] = rates
        else:
            found[kind.replace(".", " ", 1)] = rates
    return found


def grant(
    conn: Connection, runner: str, task_id: int, where: Mapping[str, Rates], most: int, *, seconds: float = SECONDS
) -> Granted:
    """At most `most` permits that are within the limits of every place; none when a place is full."""
    names = sorted(where)
    if not names:
        return Granted([])
    conn.execute(LOCK, {"places": names}).all()
    now = conn.execute(NOW).scalar_one()
    room = min(most, MOST)
    held = {row.place: row.held for row in conn.execute(HELD, {"places": names, "now": now})}
    for name in names:
        if where[name].connections:
            room = min(room, where[name].connections - held[name])
    free = {row.place: row.free_at for row in conn.execute(PACE, {"places": names})}
    start, spacing = 0.0, 0.0
    for name in names:
        if where[name].rate:
            begins = max((free[name] - now).total_seconds(), 0.0) if name in free else 0.0
            start, spacing = max(start, begins), max(spacing, 1.0 / where[name].rate)
    if spacing:
        room = min(room, int((AHEAD_SECONDS - start) / spacing) + 1 if start <= AHEAD_SECONDS else 0)
    if room <= 0:
        return Granted([], max(WAIT_SECONDS, start - AHEAD_SECONDS))
    ids = conn.execute(
        GRANT,
        {
            "runner": runner,
            "task": task_id,
            "now": now,
            "seconds": seconds + MARGIN_SECONDS,
            "most": room,
            "places": names,
        },
    ).scalars()
    if spacing:
        paced = [name for name in names if where[name].rate]
        ends: datetime = now + timedelta(seconds=start + room * spacing)
        conn.execute(PACED, {"places": paced, "times": [ends] * len(paced)})
    return Granted([(permit, start + place * spacing) for place, permit in enumerate(ids)])


def renew(conn: Connection, runner: str, ids: Sequence[int], *, seconds: float = SECONDS) -> list[int]:
    """Prolongs permits of scans that still run; gives those that hold on, the others have ended."""
    if not ids:
        return []
    parameters = {"ids": list(ids), "runner": runner, "seconds": seconds + MARGIN_SECONDS}
    return list(conn.execute(RENEW, parameters).scalars())


def release(conn: Connection, runner: str, ids: Sequence[int]) -> None:
    """Takes permits back: their connections are closed."""
    if ids:
        conn.execute(RELEASE, {"ids": list(ids), "runner": runner})


def sweep(conn: Connection) -> int:
    """Forgets what nobody gave back; for the scheduler, now and then."""
    conn.execute(SWEEP_PACE)
    return conn.execute(SWEEP).rowcount

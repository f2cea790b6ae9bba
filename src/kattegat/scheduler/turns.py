"""Whose turn it is: the order between organisations, as SQL for the statements of the queue.

A task's turn is a number. Each organisation's tasks of one kind take one number after another, and a newcomer begins
where the queue stands now (the smallest number that waits): so in every round each organisation is served once, be
there ten tasks of it or a million. (It is start-time fair queueing with equal weights.) Three lanes keep what a person
asked for before all others, and what can wait behind them.
"""

from __future__ import annotations

LANE = 1 << 40
"""How many turns a lane has: first -LANE..-1, usual 0..LANE-1, last from LANE on."""


def lane(priority: str) -> str:
    """The first turn of the lane for an SQL expression that gives a priority (0: first; from 200 on: last)."""
    return f"CASE WHEN {priority} <= 0 THEN -{LANE} WHEN {priority} >= 200 THEN {LANE} ELSE 0 END"


def front(kind: str, lane_: str, organisation: str) -> str:
    """The turn after which a new task stands; each part is one look at the end of an index."""
    queued = f"SELECT q.turn FROM task q WHERE q.state = 'queued' AND q.kind = {kind}"  # noqa: S608 - SQL of ours
    within = f"q.turn >= {lane_} AND q.turn < {lane_} + {LANE}"
    return (
        f"greatest({lane_}, ({queued} AND {within} ORDER BY q.turn, q.priority, q.run_after, q.id LIMIT 1) - 1,"
        f" ({queued} AND q.organisation_id = {organisation} AND {within} ORDER BY q.turn DESC LIMIT 1))"
    )


def next_(kind: str, lane_: str, organisation: str) -> str:
    """The turn of one new task."""
    return f"{front(kind, f'({lane_})', organisation)} + 1"

"""Which assets are present, and the events of presence and clearance.

An asset is present iff it can be reached from a declared asset through current links, each from its origin to its
target. It is kept up to date by deleting and deriving again what a change may touch: first everything that may have
stood on a removed link is taken down, then what of it is still reached from outside (or from an added link) is put
back. So a ring of assets that hold each other up falls when the last link from outside goes. `clearance` works alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.inventory import clearance

Node = tuple[int, int]
"""(organisation, asset)."""
Edge = tuple[int, str, int, int]
"""(organisation, link type, origin, target)."""

# One at a time records or judges an organisation: presence and clearance are derived from all of its links, and a
# verdict from facts of several sources, of which two that recorded side by side would each see only their own.
_LOCK = """
    SELECT pg_advisory_xact_lock(n.key)
    FROM (SELECT hashtextextended('kattegat.inventory.' || o, 0) AS key
          FROM unnest(CAST(:organisations AS bigint[])) AS o ORDER BY 1 OFFSET 0) n
"""
_DERIVE = """
    WITH RECURSIVE edge AS (
        SELECT * FROM unnest(CAST(:organisations AS bigint[]), CAST(:origins AS bigint[]), CAST(:targets AS bigint[]),
                             CAST(:removed AS boolean[])) AS e(organisation_id, origin_id, target_id, removed)
    ), node AS (
        SELECT * FROM unnest(CAST(:node_organisations AS bigint[]), CAST(:nodes AS bigint[])) AS n(organisation_id, id)
    ), gone(organisation_id, id) AS (
        SELECT s.organisation_id, s.id
        FROM (SELECT organisation_id, target_id AS id FROM edge WHERE removed
              UNION SELECT organisation_id, id FROM node) s
        CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = s.organisation_id AND a.id = s.id
                                                  AND a.present AND NOT a.declared OFFSET 0) a
        UNION
        SELECT g.organisation_id, l.target_id
        FROM gone g
        CROSS JOIN LATERAL (SELECT l.target_id FROM link l WHERE l.organisation_id = g.organisation_id
                                                             AND l.origin_id = g.id AND l.ended_at IS NULL
                            ORDER BY l.type OFFSET 0) l
        CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = g.organisation_id AND a.id = l.target_id
                                                  AND a.present AND NOT a.declared OFFSET 0) a
    ), back(organisation_id, id) AS (
        (
            SELECT g.organisation_id, g.id
            FROM gone g
            -- One is enough: thousands may name the same mail server.
            CROSS JOIN LATERAL (
                SELECT FROM (SELECT l.origin_id FROM link l WHERE l.organisation_id = g.organisation_id
                                                              AND l.target_id = g.id AND l.ended_at IS NULL
                             ORDER BY l.type OFFSET 0) l
                CROSS JOIN LATERAL (SELECT FROM asset o WHERE o.organisation_id = g.organisation_id
                                                          AND o.id = l.origin_id AND o.present OFFSET 0) o
                WHERE (g.organisation_id, l.origin_id) NOT IN (SELECT organisation_id, id FROM gone)
                LIMIT 1
            ) held
            UNION
            SELECT e.organisation_id, e.target_id
            FROM edge e
            CROSS JOIN LATERAL (SELECT FROM asset o WHERE o.organisation_id = e.organisation_id AND o.id = e.origin_id
                                                      AND o.present OFFSET 0) o
            CROSS JOIN LATERAL (SELECT FROM asset t WHERE t.organisation_id = e.organisation_id AND t.id = e.target_id
                                                      AND NOT t.present OFFSET 0) t
            WHERE NOT e.removed AND (e.organisation_id, e.origin_id) NOT IN (SELECT organisation_id, id FROM gone)
            UNION
            SELECT n.organisation_id, n.id
            FROM node n
            CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = n.organisation_id AND a.id = n.id
                                                      AND a.declared AND NOT a.present OFFSET 0) a
        )
        UNION
        SELECT b.organisation_id, l.target_id
        FROM back b
        CROSS JOIN LATERAL (SELECT l.target_id FROM link l WHERE l.organisation_id = b.organisation_id
                                                             AND l.origin_id = b.id AND l.ended_at IS NULL
                            ORDER BY l.type OFFSET 0) l
        CROSS JOIN LATERAL (SELECT a.present FROM asset a WHERE a.organisation_id = b.organisation_id
                                                            AND a.id = l.target_id OFFSET 0) a
        WHERE NOT a.present OR (b.organisation_id, l.target_id) IN (SELECT organisation_id, id FROM gone)
    ), derived AS (
        SELECT organisation_id, id, true AS present FROM back
        UNION ALL
        SELECT organisation_id, id, false FROM gone
        WHERE (organisation_id, id) NOT IN (SELECT organisation_id, id FROM back)
    )
    SELECT d.organisation_id, d.id, d.present
    FROM derived d
    CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = d.organisation_id AND a.id = d.id
                                              AND a.present <> d.present OFFSET 0) a
"""
# Whoever declares does not judge: that is done by the worker, and until then what would pass is unknown.
_DUE = """
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT n.organisation_id, n.id, :at
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:assets AS bigint[])) AS n(organisation_id, id)
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = least(check_due.due_at, excluded.due_at)
"""
# On its own: of how many rows come out of a recursion the planner has no idea, of an array it has.
_UPDATE = """
    UPDATE asset a SET present = d.present, gone_at = CASE WHEN d.present THEN NULL ELSE CAST(:at AS timestamptz) END
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:assets AS bigint[]), CAST(:present AS boolean[]))
         AS d(organisation_id, id, present)
    WHERE a.organisation_id = d.organisation_id AND a.id = d.id
"""
_RECOMPUTE = """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM asset WHERE organisation_id = :organisation AND declared
        UNION
        SELECT l.target_id
        FROM reached r
        CROSS JOIN LATERAL (SELECT l.target_id FROM link l WHERE l.organisation_id = :organisation
                                                             AND l.origin_id = r.id AND l.ended_at IS NULL
                            ORDER BY l.type OFFSET 0) l
    )
    UPDATE asset a SET present = NOT a.present, gone_at = CASE WHEN a.present THEN CAST(:at AS timestamptz) END
    WHERE a.organisation_id = :organisation AND a.present <> (a.id IN (SELECT id FROM reached))
    RETURNING a.organisation_id, a.id
"""
_EVENTS = """
    INSERT INTO asset_event (organisation_id, asset_id, at, present, clearance, declared, declared_clearance,
                             declared_by)
    SELECT a.organisation_id, a.id,
           greatest(CAST(:at AS timestamptz),
                    (SELECT max(e.at) + interval '1 microsecond' FROM asset_event e
                     WHERE e.organisation_id = a.organisation_id AND e.asset_id = a.id)),
           a.present, a.clearance, a.declared, a.declared_clearance, a.declared_by
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:assets AS bigint[])) AS n(organisation_id, id)
    CROSS JOIN LATERAL (SELECT * FROM asset a WHERE a.organisation_id = n.organisation_id AND a.id = n.id OFFSET 0) a
"""


class Change(msgspec.Struct):
    """What changed in the graph: links that are now current, links that no longer are, declarations."""

    added: set[Edge] = msgspec.field(default_factory=set)
    removed: set[Edge] = msgspec.field(default_factory=set)
    declared: set[Node] = msgspec.field(default_factory=set)


def lock(connection: Connection, organisations: Iterable[int]) -> None:
    """Waits for the right to change these organisations' graphs and verdicts; it lasts until the transaction ends."""
    connection.execute(text(_LOCK), {"organisations": sorted(set(organisations))})


def now(connection: Connection, after: datetime | None = None) -> datetime:
    """The recording time: the clock's, and in any case later than `after`."""
    sql = "SELECT greatest(clock_timestamp(), CAST(:after AS timestamptz) + interval '1 microsecond')"
    found: datetime = connection.execute(text(sql), {"after": after}).scalar_one()
    return found


def derive(connection: Connection, change: Change, at: datetime) -> set[Node]:
    """Brings presence and clearance up to date with a change that is already in the tables; `lock` must be held.

    Gives the assets whose presence or clearance is another now; they, and those declared or withdrawn, get an event at
    `at`. Five statements.
    """
    edges = [(*edge, False) for edge in change.added] + [(*edge, True) for edge in change.removed]
    links: dict[str, object] = {
        "organisations": [edge[0] for edge in edges],
        "types": [edge[1] for edge in edges],
        "origins": [edge[2] for edge in edges],
        "targets": [edge[3] for edge in edges],
        "removed": [edge[4] for edge in edges],
    }
    rows = connection.execute(text(_DERIVE), links | _nodes(change.declared)).all()
    updates = {"organisations": [row[0] for row in rows], "assets": [row[1] for row in rows]}
    connection.execute(text(_UPDATE), updates | {"present": [row[2] for row in rows], "at": at})
    changed = {(row[0], row[1]) for row in rows}
    changed |= clearance.derive(connection, links, _nodes(changed | change.declared))
    _record(connection, changed | change.declared, at)
    return changed


def recompute(connection: Connection, organisation_id: int) -> set[int]:
    """Derives presence and clearance of an organisation from nothing; gives the assets for which that made a change.

    None are given unless the tables or the caps of link types were changed by something else than this room.
    """
    lock(connection, [organisation_id])
    at = now(connection)
    rows = connection.execute(text(_RECOMPUTE), {"organisation": organisation_id, "at": at})
    changed = {(row[0], row[1]) for row in rows}
    changed |= clearance.recompute(connection, organisation_id)
    _record(connection, changed, at)
    judge_again(connection, changed, at)
    return {asset for _, asset in changed}


def judge_again(connection: Connection, nodes: Collection[Node], at: datetime) -> None:
    """Makes the checks of these assets due at `at`; `lock` must be held."""
    ordered = sorted(nodes)
    parameters = {"organisations": [node[0] for node in ordered], "assets": [node[1] for node in ordered], "at": at}
    connection.execute(text(_DUE), parameters)


def _record(connection: Connection, nodes: Collection[Node], at: datetime) -> None:
    ordered = sorted(nodes)
    parameters = {"organisations": [node[0] for node in ordered], "assets": [node[1] for node in ordered], "at": at}
    connection.execute(text(_EVENTS), parameters)


def _nodes(nodes: Iterable[Node]) -> dict[str, object]:
    ordered = sorted(nodes)
    return {"node_organisations": [node[0] for node in ordered], "nodes": [node[1] for node in ordered]}

"""How intrusive a scan each asset allows: its declared level, or what it inherits over links.

A present asset without a declared level has the highest min(level of the other end, cap) over its current links to
present assets, where `model.links` gives the cap along and against each type of link: the least fixed point, so that a
ring can't raise itself. An asset that is not present has 0.

Kept up to date as presence is: whatever may have its level from a changed place is taken down, and raised again from
what stands outside.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from kattegat.model.links import TYPES

_DERIVE = """
    WITH RECURSIVE flow AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:flow_types AS text[]), CAST(:along AS smallint[]), CAST(:against AS smallint[]))
                      AS f(type, along, against)
    ), edge AS (
        -- Both ways in which a changed link lets clearance flow.
        SELECT e.organisation_id, d.giver, d.receiver, d.cap, e.removed
        FROM unnest(CAST(:organisations AS bigint[]), CAST(:types AS text[]), CAST(:origins AS bigint[]),
                    CAST(:targets AS bigint[]), CAST(:removed AS boolean[]))
             AS e(organisation_id, type, origin_id, target_id, removed)
        JOIN flow f ON f.type = e.type
        CROSS JOIN LATERAL (VALUES (e.origin_id, e.target_id, f.along), (e.target_id, e.origin_id, f.against))
                   AS d(giver, receiver, cap)
        WHERE d.cap > 0
    ), low(organisation_id, id, clearance) AS (
        (
            SELECT n.organisation_id, n.id, a.clearance
            FROM unnest(CAST(:node_organisations AS bigint[]), CAST(:nodes AS bigint[])) AS n(organisation_id, id)
            CROSS JOIN LATERAL (SELECT a.clearance FROM asset a
                                WHERE a.organisation_id = n.organisation_id AND a.id = n.id OFFSET 0) a
            UNION
            SELECT e.organisation_id, e.receiver, r.clearance
            FROM edge e
            CROSS JOIN LATERAL (SELECT g.clearance FROM asset g
                                WHERE g.organisation_id = e.organisation_id AND g.id = e.giver OFFSET 0) g
            CROSS JOIN LATERAL (SELECT r.clearance FROM asset r
                                WHERE r.organisation_id = e.organisation_id AND r.id = e.receiver
                                  AND r.declared_clearance IS NULL AND r.clearance > 0 OFFSET 0) r
            WHERE e.removed AND least(g.clearance, e.cap) >= r.clearance
        )
        UNION
        SELECT x.organisation_id, n.id, r.clearance
        FROM low x
        CROSS JOIN LATERAL (
            SELECT l.id, f.along AS cap
            FROM (SELECT l.target_id AS id, l.type FROM link l
                  WHERE l.organisation_id = x.organisation_id AND l.origin_id = x.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.along > 0
            UNION ALL
            SELECT l.id, f.against
            FROM (SELECT l.origin_id AS id, l.type FROM link l
                  WHERE l.organisation_id = x.organisation_id AND l.target_id = x.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.against > 0
            OFFSET 0
        ) n
        CROSS JOIN LATERAL (SELECT r.clearance FROM asset r
                            WHERE r.organisation_id = x.organisation_id AND r.id = n.id
                              AND r.declared_clearance IS NULL AND r.clearance > 0 OFFSET 0) r
        -- What gives nothing has nothing to take away.
        WHERE x.clearance > 0 AND least(x.clearance, n.cap) >= r.clearance
    ), up(organisation_id, id, level) AS (
        (
            SELECT x.organisation_id, x.id, a.declared_clearance
            FROM low x
            CROSS JOIN LATERAL (SELECT a.declared_clearance FROM asset a
                                WHERE a.organisation_id = x.organisation_id AND a.id = x.id
                                  AND a.present AND a.declared_clearance IS NOT NULL OFFSET 0) a
            UNION
            SELECT x.organisation_id, x.id, max(least(g.clearance, n.cap))
            FROM low x
            CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = x.organisation_id AND a.id = x.id
                                                      AND a.present AND a.declared_clearance IS NULL OFFSET 0) a
            CROSS JOIN LATERAL (
                SELECT l.id, f.along AS cap
                FROM (SELECT l.origin_id AS id, l.type FROM link l
                      WHERE l.organisation_id = x.organisation_id AND l.target_id = x.id AND l.ended_at IS NULL
                      ORDER BY l.type OFFSET 0) l
                JOIN flow f ON f.type = l.type AND f.along > 0
                UNION ALL
                SELECT l.id, f.against
                FROM (SELECT l.target_id AS id, l.type FROM link l
                      WHERE l.organisation_id = x.organisation_id AND l.origin_id = x.id AND l.ended_at IS NULL
                      ORDER BY l.type OFFSET 0) l
                JOIN flow f ON f.type = l.type AND f.against > 0
                OFFSET 0
            ) n
            CROSS JOIN LATERAL (SELECT g.clearance FROM asset g
                                WHERE g.organisation_id = x.organisation_id AND g.id = n.id
                                  AND g.present AND g.clearance > 0 OFFSET 0) g
            WHERE (x.organisation_id, n.id) NOT IN (SELECT organisation_id, id FROM low)
            GROUP BY x.organisation_id, x.id
            UNION
            SELECT e.organisation_id, e.receiver, max(least(g.clearance, e.cap))
            FROM edge e
            CROSS JOIN LATERAL (SELECT g.clearance FROM asset g
                                WHERE g.organisation_id = e.organisation_id AND g.id = e.giver AND g.present
                                OFFSET 0) g
            CROSS JOIN LATERAL (SELECT r.clearance FROM asset r
                                WHERE r.organisation_id = e.organisation_id AND r.id = e.receiver
                                  AND r.present AND r.declared_clearance IS NULL OFFSET 0) r
            WHERE NOT e.removed AND least(g.clearance, e.cap) > r.clearance
              AND (e.organisation_id, e.giver) NOT IN (SELECT organisation_id, id FROM low)
            GROUP BY e.organisation_id, e.receiver
        )
        UNION
        SELECT u.organisation_id, n.id, least(u.level, n.cap)
        FROM up u
        CROSS JOIN LATERAL (
            SELECT l.id, f.along AS cap
            FROM (SELECT l.target_id AS id, l.type FROM link l
                  WHERE l.organisation_id = u.organisation_id AND l.origin_id = u.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.along > 0
            UNION ALL
            SELECT l.id, f.against
            FROM (SELECT l.origin_id AS id, l.type FROM link l
                  WHERE l.organisation_id = u.organisation_id AND l.target_id = u.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.against > 0
            OFFSET 0
        ) n
        CROSS JOIN LATERAL (SELECT r.clearance FROM asset r
                            WHERE r.organisation_id = u.organisation_id AND r.id = n.id
                              AND r.present AND r.declared_clearance IS NULL OFFSET 0) r
        WHERE u.level > 0
          AND (least(u.level, n.cap) > r.clearance
               OR (u.organisation_id, n.id) IN (SELECT organisation_id, id FROM low))
    ), derived AS (
        SELECT organisation_id, id, max(level) AS level
        FROM (SELECT organisation_id, id, level FROM up
              UNION ALL SELECT organisation_id, id, CAST(0 AS smallint) FROM low) every
        GROUP BY organisation_id, id
    )
    SELECT d.organisation_id, d.id, d.level
    FROM derived d
    CROSS JOIN LATERAL (SELECT FROM asset a WHERE a.organisation_id = d.organisation_id AND a.id = d.id
                                              AND a.clearance <> d.level OFFSET 0) a
"""
_UPDATE = """
    UPDATE asset a SET clearance = d.level
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:assets AS bigint[]), CAST(:levels AS smallint[]))
         AS d(organisation_id, id, level)
    WHERE a.organisation_id = d.organisation_id AND a.id = d.id
"""
_RECOMPUTE = """
    WITH RECURSIVE flow AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:flow_types AS text[]), CAST(:along AS smallint[]), CAST(:against AS smallint[]))
                      AS f(type, along, against)
    ), up(id, level) AS (
        SELECT id, declared_clearance FROM asset
        WHERE organisation_id = :organisation AND present AND declared_clearance IS NOT NULL
        UNION
        SELECT n.id, least(u.level, n.cap)
        FROM up u
        CROSS JOIN LATERAL (
            SELECT l.id, f.along AS cap
            FROM (SELECT l.target_id AS id, l.type FROM link l
                  WHERE l.organisation_id = :organisation AND l.origin_id = u.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.along > 0
            UNION ALL
            SELECT l.id, f.against
            FROM (SELECT l.origin_id AS id, l.type FROM link l
                  WHERE l.organisation_id = :organisation AND l.target_id = u.id AND l.ended_at IS NULL
                  ORDER BY l.type OFFSET 0) l
            JOIN flow f ON f.type = l.type AND f.against > 0
            OFFSET 0
        ) n
        CROSS JOIN LATERAL (SELECT FROM asset r WHERE r.organisation_id = :organisation AND r.id = n.id
                                                  AND r.present AND r.declared_clearance IS NULL OFFSET 0) r
        WHERE u.level > 0
    ), derived AS (
        SELECT a.id, coalesce(max(u.level), 0) AS level
        FROM asset a LEFT JOIN up u ON u.id = a.id
        WHERE a.organisation_id = :organisation GROUP BY a.id
    )
    UPDATE asset a SET clearance = d.level
    FROM derived d
    WHERE a.organisation_id = :organisation AND a.id = d.id AND a.clearance <> d.level
    RETURNING a.organisation_id, a.id
"""


def derive(connection: Connection, links: dict[str, object], nodes: dict[str, object]) -> set[tuple[int, int]]:
    """Brings clearance up to date after presence; the parameters are those of `presence.derive`.

    `nodes` are the assets whose presence or declaration changed. Gives those whose clearance did. Two statements.
    """
    rows = connection.execute(text(_DERIVE), links | nodes | _flow()).all()
    updates = {"organisations": [row[0] for row in rows], "assets": [row[1] for row in rows]}
    connection.execute(text(_UPDATE), updates | {"levels": [row[2] for row in rows]})
    return {(row[0], row[1]) for row in rows}


def recompute(connection: Connection, organisation_id: int) -> set[tuple[int, int]]:
    """Derives every asset's clearance from nothing; gives those for which that made a change. One statement."""
    rows = connection.execute(text(_RECOMPUTE), {"organisation": organisation_id} | _flow())
    return {(row[0], row[1]) for row in rows}


def _flow() -> dict[str, object]:
    flowing = [link for link in TYPES.values() if link.along or link.against]
    return {
        "flow_types": [link.name for link in flowing],
        "along": [link.along for link in flowing],
        "against": [link.against for link in flowing],
    }

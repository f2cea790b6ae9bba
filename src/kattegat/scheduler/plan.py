"""From assets to sources: who is to look at what, how often, and why somebody does not.

Every asset gets a source and a schedule for every scanner that is about it, also for those that may not run: their
schedule then holds the reason in words, which is what a person reads as "why was this not scanned".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, Row, text

from kattegat.inventory import planning, presence
from kattegat.model import assets
from kattegat.model.assets import Asset
from kattegat.plugin import ScannerSpec
from kattegat.registry import Registry
from kattegat.scheduler import blocklist, regime

GONE = "no longer present"
NO_CONSENT = "no consent: nobody has recorded this organisation's permission to scan"
NOT_CHOSEN = "skipped: not among the scanners that were chosen"
SKIPPED = "skipped on request"

# Two texts for some and for all, since a condition that may be left out is one that no index serves.
ASSETS_ALL = text(
    """
    SELECT id, type, key, present, clearance FROM asset WHERE organisation_id = :organisation AND present ORDER BY id
    """
)
ASSETS_SOME = text(
    """
    SELECT id, type, key, present, clearance FROM asset
    WHERE organisation_id = :organisation AND present AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id
    """
)
STANDING = text(
    """
    SELECT EXISTS (SELECT FROM consent WHERE organisation_id = :organisation AND revoked_at IS NULL
                   AND granted_at <= now() AND (until IS NULL OR until > now())) AS consent,
           (SELECT count(*) FROM runner WHERE revoked_at IS NULL AND seen_at IS NOT NULL) AS runners,
           ARRAY(SELECT DISTINCT jsonb_object_keys(tools) FROM runner
                 WHERE revoked_at IS NULL AND seen_at IS NOT NULL) AS tools
    """
)
SOURCES = text(
    """
    INSERT INTO source (organisation_id, scanner, asset_id, vantage)
    SELECT :organisation, r.scanner, r.asset_id, :vantage
    FROM unnest(CAST(:scanners AS text[]), CAST(:assets AS bigint[])) WITH ORDINALITY AS r(scanner, asset_id, place)
    ORDER BY r.place
    ON CONFLICT (organisation_id, scanner, asset_id, vantage) DO NOTHING
    """
)
SCHEDULES = text(
    """
    INSERT INTO schedule AS h (organisation_id, id, every, cron, hold, priority)
    SELECT s.organisation_id, s.id, r.every, r.cron, r.hold, CASE s.state WHEN 'never' THEN 50 ELSE 100 END
    FROM unnest(CAST(:scanners AS text[]), CAST(:assets AS bigint[]), CAST(:everies AS interval[]),
                CAST(:crons AS text[]), CAST(:holds AS text[])) AS r(scanner, asset_id, every, cron, hold)
    JOIN source s ON s.organisation_id = :organisation AND s.scanner = r.scanner AND s.asset_id = r.asset_id
      AND s.vantage = :vantage
    ORDER BY s.id
    ON CONFLICT (organisation_id, id) DO UPDATE
    SET every = excluded.every, cron = excluded.cron, hold = excluded.hold,
        due_at = least(h.due_at, now() + excluded.every)
    WHERE (h.every, h.cron, h.hold) IS DISTINCT FROM (excluded.every, excluded.cron, excluded.hold)
    """
)
# What has a schedule and is not to be scanned at all: the asset is gone, or the scanner is.
OUT = """
    UPDATE schedule h SET hold = o.hold
    FROM (
      SELECT s.id, CASE
          WHEN NOT a.present THEN :gone
          WHEN s.scanner <> ALL (CAST(:installed AS text[])) THEN 'scanner ' || s.scanner || ' is not installed'
          ELSE s.scanner || ' does not apply to this asset' END AS hold
      FROM source s JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
      WHERE s.organisation_id = :organisation AND s.kind = 'scanner' AND s.vantage = :vantage {some}
        AND (s.scanner, s.asset_id) NOT IN (
          SELECT r.scanner, r.asset_id FROM unnest(CAST(:scanners AS text[]), CAST(:assets AS bigint[]))
            AS r(scanner, asset_id))
    ) AS o
    WHERE h.organisation_id = :organisation AND h.id = o.id AND h.hold <> o.hold
    """
OUT_ALL = text(OUT.format(some=""))
OUT_SOME = text(OUT.format(some="AND s.asset_id = ANY(CAST(:ids AS bigint[]))"))
# A need leads from the changed asset back to the scanner's subject. A task that is still queued reads the facts when
# it is claimed, so it comes late enough by itself.
DUE = text(
    """
    WITH changed AS (
      SELECT DISTINCT * FROM unnest(CAST(:assets AS bigint[]), CAST(:kinds AS text[])) AS c(asset_id, kind)
    ), need AS (
      SELECT * FROM unnest(CAST(:scanners AS text[]), CAST(:needed AS text[]), CAST(:links AS text[]),
                           CAST(:backwards AS boolean[])) AS n(scanner, kind, link, backwards)
    ), subject AS (
      SELECT n.scanner, c.asset_id FROM changed c JOIN need n ON n.kind = c.kind WHERE n.link = ''
      UNION
      SELECT n.scanner, l.origin_id FROM changed c JOIN need n ON n.kind = c.kind AND n.link <> '' AND NOT n.backwards
      JOIN link l ON l.organisation_id = :organisation AND l.target_id = c.asset_id AND l.type = n.link
        AND l.ended_at IS NULL
      UNION
      SELECT n.scanner, l.target_id FROM changed c JOIN need n ON n.kind = c.kind AND n.backwards
      JOIN link l ON l.organisation_id = :organisation AND l.origin_id = c.asset_id AND l.type = n.link
        AND l.ended_at IS NULL
      UNION
      SELECT n.scanner, l.origin_id FROM link l JOIN need n ON n.link = l.type AND NOT n.backwards
      WHERE l.organisation_id = :organisation AND l.origin_id = ANY(CAST(:touched AS bigint[]))
        AND l.ended_at IS NULL AND l.recorded_at >= :since AND EXISTS (
          SELECT FROM fact f WHERE f.organisation_id = l.organisation_id AND f.asset_id = l.target_id
            AND f.kind = n.kind AND f.ended_at IS NULL)
      UNION
      SELECT n.scanner, l.target_id FROM link l JOIN need n ON n.link = l.type AND n.backwards
      WHERE l.organisation_id = :organisation AND l.target_id = ANY(CAST(:touched AS bigint[]))
        AND l.ended_at IS NULL AND l.recorded_at >= :since AND EXISTS (
          SELECT FROM fact f WHERE f.organisation_id = l.organisation_id AND f.asset_id = l.origin_id
            AND f.kind = n.kind AND f.ended_at IS NULL)
    ), mine AS (
      SELECT h.id FROM subject j
      JOIN source s ON s.organisation_id = :organisation AND s.scanner = j.scanner AND s.asset_id = j.asset_id
      JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
      WHERE h.due_at > now() AND NOT EXISTS (
        SELECT FROM task t WHERE t.organisation_id = s.organisation_id AND t.source_id = s.id AND t.kind = 'scan'
          AND t.state = 'queued')
      ORDER BY h.id FOR UPDATE OF h
    )
    UPDATE schedule h SET due_at = now() FROM mine
    WHERE h.organisation_id = :organisation AND h.id = mine.id RETURNING h.id
    """
)
TOOLS = text(
    """
    UPDATE schedule h SET hold = CASE WHEN r.missing THEN r.reason ELSE '' END
    FROM unnest(CAST(:scanners AS text[]), CAST(:reasons AS text[]), CAST(:missing AS boolean[]))
         AS r(scanner, reason, missing), source s
    WHERE s.scanner = r.scanner AND h.organisation_id = s.organisation_id AND h.id = s.id
      AND h.hold = CASE WHEN r.missing THEN '' ELSE r.reason END
    """
)


log = structlog.get_logger()


class Planned(NamedTuple):
    """How many sources an organisation's assets have now, how many are new, and how many are held."""

    sources: int
    new: int
    held: int


class _Standing(NamedTuple):
    """What holds for the organisation as a whole."""

    consent: bool
    tools: frozenset[str] | None
    """None while no runner has said yet what it has: then nothing is known to be missing."""


def plan(
    conn: Connection,
    organisation_id: int,
    asset_ids: Collection[int] | None,
    registry: Registry,
    *,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    vantage: str = "internet",
) -> Planned:
    """Gives these assets (None: all of the organisation) their sources and schedules; six statements.

    What may not run is held with the reason, which is taken back when it no longer holds. `only` and `skip` name
    scanners. Running it again changes nothing unless something has changed.
    """
    ids = None if asset_ids is None else sorted(set(asset_ids))
    if ids == []:
        return Planned(0, 0, 0)
    chosen = {"organisation": organisation_id, "ids": ids, "vantage": vantage}
    # Before any schedule is locked: whoever records plans too, and in another order.
    presence.lock(conn, [organisation_id])
    standing = _standing(conn, organisation_id)
    rules, blocked = regime.load(conn), blocklist.in_force(conn, [organisation_id])
    rows: list[tuple[str, int, timedelta, str, str]] = []
    by_type: dict[str, list[ScannerSpec]] = {}
    for spec in registry.scanners.values():
        by_type.setdefault(spec.about.type, []).append(spec)
    found = conn.execute(ASSETS_ALL if ids is None else ASSETS_SOME, chosen).all()
    inside = regime.sets_of(conn, rules, [(organisation_id, row.id) for row in found])
    for row in found:
        if row.type not in by_type:
            continue
        subject = assets.parse(row.type, row.key)
        block = blocklist.reason(blocked, organisation_id, subject)
        for spec in by_type[row.type]:
            if _applies(spec, subject):
                rule = rules.every(organisation_id, spec.name, inside.get((organisation_id, row.id), ()))
                every, cron = regime.span(rule) if rule else (spec.every, "")
                rows.append((spec.name, row.id, every, cron, _hold(spec, row, standing, only, skip) or block))
    parameters: dict[str, Any] = {
        **chosen,
        "scanners": [row[0] for row in rows],
        "assets": [row[1] for row in rows],
        "everies": [row[2] for row in rows],
        "crons": [row[3] for row in rows],
        "holds": [row[4] for row in rows],
        "installed": sorted(registry.scanners),
        "gone": GONE,
    }
    new = conn.execute(SOURCES, parameters).rowcount
    conn.execute(SCHEDULES, parameters)
    conn.execute(OUT_ALL if ids is None else OUT_SOME, parameters)
    return Planned(len(rows), new, sum(1 for row in rows if row[4]))


def due_for_changes(
    conn: Connection,
    organisation_id: int,
    changed: Iterable[tuple[int, str]],
    registry: Registry,
    *,
    since: datetime | None = None,
) -> list[int]:
    """Makes due now what asked for a fact that has changed, given as (asset, kind of fact); gives the sources.

    With `since`, links of these assets that were recorded since then count too: a fact that lay elsewhere is now one
    that the scanner asked for.

    A scanner with `uses=[via(link, K)]` is due for the assets from which that link leads to the changed one. A kind
    that a scanner itself yields does not make it due again, or it would never rest.
    """
    pairs = sorted(set(changed))
    needs = [
        (spec.name, need.fact.kind, need.link, need.backwards)
        for spec in registry.scanners.values()
        for need in spec.uses
        if need.fact not in spec.yields
    ]
    kinds = {need[1] for need in needs}
    touched = sorted({pair[0] for pair in pairs}) if since is not None else []
    pairs = [pair for pair in pairs if pair[1] in kinds]
    if not needs or not (pairs or touched):
        return []
    parameters = {
        "organisation": organisation_id,
        "assets": [pair[0] for pair in pairs],
        "kinds": [pair[1] for pair in pairs],
        "scanners": [need[0] for need in needs],
        "needed": [need[1] for need in needs],
        "links": [need[2] for need in needs],
        "backwards": [need[3] for need in needs],
        "touched": touched,
        "since": since or datetime.max.replace(tzinfo=UTC),
    }
    with planning.by_index(conn):
        return sorted(conn.execute(DUE, parameters).scalars())


def tools_changed(conn: Connection, registry: Registry) -> int:
    """Holds and frees, in every organisation, what depends on an external program; gives how many schedules changed.

    To be called when a runner says that it has other tools than before.
    """
    tools = _standing(conn, 0).tools
    specs = [spec for spec in registry.scanners.values() if spec.tool]
    if not specs or tools is None:
        return 0
    parameters = {
        "scanners": [spec.name for spec in specs],
        "reasons": [_missing(spec) for spec in specs],
        "missing": [spec.tool not in tools for spec in specs],
    }
    return conn.execute(TOOLS, parameters).rowcount


def _standing(conn: Connection, organisation_id: int) -> _Standing:
    row = conn.execute(STANDING, {"organisation": organisation_id}).one()
    return _Standing(row.consent, frozenset(row.tools) if row.runners else None)


def _applies(spec: ScannerSpec, subject: Asset) -> bool:
    try:
        return spec.applies(subject)
    except Exception as problem:
        # One plugin that is broken must not keep the others from being planned.
        log.error("a scanner can't say whether it applies", scanner=spec.name, asset=str(subject), exc_info=problem)
        return False


def _missing(spec: ScannerSpec) -> str:
    return f"tool {spec.tool} is missing: no runner has it"


def _hold(
    spec: ScannerSpec,
    row: Row[Any],
    standing: _Standing,
    only: Collection[str] | None,
    skip: Collection[str],
) -> str:
    if only is not None and spec.name not in only:
        return NOT_CHOSEN
    if spec.name in skip:
        return SKIPPED
    if row.clearance < spec.clearance:
        return f"clearance {row.clearance}, needs {spec.clearance}"
    # With clearance 0 nothing is sent to the asset, so there is nothing to consent to.
    if spec.clearance > 0 and not standing.consent:
        return NO_CONSENT
    if spec.tool and standing.tools is not None and spec.tool not in standing.tools:
        return _missing(spec)
    return ""


def left_out(conn: Connection) -> list[int]:
    """The organisations in which something is not scanned since a person's choice left it out."""
    found = conn.execute(
        text("SELECT DISTINCT organisation_id FROM schedule WHERE hold = ANY(CAST(:holds AS text[])) ORDER BY 1"),
        {"holds": [NOT_CHOSEN, SKIPPED]},
    )
    return list(found.scalars())


def reasons(conn: Connection, organisation_id: int, source_ids: Sequence[int]) -> dict[int, str]:
    """Why these sources are held; those that are not are left out."""
    found = conn.execute(
        text(
            "SELECT id, hold FROM schedule WHERE organisation_id = :organisation AND hold <> ''"
            " AND id = ANY(CAST(:ids AS bigint[]))"
        ),
        {"organisation": organisation_id, "ids": list(source_ids)},
    )
    return {row.id: row.hold for row in found}

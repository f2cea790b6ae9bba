"""What a scan has to say, as data: findings, coverage, assets, links and what changed since the scan before.

The terminal, the page and `--json` all show this one document, so that they can't disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.checks import coverage, needs
from kattegat.model import assets as model
from kattegat.model.verdict import rank
from kattegat.registry import Registry

FORM = 1

REACHED = text(
    """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM asset WHERE organisation_id = :organisation AND id = ANY(CAST(:targets AS bigint[]))
        UNION
        SELECT l.target_id FROM link l JOIN reached r ON l.origin_id = r.id
        WHERE l.organisation_id = :organisation AND l.ended_at IS NULL
    )
    SELECT a.id, a.type, a.key, a.clearance, a.declared, a.first_seen FROM asset a JOIN reached r ON r.id = a.id
    WHERE a.organisation_id = :organisation AND a.present ORDER BY a.type, a.key
    """
)
LINKS = text(
    """
    SELECT DISTINCT origin_id, target_id, type FROM link
    WHERE organisation_id = :organisation AND ended_at IS NULL
      AND origin_id = ANY(CAST(:ids AS bigint[])) AND target_id = ANY(CAST(:ids AS bigint[]))
    ORDER BY origin_id, target_id, type
    """
)
FINDINGS = text(
    """
    SELECT f.id, f.asset_id, f."check", f.item, f.severity, f.text, f.params, f.state, f.first_seen, f.opened_at,
           f.resolved_at, f.state_reason, a.type, a.key
    FROM finding f JOIN asset a ON a.organisation_id = f.organisation_id AND a.id = f.asset_id
    WHERE f.organisation_id = :organisation
      AND ((f.state <> 'resolved' AND f.asset_id = ANY(CAST(:ids AS bigint[])))
           OR (f.state = 'resolved' AND f.resolved_at > CAST(:since AS timestamptz)
               AND (NOT a.present OR f.asset_id = ANY(CAST(:ids AS bigint[])))))
    ORDER BY f.asset_id, f."check", f.item
    """
)
TROUBLE = text(
    """
    SELECT s.scanner, s.state, s.reason, a.type, a.key FROM source s
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE s.organisation_id = :organisation AND s.asset_id = ANY(CAST(:ids AS bigint[]))
      AND s.state IN ('failed', 'blocked') AND s.last_ended_at >= :since
    ORDER BY a.type, a.key, s.scanner
    """
)
PREVIOUS = text(
    """
    SELECT id, started_at, ended_at FROM scan
    WHERE organisation_id = :organisation AND ended_at IS NOT NULL AND ended_at <= :before AND id <> :scan
      AND EXISTS (SELECT 1 FROM jsonb_array_elements_text(targets) AS one(target)
                  WHERE one.target = ANY(CAST(:targets AS text[])))
    ORDER BY ended_at DESC LIMIT 1
    """
)


class AssetRef(msgspec.Struct, frozen=True, order=True):
    """An asset by type and key."""

    type: str
    key: str


class AssetRow(msgspec.Struct, frozen=True):
    """An asset of the scan."""

    type: str
    key: str
    clearance: int
    declared: bool
    first_seen: datetime


class LinkRow(msgspec.Struct, frozen=True):
    """A link between two assets of the scan."""

    type: str
    origin: AssetRef
    target: AssetRef


class Ground(msgspec.Struct, frozen=True):
    """How it is known: which fact, from which scanner, last confirmed when."""

    fact: str
    scanner: str
    confirmed_at: datetime


class FindingRow(msgspec.Struct, frozen=True):
    """A check that fails for an asset, with its items.

    `shown_by` are the websites and services that present a certificate, whose own name says little to people.
    `unmeasured` is "" or why this could not be measured again.
    """

    severity: str
    asset: AssetRef
    check: str
    title: str
    items: list[str]
    state: str
    since: datetime
    known_by: list[Ground]
    risk: str
    fix: str
    reference: str
    shown_by: list[AssetRef] = []
    unmeasured: str = ""


class CoverageRow(msgspec.Struct, frozen=True):
    """What a check says of an asset; `reason` is why it is unknown."""

    check: str
    asset: AssetRef
    reason: str = ""


class Coverage(msgspec.Struct, frozen=True, rename={"passed": "pass", "failed": "fail"}):
    """Every applicable check of every asset, in one of three lists."""

    passed: list[CoverageRow]
    failed: list[CoverageRow]
    unknown: list[CoverageRow]


class Change(msgspec.Struct, frozen=True):
    """A finding that came, stayed or went since the scan before."""

    severity: str
    asset: AssetRef
    check: str
    item: str
    text: str
    reason: str = ""


class Changes(msgspec.Struct, frozen=True):
    """Against the scan before (`previous` None: this is the first)."""

    previous: datetime | None
    new: list[Change]
    still_open: list[Change]
    resolved: list[Change]
    not_measured: list[Change]


class Trouble(msgspec.Struct, frozen=True):
    """A scanner that failed or was refused in this scan."""

    scanner: str
    asset: AssetRef
    outcome: str
    reason: str


class Contents(msgspec.Struct, frozen=True):
    """The whole document."""

    form: int
    organisation: str
    targets: list[str]
    started_at: datetime
    ended_at: datetime
    complete: bool
    incomplete_because: str
    findings: list[FindingRow]
    coverage: Coverage
    assets: list[AssetRow]
    links: list[LinkRow]
    changes: Changes
    troubles: list[Trouble]


class Scan(msgspec.Struct, frozen=True):
    """The scan to tell about."""

    id: int
    organisation_id: int
    organisation: str
    targets: list[str]
    target_ids: list[int]
    started_at: datetime
    ended_at: datetime
    incomplete_because: str = ""


def build(connection: Connection, scan: Scan, registry: Registry) -> Contents:
    """Reads everything that is known now about what the scan's targets lead to."""
    asked = {"organisation": scan.organisation_id, "targets": scan.target_ids}
    rows = {row.id: row for row in connection.execute(REACHED, asked)}
    refs = {number: AssetRef(row.type, row.key) for number, row in rows.items()}
    asked = {"organisation": scan.organisation_id, "ids": sorted(rows)}
    covered = list(coverage.read(connection, scan.organisation_id, registry, scan.ended_at, sorted(rows)))
    previous = connection.execute(
        PREVIOUS,
        {"organisation": scan.organisation_id, "before": scan.started_at, "scan": scan.id, "targets": scan.targets},
    ).first()
    since = previous.ended_at if previous is not None else scan.started_at
    found = connection.execute(FINDINGS, {**asked, "since": since}).all()
    unknown = {(entry.asset_id, entry.check): entry.reason for entry in covered if entry.outcome == "unknown"}
    troubles = [
        Trouble(row.scanner, AssetRef(row.type, row.key), row.state, row.reason)
        for row in connection.execute(TROUBLE, {**asked, "since": scan.started_at})
    ]
    links = [LinkRow(row.type, refs[row.origin_id], refs[row.target_id]) for row in connection.execute(LINKS, asked)]
    open_ones = [row for row in found if row.state != "resolved"]
    findings = _findings(connection, scan, registry, open_ones, unknown, _shown_by(links))
    return Contents(
        form=FORM,
        organisation=scan.organisation,
        targets=scan.targets,
        started_at=scan.started_at,
        ended_at=scan.ended_at,
        complete=not scan.incomplete_because,
        incomplete_because=scan.incomplete_because,
        findings=findings,
        coverage=_coverage(covered),
        assets=[AssetRow(row.type, row.key, row.clearance, row.declared, row.first_seen) for row in rows.values()],
        links=links,
        changes=_changes(found, unknown, previous.ended_at if previous is not None else None),
        troubles=troubles,
    )


def _coverage(covered: Iterable[coverage.Covered]) -> Coverage:
    made: dict[str, list[CoverageRow]] = {"pass": [], "fail": [], "unknown": []}
    for entry in covered:
        ref = AssetRef(model.type_of(entry.asset), entry.asset.key)
        made[entry.outcome].append(CoverageRow(entry.check, ref, entry.reason))
    for listed in made.values():
        listed.sort(key=lambda row: (row.asset, row.check))
    return Coverage(made["pass"], made["fail"], made["unknown"])


def _findings(
    connection: Connection,
    scan: Scan,
    registry: Registry,
    found: Sequence[Any],
    unknown: Mapping[tuple[int, str], str],
    shown_by: Mapping[AssetRef, list[AssetRef]],
) -> list[FindingRow]:
    groups: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for row in found:
        groups[row.asset_id, row.check].append(row)
    picture = needs.read(
        connection, scan.organisation_id, sorted({asset for asset, _ in groups}), registry, scan.ended_at
    )
    made = [_finding(registry, picture, key, rows, unknown.get(key, ""), shown_by) for key, rows in groups.items()]
    return sorted(made, key=lambda row: (rank(row.severity), row.asset, row.check))


def _shown_by(links: Iterable[LinkRow]) -> dict[AssetRef, list[AssetRef]]:
    found: dict[AssetRef, list[AssetRef]] = defaultdict(list)
    for link in links:
        if link.type == "presents":
            found[link.target].append(link.origin)
    return found


def _finding(
    registry: Registry,
    picture: needs.Picture,
    key: tuple[int, str],
    rows: Sequence[Any],
    unmeasured: str,
    shown_by: Mapping[AssetRef, list[AssetRef]],
) -> FindingRow:
    spec = registry.checks.get(key[1])
    grounds: set[tuple[str, str, datetime]] = set()
    if spec is not None and key[0] in picture.rows:
        for need in spec.needs:
            known = picture.measured(picture.rows[key[0]], need).facts.known
            grounds |= {(need.fact.kind, entry.scanner, entry.confirmed_at) for entry in known}
    first = rows[0]
    return FindingRow(
        severity=min((row.severity for row in rows), key=rank),
        asset=AssetRef(first.type, first.key),
        check=key[1],
        title=spec.title if spec else key[1],
        items=[sentence(row.text, row.params) for row in rows],
        state=first.state if len({row.state for row in rows}) == 1 else "open",
        since=min(row.opened_at for row in rows),
        known_by=[Ground(*ground) for ground in sorted(grounds)],
        risk=spec.risk if spec else "",
        fix=spec.fix if spec else "",
        reference=spec.reference if spec else "",
        shown_by=shown_by.get(AssetRef(first.type, first.key), []),
        unmeasured=unmeasured,
    )


def sentence(template: str, params: Mapping[str, Any]) -> str:
    """The text of an item with its values; a template that doesn't fit its values is shown as it is."""
    try:
        return template.format(**params)
    except (LookupError, ValueError, AttributeError, TypeError):
        return template


def _changes(found: Sequence[Any], unknown: Mapping[tuple[int, str], str], previous: datetime | None) -> Changes:
    lists: dict[str, list[Change]] = {"new": [], "still_open": [], "resolved": [], "not_measured": []}
    for row in found:
        reason = unknown.get((row.asset_id, row.check), "")
        if row.state == "resolved":
            place, reason = "resolved", row.state_reason
        elif reason:
            place = "not_measured"
        elif previous is None or row.opened_at > previous:
            place = "new"
        else:
            place = "still_open"
        ref = AssetRef(row.type, row.key)
        lists[place].append(Change(row.severity, ref, row.check, row.item, sentence(row.text, row.params), reason))
    for listed in lists.values():
        listed.sort(key=lambda change: (rank(change.severity), change.asset, change.check, change.item))
    return Changes(previous, **lists)

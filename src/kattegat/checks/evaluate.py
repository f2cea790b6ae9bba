"""Runs the checks of what has changed, stores the verdicts that are not pass, and moves the findings.

A verdict of unknown because a need was not measured is not stored (it is the source's state, expanded on reading) and
changes nothing: an open finding stays open until its evidence says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from kattegat.checks import findings, judge, needs
from kattegat.model.verdict import Fail, Unknown
from kattegat.registry import Registry

DEPENDENTS = text(
    """
    SELECT CAST(unnest(CAST(:ids AS bigint[])) AS bigint) AS id
    UNION
    SELECT origin_id FROM link
    WHERE organisation_id = :organisation AND ended_at IS NULL
      AND target_id = ANY(CAST(:ids AS bigint[])) AND type = ANY(CAST(:along AS text[]))
    UNION
    SELECT target_id FROM link
    WHERE organisation_id = :organisation AND ended_at IS NULL
      AND origin_id = ANY(CAST(:ids AS bigint[])) AND type = ANY(CAST(:against AS text[]))
    """
)
STORED = text(
    """
    SELECT asset_id, "check", outcome, reason, items, version FROM verdict
    WHERE organisation_id = :organisation AND asset_id = ANY(CAST(:ids AS bigint[]))
    """
)
STORE = text(
    """
    INSERT INTO verdict (organisation_id, asset_id, "check", outcome, reason, items, version, decided_at)
    SELECT :organisation, r.asset_id, r."check", r.outcome, r.reason, r.items, r.version, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
      AS r(asset_id bigint, "check" text, outcome text, reason text, items jsonb, version integer)
    ON CONFLICT (organisation_id, asset_id, "check") DO UPDATE
    SET outcome = excluded.outcome, reason = excluded.reason, items = excluded.items,
        version = excluded.version, decided_at = excluded.decided_at
    """
)
REMOVE = text(
    """
    DELETE FROM verdict v USING jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(asset_id bigint, "check" text)
    WHERE v.organisation_id = :organisation AND v.asset_id = r.asset_id AND v."check" = r."check"
    """
)
EVENTS = text(
    """
    INSERT INTO verdict_event (organisation_id, at, asset_id, "check", was, became, reason)
    SELECT :organisation, :now, r.asset_id, r."check", r.was, r.became, r.reason
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
      AS r(asset_id bigint, "check" text, was text, became text, reason text)
    """
)
DUE = text(
    """
    WITH asked AS (SELECT unnest(CAST(:ids AS bigint[])) AS id, unnest(CAST(:times AS timestamptz[])) AS due_at),
    gone AS (
        DELETE FROM check_due d USING asked
        WHERE d.organisation_id = :organisation AND d.id = asked.id AND asked.due_at IS NULL
    )
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT :organisation, id, due_at FROM asked WHERE due_at IS NOT NULL
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = excluded.due_at
    """
)
TAKE_DUE = text(
    """
    SELECT organisation_id, id FROM check_due WHERE due_at <= :now
    ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED
    """
)
CHANGED_CHECKS = text(
    """
    WITH seen AS (
        SELECT r.name, r.version, r.about FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(name text, version integer, about text)
    ), changed AS (
        INSERT INTO vocabulary (list, name, detail)
        SELECT 'check', name, jsonb_build_object('version', version, 'about', about) FROM seen
        ON CONFLICT (list, name) DO UPDATE SET detail = excluded.detail
        WHERE vocabulary.detail IS DISTINCT FROM excluded.detail
        RETURNING detail->>'about' AS about
    )
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT a.organisation_id, a.id, :now FROM asset a
    WHERE a.present AND a.type IN (SELECT about FROM changed)
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = least(check_due.due_at, excluded.due_at)
    """
)


class Evaluated(NamedTuple):
    """How many assets were looked at, how many checks ran, how many verdicts changed."""

    assets: int
    checks: int
    changed: int


def evaluate(
    connection: Connection,
    organisation: int,
    ids: Collection[int],
    registry: Registry,
    now: datetime,
    options: Mapping[str, Any] | None = None,
) -> Evaluated:
    """Judges these assets and those whose checks look at them over a link; a fixed number of statements."""
    if not ids:
        return Evaluated(0, 0, 0)
    along, against = needs.links_used(registry.checks.values())
    asked = {"organisation": organisation, "ids": sorted(ids), "along": along, "against": against}
    subjects = sorted(connection.execute(DEPENDENTS, asked).scalars())
    picture = needs.read(connection, organisation, subjects, registry, now)
    stored = {
        (row.asset_id, row.check): row
        for row in connection.execute(STORED, {"organisation": organisation, "ids": subjects})
    }
    changes = _Changes(now)
    checks = 0
    due: dict[int, datetime | None] = dict.fromkeys(subjects)
    for subject in subjects:
        row = picture.rows.get(subject)
        if row is None:
            continue
        for spec in registry.checks.values():
            if not judge.applies(spec, row):
                continue
            old = stored.pop((subject, spec.name), None)
            if not row.present:
                changes.withdraw(subject, spec.name, old, "the asset is no longer present")
                continue
            checks += 1
            judged = judge.judge(spec, row, picture, judge.options_of(spec, options or {}))
            if judged.until is not None:
                due[subject] = min(due[subject] or judged.until, judged.until)
            if judged.measured:
                changes.decide(subject, spec, old, judged.verdict)
    # What is left was said by checks that are no longer there.
    for (subject, name), old in stored.items():
        if name not in registry.checks:
            changes.withdraw(subject, name, old, f"the check {name} is no longer installed")
    _write(connection, organisation, changes, subjects, due, now)
    return Evaluated(len(subjects), checks, len(changes.events))


def evaluate_due(
    connection: Connection, registry: Registry, now: datetime, *, most: int = 500, options: Any = None
) -> Evaluated:
    """Judges again what time alone has made due: certificates that expire, facts that grow stale."""
    taken: dict[int, list[int]] = {}
    for row in connection.execute(TAKE_DUE, {"now": now, "most": most}):
        taken.setdefault(row.organisation_id, []).append(row.id)
    done = Evaluated(0, 0, 0)
    for organisation, ids in sorted(taken.items()):
        chosen = options(connection, organisation) if options is not None else None
        part = evaluate(connection, organisation, ids, registry, now, chosen)
        done = Evaluated(done.assets + part.assets, done.checks + part.checks, done.changed + part.changed)
    return done


def recheck_changed(connection: Connection, registry: Registry, now: datetime) -> None:
    """Makes the assets due whose checks are new to this install or have another version than the last time."""
    rows = [{"name": spec.name, "version": spec.version, "about": spec.about.type} for spec in registry.checks.values()]
    connection.execute(CHANGED_CHECKS, {"rows": json.dumps(rows), "now": now})


class _Changes:
    """What there is to write, collected."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.store: list[dict[str, Any]] = []
        self.remove: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.moves: list[findings.Move] = []

    def decide(self, asset: int, spec: Any, old: Any, verdict: Any) -> None:
        items = [msgspec.to_builtins(item) for item in verdict.items] if isinstance(verdict, Fail) else []
        outcome = "fail" if isinstance(verdict, Fail) else "unknown" if isinstance(verdict, Unknown) else "pass"
        reason = verdict.reason if isinstance(verdict, Unknown) else ""
        was = old.outcome if old is not None else "pass"
        if outcome == "pass":
            if old is not None:
                self.remove.append({"asset_id": asset, "check": spec.name})
        elif (old is None) or (old.outcome, old.reason, old.items, old.version) != (
            outcome, reason, items, spec.version,
        ):  # fmt: skip
            self.store.append(
                {"asset_id": asset, "check": spec.name, "outcome": outcome, "reason": reason, "items": items}
                | {"version": spec.version}
            )
        if was != outcome:
            self.events.append({"asset_id": asset, "check": spec.name, "was": was, "became": outcome, "reason": reason})
        # A finding is open only where a verdict is stored, so a first pass has none to resolve.
        if outcome != "unknown" and (items or old is not None):
            self.moves.append(findings.Move(asset, spec.name, spec.severity, items, ""))

    def withdraw(self, asset: int, check: str, old: Any, why: str) -> None:
        if old is not None:
            self.moves.append(findings.Move(asset, check, "low", [], why))
            self.remove.append({"asset_id": asset, "check": check})
            self.events.append({"asset_id": asset, "check": check, "was": old.outcome, "became": "gone", "reason": why})


def _write(
    connection: Connection,
    organisation: int,
    changes: _Changes,
    subjects: list[int],
    due: Mapping[int, datetime | None],
    now: datetime,
) -> None:
    asked = {"organisation": organisation, "now": now}
    if changes.store:
        connection.execute(STORE, {**asked, "rows": json.dumps(changes.store)})
    if changes.remove:
        connection.execute(REMOVE, {**asked, "rows": json.dumps(changes.remove)})
    if changes.events:
        connection.execute(EVENTS, {**asked, "rows": json.dumps(changes.events)})
    findings.move(connection, organisation, changes.moves, now)
    connection.execute(
        DUE, {"organisation": organisation, "ids": subjects, "times": [due[subject] for subject in subjects]}
    )

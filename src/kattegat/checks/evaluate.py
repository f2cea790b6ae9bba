"""Runs the checks of what has changed, stores the verdicts that are not pass, and moves the findings.

A verdict of unknown because a need was not measured is not stored (it is the source's state, expanded on reading) and
changes nothing: an open finding stays open until its evidence says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from kattegat.checks import findings, judge, needs
from kattegat.inventory import claim, planning, presence
from kattegat.model.verdict import Fail, Item, Unknown
from kattegat.plugin import CheckSpec
from kattegat.registry import Registry

# The organisation comes out of a sub-query with OFFSET 0 where rows are changed: to a constant the planner would apply
# the key's first column alone, and compare every row of the organisation with every row that is asked for.
DEPENDENTS = text(
    """
    SELECT l.origin_id AS id
    FROM unnest(CAST(:ids AS bigint[])) AS s(id) CROSS JOIN unnest(CAST(:along AS text[])) AS t(type)
    CROSS JOIN LATERAL (SELECT l.origin_id FROM link l
                        WHERE l.organisation_id = :organisation AND l.target_id = s.id AND l.ended_at IS NULL
                          AND l.type BETWEEN t.type AND t.type ORDER BY l.type OFFSET 0) l
    UNION
    SELECT l.target_id
    FROM unnest(CAST(:ids AS bigint[])) AS s(id) CROSS JOIN unnest(CAST(:against AS text[])) AS t(type)
    CROSS JOIN LATERAL (SELECT l.target_id FROM link l
                        WHERE l.organisation_id = :organisation AND l.origin_id = s.id AND l.ended_at IS NULL
                          AND l.type BETWEEN t.type AND t.type ORDER BY l.type OFFSET 0) l
    """
)
STORED = text(
    """
    SELECT v.asset_id, v."check", v.outcome, v.reason, v.items, v.version
    FROM unnest(CAST(:ids AS bigint[])) AS s(id)
    CROSS JOIN LATERAL (SELECT * FROM verdict v
                        WHERE v.organisation_id = :organisation AND v.asset_id = s.id OFFSET 0) v
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
    DELETE FROM verdict v
    USING (SELECT CAST(:organisation AS bigint) AS organisation_id, asset_id, "check"
           FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(asset_id bigint, "check" text) OFFSET 0) r
    WHERE v.organisation_id = r.organisation_id AND v.asset_id = r.asset_id AND v."check" = r."check"
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
        DELETE FROM check_due d
        USING (SELECT CAST(:organisation AS bigint) AS organisation_id, id FROM asked
               WHERE due_at IS NULL OFFSET 0) a
        WHERE d.organisation_id = a.organisation_id AND d.id = a.id
    )
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT :organisation, id, due_at FROM asked WHERE due_at IS NOT NULL
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = excluded.due_at
    """
)
# Not all checks of these were run, so what is due earlier stays.
DUE_TOO = text(
    """
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT :organisation, n.id, n.due_at
    FROM unnest(CAST(:ids AS bigint[]), CAST(:times AS timestamptz[])) AS n(id, due_at)
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = least(check_due.due_at, excluded.due_at)
    """
)
FIND_DUE = text(
    """
    SELECT organisation_id, id FROM check_due
    WHERE due_at <= :now AND (CAST(:organisation AS bigint) IS NULL OR organisation_id = :organisation)
    ORDER BY due_at LIMIT :most
    """
)
STILL_DUE = text(
    """
    SELECT id FROM check_due
    WHERE organisation_id = :organisation AND due_at <= :now AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id
    """
)
CHANGED_CHECKS = text(
    """
    WITH seen AS (
        SELECT r.name, r.version, r.about FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(name text, version integer, about text)
    ), former AS (
        DELETE FROM vocabulary v WHERE v.list = 'check' AND v.name NOT IN (SELECT name FROM seen)
        RETURNING v.name
    ), changed AS (
        INSERT INTO vocabulary (list, name, detail)
        SELECT 'check', name, jsonb_build_object('version', version, 'about', about) FROM seen
        ON CONFLICT (list, name) DO UPDATE SET detail = excluded.detail
        WHERE vocabulary.detail IS DISTINCT FROM excluded.detail
        RETURNING name, detail->>'about' AS about
    )
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT a.organisation_id, a.id, :now FROM asset a
    WHERE a.present AND a.type IN (SELECT about FROM changed)
    UNION
    -- What such a check said of assets that it does not look at any more, or that nothing looks at.
    SELECT v.organisation_id, v.asset_id, :now FROM verdict v
    WHERE v."check" IN (SELECT name FROM changed UNION ALL SELECT name FROM former)
    ON CONFLICT (organisation_id, id) DO UPDATE SET due_at = least(check_due.due_at, excluded.due_at)
    """
)


DUE_FOR_OPTION = text(
    """
    INSERT INTO check_due (organisation_id, id, due_at)
    SELECT a.organisation_id, a.id, clock_timestamp() FROM asset a
    WHERE a.present AND a.type = :type
      AND (CAST(:organisation AS bigint) IS NULL OR a.organisation_id = :organisation)
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
    *,
    seen: Collection[int] | None = None,
) -> Evaluated:
    """Judges these assets and those whose checks look at them over a link; a fixed number of statements.

    Waits for who else records or judges this organisation, so that the last to judge has seen everything.

    `seen` are those of the assets whose own facts or sources changed, all of them when it is None. What looks at the
    others over a link sees what it saw: a name server that one more domain names is not looked at anew by the thousands
    that named it before. Of those who only look at the assets, no checks are run but the ones that look over a link.
    """
    if not ids:
        return Evaluated(0, 0, 0)
    presence.lock(connection, [organisation])
    with planning.by_index(connection):
        planning.in_order(connection)
        subjects = _subjects(connection, organisation, ids, ids if seen is None else seen, registry)
        picture = needs.read(connection, organisation, subjects, registry, now)
        stored = {
            (row.asset_id, row.check): row
            for row in connection.execute(STORED, {"organisation": organisation, "ids": subjects})
        }
        asked = _Asked(registry, options or {})
        changes, due, checks = _judge(subjects, set(ids), picture, stored, asked, now)
        _write(connection, organisation, changes, set(ids), due, now)
    return Evaluated(len(subjects), checks, len(changes.events))


def _subjects(
    connection: Connection, organisation: int, ids: Collection[int], seen: Collection[int], registry: Registry
) -> list[int]:
    """These assets and those whose checks see them, in order."""
    along, against = needs.links_used(registry.checks.values())
    asked = {"organisation": organisation, "ids": sorted(seen), "along": along, "against": against}
    return sorted({*ids, *connection.execute(DEPENDENTS, asked).scalars()})


class _Asked:
    """Which checks apply to an asset, and their options: what is the same for many assets is worked out once."""

    def __init__(self, registry: Registry, in_force: Mapping[str, Any]) -> None:
        self.checks = registry.checks
        self._about: dict[type, dict[Any, list[tuple[CheckSpec, dict[str, Any]]]]] = {}
        for spec in registry.checks.values():
            alike = self._about.setdefault(spec.about, {}).setdefault(spec.applies, [])
            alike.append((spec, judge.options_of(spec, in_force)))

    def of(self, row: needs.Row) -> Iterator[tuple[CheckSpec, dict[str, Any]]]:
        """The checks that apply, with their options."""
        for applies, alike in self._about.get(type(row.asset), {}).items():
            if judge.is_true(applies, row.asset, alike[0][0].name):
                yield from alike


def _judge(
    subjects: list[int],
    whole: set[int],
    picture: needs.Picture,
    stored: dict[tuple[int, str], Any],
    asked: _Asked,
    now: datetime,
) -> tuple[_Changes, dict[int, datetime | None], int]:
    """What there is to write, when each asset is due again, and how many checks ran: all of those of `whole`."""
    changes = _Changes(now)
    checks = 0
    due: dict[int, datetime | None] = dict.fromkeys(subjects)
    for subject in subjects:
        row = picture.rows.get(subject)
        if row is None:
            continue
        for spec, options in asked.of(row):
            old = stored.pop((subject, spec.name), None)
            if subject not in whole and not any(need.link for need in spec.needs):
                continue
            if not row.present:
                changes.withdraw(subject, spec.name, old, "the asset is no longer present")
                continue
            checks += 1
            judged = judge.judge(spec, row, picture, options)
            # A time that has come would make it due for ever: it was judged at a later one.
            if judged.until is not None and judged.until > now:
                due[subject] = min(due[subject] or judged.until, judged.until)
            if judged.measured:
                changes.decide(subject, spec, old, judged)
    # What is left was said by checks that are no longer there, or look at other assets now.
    for (subject, name), old in stored.items():
        gone = "no longer applies to this asset" if name in asked.checks else "is no longer installed"
        changes.withdraw(subject, name, old, f"the check {name} {gone}")
    return changes, due, checks


def evaluate_due(
    connection: Connection,
    registry: Registry,
    now: datetime,
    *,
    most: int = 500,
    options: Any = None,
    organisation: int | None = None,
) -> Evaluated:
    """Judges again what is due: certificates that expire, facts that grow stale, clearance that was declared."""
    found: dict[int, list[int]] = {}
    for row in connection.execute(FIND_DUE, {"now": now, "most": most, "organisation": organisation}):
        found.setdefault(row.organisation_id, []).append(row.id)
    # Before any row is: whoever records locks in this order.
    presence.lock(connection, found)
    done = Evaluated(0, 0, 0)
    for owner, listed in sorted(found.items()):
        # Somebody else may have judged them while we waited.
        due = list(connection.execute(STILL_DUE, {"organisation": owner, "ids": listed, "now": now}).scalars())
        chosen = options(connection, owner) if options is not None else None
        part = evaluate(connection, owner, due, registry, now, chosen)
        done = Evaluated(done.assets + part.assets, done.checks + part.checks, done.changed + part.changed)
    return done


def recheck_option(connection: Connection, registry: Registry, check: str, organisation: int | None) -> None:
    """Makes the assets due that a check is about, after one of its options got another value (None: everywhere)."""
    spec = registry.checks.get(check)
    if spec is not None:
        connection.execute(DUE_FOR_OPTION, {"type": spec.about.type, "organisation": organisation})


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

    def decide(self, asset: int, spec: Any, old: Any, judged: judge.Judged) -> None:
        verdict = judged.verdict
        items = [_storable(item) for item in verdict.items] if isinstance(verdict, Fail) else []
        outcome = "fail" if isinstance(verdict, Fail) else "unknown" if isinstance(verdict, Unknown) else "pass"
        reason = claim.storable(verdict.reason) if isinstance(verdict, Unknown) else ""
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
            self.moves.append(findings.Move(asset, spec.name, spec.severity, items, "", bool(judged.lost)))

    def withdraw(self, asset: int, check: str, old: Any, why: str) -> None:
        if old is not None:
            self.moves.append(findings.Move(asset, check, "low", [], why))
            self.remove.append({"asset_id": asset, "check": check})
            self.events.append({"asset_id": asset, "check": check, "was": old.outcome, "became": "gone", "reason": why})


def _storable(item: Item) -> dict[str, Any]:
    """As facts are stored: what a target sent may be long, and hold what PostgreSQL does not."""
    params = {name: claim.storable(value) if isinstance(value, str) else value for name, value in item.params.items()}
    return {"key": claim.item_of(item.key), "text": claim.storable(item.text), "params": params}


def _write(
    connection: Connection,
    organisation: int,
    changes: _Changes,
    whole: set[int],
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
    times = {subject: due[subject] for subject in due if subject in whole}
    connection.execute(DUE, {"organisation": organisation, "ids": list(times), "times": list(times.values())})
    others = {subject: time for subject, time in due.items() if subject not in whole and time is not None}
    if others:
        connection.execute(DUE_TOO, {"organisation": organisation, "ids": list(others), "times": list(others.values())})

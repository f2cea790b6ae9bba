"""The life of findings: open, in progress, accepted, muted, resolved, reopened. One per (asset, check, item).

The engine opens, resolves and reopens; a person's states (in progress, accepted, muted) stay until the item is mended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

CURRENT = text(
    """
    SELECT f.id, f.asset_id, f."check", f.item, f.severity, f.text, f.params, f.state
    FROM unnest(CAST(:ids AS bigint[])) AS s(id)
    CROSS JOIN LATERAL (SELECT * FROM finding f
                        WHERE f.organisation_id = :organisation AND f.asset_id = s.id OFFSET 0) f
    """
)
OPEN = text(
    """
    INSERT INTO finding (organisation_id, asset_id, "check", item, severity, text, params, first_seen, opened_at)
    SELECT :organisation, r.asset_id, r."check", r.item, r.severity, r.text, r.params, :now, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
      AS r(asset_id bigint, "check" text, item text, severity text, text text, params jsonb)
    ON CONFLICT (organisation_id, asset_id, "check", item) DO NOTHING
    RETURNING id
    """
)
CHANGE = text(
    """
    UPDATE finding f
    SET state = r.state, severity = r.severity, text = r.text, params = r.params,
        opened_at = CASE WHEN r.state = 'reopened' AND f.state = 'resolved' THEN :now ELSE f.opened_at END,
        resolved_at = CASE WHEN r.state = 'resolved' THEN coalesce(f.resolved_at, :now) END,
        state_by = CASE WHEN f.state <> r.state THEN 'system' ELSE f.state_by END,
        state_reason = CASE WHEN f.state <> r.state THEN r.reason ELSE f.state_reason END
    FROM (SELECT CAST(:organisation AS bigint) AS organisation_id, r.*
          FROM jsonb_to_recordset(CAST(:rows AS jsonb))
            AS r(id bigint, state text, severity text, text text, params jsonb, reason text) OFFSET 0) r
    WHERE f.organisation_id = r.organisation_id AND f.id = r.id
    """
)
EVENTS = text(
    """
    INSERT INTO finding_event (organisation_id, at, finding_id, was, became, actor, reason)
    SELECT :organisation, :now, r.id, r.was, r.became, 'system', r.reason
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id bigint, was text, became text, reason text)
    """
)


class Move(NamedTuple):
    """What a check says now of an asset: the items that fail ([] when none does), and why if it is not the facts.

    With `part` not all of its facts are known now, so items that are not among these have not been seen mended.
    """

    asset: int
    check: str
    severity: str
    items: Sequence[dict[str, Any]]
    why: str
    part: bool = False


def move(connection: Connection, organisation: int, moves: Sequence[Move], now: datetime) -> None:
    """Opens, keeps, reopens and resolves findings so that those that are open are the items that fail."""
    if not moves:
        return
    asked = {"organisation": organisation, "now": now}
    ids = sorted({entry.asset for entry in moves})
    current: dict[tuple[int, str], dict[str, Any]] = {}
    for found in connection.execute(CURRENT, {"organisation": organisation, "ids": ids}):
        current.setdefault((found.asset_id, found.check), {})[found.item] = found
    opened: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for entry in moves:
        have = current.get((entry.asset, entry.check), {})
        failing = {item["key"]: item for item in entry.items}
        for key, item in failing.items():
            said = {"severity": entry.severity, "text": item["text"], "params": item.get("params", {})}
            row = have.get(key)
            if row is None:
                opened.append({"asset_id": entry.asset, "check": entry.check, "item": key} | said)
                continue
            state = "reopened" if row.state == "resolved" else row.state
            if state != row.state:
                events.append({"id": row.id, "was": row.state, "became": state, "reason": ""})
            if (state, said["severity"], said["text"], said["params"]) != (
                row.state, row.severity, row.text, row.params,
            ):  # fmt: skip
                changed.append({"id": row.id, "state": state, "reason": ""} | said)
        for key, row in have.items():
            if key not in failing and row.state != "resolved" and not entry.part:
                reason = entry.why or "the check no longer finds it"
                said = {"severity": row.severity, "text": row.text, "params": row.params}
                changed.append({"id": row.id, "state": "resolved", "reason": reason} | said)
                events.append({"id": row.id, "was": row.state, "became": "resolved", "reason": reason})
    if opened:
        numbers = connection.execute(OPEN, {**asked, "rows": json.dumps(opened)}).scalars()
        events.extend({"id": number, "was": "", "became": "open", "reason": ""} for number in numbers)
    if changed:
        connection.execute(CHANGE, {**asked, "rows": json.dumps(changed)})
    if events:
        connection.execute(EVENTS, {**asked, "rows": json.dumps(events)})

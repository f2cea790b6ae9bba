"""Pauses: no scan begins in the install, a group, an organisation, of a scanner or an asset, until it is resumed.

A pause lets a scan that runs come to its end, and its result is read and judged. Queued tasks become `paused`; what is
due stays in its schedule. Where an asset or a scanner is paused, the schedule is held with the reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError

Level = Literal["install", "group", "organisation", "scanner", "asset"]
PREFIX = "paused by "


class NotPausedError(UsageError):
    """A pause that is to be ended, and is not there."""


class Scope(msgspec.Struct, frozen=True):
    """What is paused. A scanner may be paused everywhere or, with `organisation_id`, in one organisation."""

    level: Level
    group_id: int | None = None
    organisation_id: int | None = None
    scanner: str | None = None
    asset_id: int | None = None


INSTALL = Scope("install")


class Pause(msgspec.Struct, frozen=True):
    """A pause in force."""

    id: int
    level: Level
    group_id: int | None
    organisation_id: int | None
    scanner: str | None
    asset_id: int | None
    reason: str
    set_by: str
    set_at: datetime
    until: datetime | None


def sentence(pause: str) -> str:
    """SQL: why something waits that a pause covers."""
    return f"'{PREFIX}' || {pause}.set_by || CASE WHEN {pause}.reason = '' THEN '' ELSE ': ' || {pause}.reason END"


def covers(pause: str, organisation: str, scanner: str, source: str) -> str:
    """SQL: whether a row of `pause` covers a scan of this organisation, scanner and source."""
    return f"""(
        {pause}.level = 'install'
        OR {pause}.level = 'group' AND EXISTS (
          SELECT FROM group_member g WHERE g.group_id = {pause}.group_id AND g.organisation_id = {organisation})
        OR {pause}.level = 'organisation' AND {pause}.organisation_id = {organisation}
        OR {pause}.level = 'scanner' AND {pause}.scanner = {scanner}
           AND ({pause}.organisation_id IS NULL OR {pause}.organisation_id = {organisation})
        OR {pause}.level = 'asset' AND {pause}.organisation_id = {organisation} AND {pause}.asset_id = (
          SELECT so.asset_id FROM source so WHERE so.organisation_id = {organisation} AND so.id = {source}))"""  # noqa: S608


COVERED = f"EXISTS (SELECT FROM pause pa WHERE {covers('pa', 't.organisation_id', 't.scanner', 't.source_id')})"
"""SQL: whether the task `t` is covered by a pause."""

# Tasks follow the pauses, whichever way: also one that came back to the queue while its scanner was paused.
FOLLOW = text(
    f"""
    WITH moved AS (
      SELECT t.id, t.state, p.why FROM task t
      LEFT JOIN LATERAL (
        SELECT {sentence("pa")} AS why FROM pause pa
        WHERE {covers("pa", "t.organisation_id", "t.scanner", "t.source_id")} ORDER BY pa.id LIMIT 1
      ) AS p ON true
      WHERE t.kind = 'scan' AND t.state IN ('queued', 'paused') AND (t.state = 'paused') <> (p.why IS NOT NULL)
      ORDER BY t.id FOR UPDATE OF t
    ), done AS (
      UPDATE task t SET state = CASE moved.state WHEN 'queued' THEN 'paused' ELSE 'queued' END,
          reason = coalesce(moved.why, '')
      FROM moved WHERE t.id = moved.id RETURNING t.id, moved.state AS was, t.state, t.reason
    ), noted AS (
      INSERT INTO task_event (task_id, was, became, "by", reason) SELECT id, was, state, :by, reason FROM done
    )
    SELECT id FROM done
    """  # noqa: S608 - constants
)
SET = text(
    """
    INSERT INTO pause (level, group_id, organisation_id, scanner, asset_id, reason, set_by, until)
    VALUES (:level, :group_id, :organisation_id, :scanner, :asset_id, :reason, :by, :until)
    ON CONFLICT ON CONSTRAINT uq_pause_place
    DO UPDATE SET reason = excluded.reason, set_by = excluded.set_by, set_at = now(), until = excluded.until
    """
)
UNSET = text(
    """
    DELETE FROM pause
    WHERE level = :level AND group_id IS NOT DISTINCT FROM CAST(:group_id AS bigint)
      AND organisation_id IS NOT DISTINCT FROM CAST(:organisation_id AS bigint)
      AND scanner IS NOT DISTINCT FROM CAST(:scanner AS text)
      AND asset_id IS NOT DISTINCT FROM CAST(:asset_id AS bigint)
    """
)
HOLD_ASSET = text(
    f"""
    UPDATE schedule h SET hold = {sentence("p")}
    FROM pause p JOIN source s ON s.organisation_id = p.organisation_id AND s.asset_id = p.asset_id
    WHERE p.level = 'asset' AND p.organisation_id = :organisation_id AND p.asset_id = :asset_id
      AND h.organisation_id = s.organisation_id AND h.id = s.id AND (h.hold = '' OR h.hold LIKE '{PREFIX}%')
    """  # noqa: S608 - constants
)
# What a pause that is gone held is free again, unless another covers it (then the dispatcher holds it anew).
FREE = text(
    f"""
    UPDATE schedule h SET hold = ''
    WHERE h.hold LIKE '{PREFIX}%'
      AND (CAST(:organisation_id AS bigint) IS NULL OR h.organisation_id = :organisation_id)
      AND NOT EXISTS (SELECT FROM pause p WHERE p.level IN ('asset', 'scanner') AND h.hold = {sentence("p")})
    """  # noqa: S608 - constants
)
LIST = text(
    "SELECT id, level, group_id, organisation_id, scanner, asset_id, reason, set_by, set_at, until"
    " FROM pause ORDER BY id"
)


def pause(conn: Connection, scope: Scope, by: str, reason: str, until: datetime | None = None) -> list[int]:
    """Pauses; gives the tasks that waited and are paused now. A pause that is there already gets the new reason."""
    conn.execute(SET, {**_place(scope), "reason": reason, "by": by, "until": until})
    if scope.level == "asset":
        conn.execute(HOLD_ASSET, _place(scope))
    told = {name: value for name, value in _place(scope).items() if value is not None}
    detail = {**told, "reason": reason, "until": until.isoformat() if until else None}
    audit.write(conn, by, "pause.set", scope.level, detail, scope.organisation_id)
    return follow(conn, by)


def resume(conn: Connection, scope: Scope, by: str, reason: str = "") -> list[int]:
    """Ends a pause; gives the tasks that are queued again. Raises `NotPausedError`."""
    if not conn.execute(UNSET, _place(scope)).rowcount:
        raise NotPausedError(f"This {scope.level} is not paused; kat pauses lists what is.")
    if scope.level in ("asset", "scanner"):
        conn.execute(FREE, _place(scope))
    told = {name: value for name, value in _place(scope).items() if value is not None}
    audit.write(conn, by, "pause.end", scope.level, {**told, "reason": reason}, scope.organisation_id)
    return follow(conn, by)


def listed(conn: Connection) -> list[Pause]:
    """Every pause in force, oldest first."""
    return [Pause(*row) for row in conn.execute(LIST)]


def follow(conn: Connection, by: str = "scheduler") -> list[int]:
    """Pauses and frees tasks as the pauses say now; gives those that changed."""
    return list(conn.execute(FOLLOW, {"by": by}).scalars())


def tick(conn: Connection) -> list[int]:
    """Ends the pauses whose time is over, and has the tasks follow; for the scheduler, at each round."""
    moved: list[int] = []
    for over in listed(conn):
        if (
            over.until is not None
            and conn.execute(text("SELECT until <= now() FROM pause WHERE id = :id"), {"id": over.id}).scalar()
        ):
            scope = Scope(over.level, over.group_id, over.organisation_id, over.scanner, over.asset_id)
            moved += resume(conn, scope, audit.SYSTEM, "its time is over")
    return [*moved, *follow(conn)]


def _place(scope: Scope) -> dict[str, object]:
    return msgspec.structs.asdict(scope)

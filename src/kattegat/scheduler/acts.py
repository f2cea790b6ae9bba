"""What a person does to the queue: run now, cancel, retry, prioritise; each with who and why in the audit trail."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError
from kattegat.scheduler import dispatch, history, listing, queue, turns

PLACES = {"first": queue.PERSON, "usual": queue.USUAL, "last": queue.LAST}

STANDING = text(
    """
    SELECT t.id, t.organisation_id, t.kind, t.state, t.leased_by FROM task t
    WHERE t.id = ANY(CAST(:ids AS bigint[])) AND (CAST(:organisations AS bigint[]) IS NULL
      OR t.organisation_id = ANY(CAST(:organisations AS bigint[])))
    ORDER BY t.id
    """
)
PRIORITISE = text(
    f"""
    WITH mine AS (
      SELECT id FROM task WHERE id = ANY(CAST(:ids AS bigint[])) AND state IN ('queued', 'paused')
      ORDER BY id FOR UPDATE
    )
    UPDATE task t SET priority = :priority,
        turn = {turns.next_("t.kind", turns.lane(":priority"), "t.organisation_id")}
    FROM mine WHERE t.id = mine.id RETURNING t.id
    """  # noqa: S608 - constants
)
SOURCES = text(
    """
    SELECT id FROM source
    WHERE organisation_id = :organisation AND asset_id = :asset AND kind = 'scanner'
      AND (CAST(:scanners AS text[]) IS NULL OR scanner = ANY(CAST(:scanners AS text[])))
    ORDER BY id
    """
)


class Done(NamedTuple):
    """The tasks that an act was done to, and the others that were named, each with the reason why not."""

    tasks: list[int]
    refused: dict[int, str]


def run_now(
    conn: Connection,
    organisation_id: int,
    asset_id: int,
    by: str,
    reason: str = "",
    *,
    scanners: Collection[str] | None = None,
) -> dispatch.Requested:
    """Makes an asset's scanners (None: all of them) due now, before everything else; what is held says why."""
    asked = {"organisation": organisation_id, "asset": asset_id}
    sources = list(conn.execute(SOURCES, {**asked, "scanners": None if scanners is None else list(scanners)}).scalars())
    if not sources:
        raise UsageError("No scanner is about this asset; kat plugins list shows what each is about.")
    done = dispatch.request(conn, organisation_id, sources, by)
    detail = {"reason": reason, "sources": done.asked, "held": {str(key): why for key, why in done.held.items()}}
    audit.write(conn, by, "scan.run-now", str(asset_id), detail, organisation_id)
    return done


def cancel(
    conn: Connection, ids: Collection[int], by: str, reason: str, *, organisations: Collection[int] | None = None
) -> Done:
    """Ends open tasks without a result. A runner that works on one learns it within two seconds and stops the scan."""
    found = _standing(conn, ids, organisations)
    done = set(queue.cancel(conn, list(found), by, f"cancelled by {by}" + (f": {reason}" if reason else "")))
    return _told(conn, "task.cancel", ids, found, done, by, reason, "only what waits or runs can be cancelled")


def retry(
    conn: Connection, ids: Collection[int], by: str, reason: str, *, organisations: Collection[int] | None = None
) -> Done:
    """Queues failed, dead and cancelled tasks anew, with all their tries; also out of the history."""
    allowed = (
        listing.tasks(conn, listing.Filter(organisations=organisations, ids=ids), limit=len(ids) or 1) if ids else []
    )
    history.back(conn, [task.id for task in allowed])
    found = _standing(conn, ids, organisations)
    done = set(queue.retry(conn, list(found), by, reason or "to be tried again"))
    why = "only what failed, died or was cancelled can be tried again, and only while its source has no other task open"
    return _told(conn, "task.retry", ids, found, done, by, reason, why)


def prioritise(
    conn: Connection,
    ids: Collection[int],
    place: str,
    by: str,
    reason: str,
    *,
    organisations: Collection[int] | None = None,
) -> Done:
    """Moves waiting tasks: `first` of all, `usual`, or `last`, when nothing else waits. Raises `UsageError`."""
    if place not in PLACES:
        raise UsageError(f"A task can't be put {place!r}; it is one of {', '.join(PLACES)}.")
    found = _standing(conn, ids, organisations)
    moved = conn.execute(PRIORITISE, {"ids": list(found), "priority": PLACES[place]})
    done = set(moved.scalars())
    return _told(conn, "task.prioritise", ids, found, done, by, reason, "only what waits has a place", place=place)


def _standing(conn: Connection, ids: Collection[int], organisations: Collection[int] | None) -> dict[int, Any]:
    parameters = {"ids": list(ids), "organisations": None if organisations is None else list(organisations)}
    return {row.id: row for row in conn.execute(STANDING, parameters)}


def _told(
    conn: Connection,
    act: str,
    ids: Collection[int],
    found: dict[int, Any],
    done: set[int],
    by: str,
    reason: str,
    why_not: str,
    **more: str,
) -> Done:
    for task_id in sorted(done):
        row = found[task_id]
        detail = {"kind": row.kind, "was": row.state, "reason": reason, **more}
        if row.leased_by and row.state == "leased":
            detail["at"] = row.leased_by
        audit.write(conn, by, act, str(task_id), detail, row.organisation_id)
    refused = {
        task_id: f"it is {found[task_id].state}: {why_not}" if task_id in found else "there is no such task"
        for task_id in ids
        if task_id not in done
    }
    return Done(sorted(done), refused)

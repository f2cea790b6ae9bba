"""The scheduler (Mula): the queue's own table, the schedules, the status added at 0007, and ids that changed form."""

# ruff: noqa: S608 - the SQL is our own, and the values in it are quoted

from __future__ import annotations

from kattegat.lifecycle.openkat.steps import Hop, TwoWay, entry, place, restore
from kattegat.schema.hints import Refresh

TASKS = "public.tasks"
SCHEDULES = "public.schedules"

_CANCELLED = entry("scheduler", "0007", "cancelled")
_STALE_ITEM = entry("scheduler", "0008", "items")

# The item of a task as the queue had it.
_ITEM = (
    "jsonb_build_object('id', {id}, 'scheduler_id', {scheduler_id}, 'hash', {hash}, 'priority', {priority},"
    " 'data', {data}, 'created_at', {created_at}, 'modified_at', {modified_at})"
)
_FIRST_ITEM = (
    "json_build_object('id', {id}, 'scheduler_id', {scheduler_id}, 'hash', {hash}, 'priority', NULL,"
    " 'data', {task}, 'created_at', {created_at}, 'modified_at', {modified_at})"
)
_DATA = "coalesce({p_item} -> 'data', jsonb_build_object())"
_TYPE = (
    "CASE WHEN coalesce({scheduler_id}, '') ~ '^(boefje|normalizer|report)(-|$)'"
    " THEN split_part({scheduler_id}, '-', 1)"
    " WHEN {p_item} -> 'data' ? 'normalizer' THEN 'normalizer' WHEN {p_item} -> 'data' ? 'boefje' THEN 'boefje'"
    " WHEN {p_item} -> 'data' ? 'report_recipe_id' THEN 'report' ELSE 'unknown' END"
)
_ORGANISATION = (
    "coalesce({data} ->> 'organization', {data} #>> ARRAY['raw_data', 'boefje_meta', 'organization'],"
    " {data} ->> 'organisation_id', substring({scheduler_id} FROM '^(?:boefje|normalizer|report)-(.*)$'), '')"
)

_QUEUE = TwoWay(
    down_words="items, the queue's table, gets a row per queued task, and loses those of tasks queued no more",
    up_words="what the newer release reads from a task is taken from its item; new hashes get a schedule",
    down=(
        "CREATE TABLE IF NOT EXISTS parked.openkat_queued (id uuid PRIMARY KEY)",
        # What has left the queue is kept on record; its task has all of it.
        "WITH gone AS (DELETE FROM [[public.items]] AS i USING parked.openkat_queued AS q WHERE q.id = i.id"
        " AND NOT EXISTS (SELECT 1 FROM public.tasks AS t WHERE t.id = i.id AND t.status::text = 'QUEUED')"
        " RETURNING i.*)"
        " INSERT INTO parked.quarantine (entry, table_name, key, contents, reason, state)"
        f" SELECT {_STALE_ITEM}, 'public.items', jsonb_build_object('id', id), to_jsonb(gone),"
        " 'its task has left the queue', 'stale' FROM gone",
        "INSERT INTO [[public.items]] (id, scheduler_id, hash, priority, data, created_at, modified_at)"
        " SELECT t.id, t.scheduler_id, t.[[public.tasks.hash]], t.[[public.tasks.priority]],"
        " t.[[public.tasks.data]], t.created_at, t.modified_at FROM public.tasks AS t WHERE t.status::text = 'QUEUED'"
        " AND NOT EXISTS (SELECT 1 FROM parked.openkat_queued AS q WHERE q.id = t.id)"
        " AND NOT EXISTS (SELECT 1 FROM [[public.items]] AS i WHERE i.id = t.id)",
    ),
    up=(
        "CREATE TABLE IF NOT EXISTS parked.openkat_queued (id uuid PRIMARY KEY)",
        "DELETE FROM parked.openkat_queued",
        "INSERT INTO parked.openkat_queued SELECT t.id FROM public.tasks AS t WHERE t.status::text = 'QUEUED'",
        # Rows that the newer release has not seen yet have no data there.
        "UPDATE public.tasks AS t SET"
        " [[public.tasks.hash]] = CASE WHEN length(t.[[public.tasks.p_item]] ->> 'hash') <= 32"
        " THEN t.[[public.tasks.p_item]] ->> 'hash' END,"
        " [[public.tasks.priority]] = CASE WHEN t.[[public.tasks.p_item]] ->> 'priority' ~ '^-?[0-9]{1,9}$'"
        " THEN CAST(t.[[public.tasks.p_item]] ->> 'priority' AS integer) END"
        " WHERE t.[[public.tasks.data]] IS NULL",
        # As OpenKAT's own upgrade does, but for normalizers, which are never scheduled.
        "INSERT INTO [[public.schedules]] (id, scheduler_id, hash, data, enabled, schedule, deadline_at, created_at,"
        " modified_at) SELECT DISTINCT ON (t.[[public.tasks.hash]]) gen_random_uuid(), coalesce(t.scheduler_id, ''),"
        " t.[[public.tasks.hash]], coalesce(t.[[public.tasks.p_item]] -> 'data', jsonb_build_object()), true,"
        " '0 0 * * *', now() + random() * interval '1 day', now(), now() FROM public.tasks AS t"
        " WHERE t.[[public.tasks.data]] IS NULL AND t.[[public.tasks.hash]] IS NOT NULL"
        " AND coalesce(t.scheduler_id, '') !~ '^normalizer(-|$)' AND NOT EXISTS"
        " (SELECT 1 FROM [[public.schedules]] AS s WHERE s.hash = t.[[public.tasks.hash]])"
        " ORDER BY t.[[public.tasks.hash]], t.created_at DESC",
        "UPDATE public.tasks AS t SET [[public.tasks.schedule_id]] = s.id FROM [[public.schedules]] AS s"
        " WHERE t.[[public.tasks.data]] IS NULL AND s.hash = t.[[public.tasks.hash]]",
    ),
    tables=(TASKS,),
)


def _ids(table: str, which: str, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """SQL that gives a table's scheduler ids their older and their newer form."""
    name = table.removeprefix("public.")
    record = (
        "CREATE TABLE IF NOT EXISTS parked.openkat_scheduler_id"
        " (name text, id uuid, older text, newer text, PRIMARY KEY (name, id))"
    )
    # Those once seen get what they had; a row with another id than was left there is new.
    again = (
        f"UPDATE {table} AS t SET scheduler_id = r.{{to}} FROM parked.openkat_scheduler_id AS r"
        f" WHERE r.name = '{name}' AND r.id = t.id AND t.scheduler_id = r.{{fro}} AND r.older <> r.newer"
    )

    def fresh(older: str, newer: str, form: str, keep: str) -> str:
        changed = "CASE WHEN {form} THEN {other} ELSE t.scheduler_id END".replace("{form}", form)
        columns = {"older": older or changed, "newer": newer or changed}
        return (
            "INSERT INTO parked.openkat_scheduler_id (name, id, older, newer)"
            f" SELECT '{name}', t.id, {columns['older']}, {columns['newer']} FROM {table} AS t WHERE ({which})"
            " ON CONFLICT (name, id) DO UPDATE SET older = excluded.older, newer = excluded.newer"
            f" WHERE openkat_scheduler_id.{keep} <> excluded.{keep}"
        )

    known = r"t.scheduler_id IN ('boefje', 'normalizer', 'report') AND " + f"coalesce(t.{column}, '') <> ''"
    old = r"t.scheduler_id ~ '^(boefje|normalizer|report)-'"
    down_fresh = fresh("", "t.scheduler_id", known, "newer").replace("{other}", f"t.scheduler_id || '-' || t.{column}")
    up_fresh = fresh("t.scheduler_id", "", old, "older").replace("{other}", "split_part(t.scheduler_id, '-', 1)")
    return (
        (record, down_fresh, again.format(to="older", fro="newer")),
        (record, up_fresh, again.format(to="newer", fro="older")),
    )


_task_ids = _ids(TASKS, "t.status::text = 'QUEUED'", "[[public.tasks.organisation]]")
_schedule_ids = _ids(SCHEDULES, "true", "[[public.schedules.organisation]]")

# For an install that went up to 1.19 by itself: what it left is given the form that is read now.
REPAIR = (
    *(sql.replace("[[public.tasks.organisation]]", "organisation") for sql in _task_ids[1][:1]),
    "DELETE FROM parked.openkat_scheduler_id WHERE older = newer",
    *_task_ids[1][1:],
    *_schedule_ids[1][1:],
)

HOPS = {
    "0002": Hop(
        fill={
            "public.tasks.task": "coalesce({p_item} -> 'data', {p_item}, json_build_object())",
            "public.tasks.p_item": _FIRST_ITEM,
        },
        steps=(
            TwoWay(
                down_words="the hash of tasks is taken from their item",
                up_words="the hash of tasks goes into their item",
                down=(
                    "UPDATE public.tasks AS t SET [[public.tasks.hash]] = t.[[public.tasks.p_item]] ->> 'hash'"
                    " WHERE t.[[public.tasks.hash]] IS NULL AND t.[[public.tasks.p_item]] ->> 'hash' IS NOT NULL",
                ),
                tables=(TASKS,),
            ),
        ),
    ),
    "0007": Hop(
        steps=(
            TwoWay(
                down_words="cancelled tasks become failed, which the older release knows; the real status is kept",
                up_words="tasks that were cancelled, and are still failed, become cancelled again",
                down=(
                    place(_CANCELLED, TASKS, ["id"], "status", "t.status::text = 'CANCELLED'", "'FAILED'",
                          "the older release has no status CANCELLED"),
                ),
                up=(restore(_CANCELLED),),
                tables=(TASKS,),
                newer=True,
            ),
        ),
    ),
    "0008": Hop(
        fill={
            "public.tasks.p_item": _ITEM,
            "public.tasks.data": _DATA,
            "public.tasks.type": _TYPE,
            "public.tasks.scheduler_id": "coalesce({p_item} ->> 'scheduler_id', '')",
        },
        refresh={
            "public.tasks.p_item": Refresh(_ITEM, ("data", "priority", "hash", "scheduler_id")),
            "public.tasks.data": Refresh(_DATA, ("p_item",)),
        },
        steps=(_QUEUE,),
    ),
    "0009": Hop(
        fill={"public.tasks.organisation": _ORGANISATION, "public.schedules.organisation": _ORGANISATION},
        steps=(
            TwoWay(
                down_words="schedules and queued tasks get scheduler ids with the organisation, as before 1.19",
                up_words="schedules and queued tasks get scheduler ids without the organisation, as since 1.19",
                down=(*_task_ids[0], *_schedule_ids[0]),
                up=(*_task_ids[1], *_schedule_ids[1]),
                tables=(TASKS, SCHEDULES),
            ),
        ),
    ),
}  # fmt: skip

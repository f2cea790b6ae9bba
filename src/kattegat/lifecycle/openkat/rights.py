"""Rocky's permissions after its own upgrade to 1.19, which gives the content types of the crisis room new numbers."""

# ruff: noqa: S608 - the SQL is our own

from __future__ import annotations

from sqlalchemy import Connection

from kattegat.lifecycle.openkat.back import Back
from kattegat.lifecycle.openkat.steps import rocky

_HELD = f"q.entry IN ({rocky.TYPES}, {rocky.PERMISSION}) AND q.state = 'held'"


def _named(table: str) -> str:
    rows = "SELECT q.id AS held, q.contents AS c FROM parked.quarantine AS q"
    return f"{rows} WHERE replace(q.table_name, '\"', '') = 'public.{table}' AND {_HELD}"


# Old numbers of content types and permissions, by their names, to those of now.
_TYPES = (
    f"(SELECT CAST(k.c ->> 'id' AS integer) AS was, n.id AS now FROM ({_named('django_content_type')}) AS k"
    " JOIN public.django_content_type AS n ON n.app_label = k.c ->> 'app_label' AND n.model = k.c ->> 'model')"
)
_PERMISSIONS = (
    f"(SELECT CAST(k.c ->> 'id' AS integer) AS was, n.id AS now FROM ({_named('auth_permission')}) AS k"
    f" LEFT JOIN {_TYPES} AS y ON y.was = CAST(k.c ->> 'content_type_id' AS integer)"
    " JOIN public.auth_permission AS n ON n.codename = k.c ->> 'codename'"
    " AND n.content_type_id = coalesce(y.now, CAST(k.c ->> 'content_type_id' AS integer)))"
)
_GRANTS = (
    ("auth_group_permissions", "group_id", "auth_group"),
    ("account_katuser_user_permissions", "katuser_id", "account_katuser"),
)


def put_back(connection: Connection) -> list[Back]:
    """What groups and users were permitted, by the names of permissions; only where Rocky has made these itself. What
    the crisis room's pages had in the admin's log goes to the new content types."""
    fresh = connection.exec_driver_sql(
        "SELECT count(*) FROM public.django_content_type WHERE app_label = 'crisis_room'"
    ).scalar_one()
    if not fresh:
        return []
    found = []
    for table, whose, owner in _GRANTS:
        made = connection.exec_driver_sql(
            f"INSERT INTO public.{table} ({whose}, permission_id)"
            f" SELECT CAST(k.c ->> '{whose}' AS integer), p.now FROM ({_named(table)}) AS k"
            f" JOIN {_PERMISSIONS} AS p ON p.was = CAST(k.c ->> 'permission_id' AS integer)"
            f" JOIN public.{owner} AS o ON o.id = CAST(k.c ->> '{whose}' AS integer) ON CONFLICT DO NOTHING"
        ).rowcount
        found.append(Back("rocky", table, int(made), 0, "by the name of the permission"))
    log = "action_time, object_id, object_repr, action_flag, change_message, content_type_id, user_id"
    made = connection.exec_driver_sql(
        f"INSERT INTO public.django_admin_log (id, {log}) OVERRIDING SYSTEM VALUE SELECT CAST(k.c ->> 'id' AS integer),"
        " CAST(k.c ->> 'action_time' AS timestamptz), k.c ->> 'object_id', k.c ->> 'object_repr',"
        " CAST(k.c ->> 'action_flag' AS smallint), k.c ->> 'change_message', y.now, o.id"
        f" FROM ({_named('django_admin_log')}) AS k JOIN {_TYPES} AS y"
        " ON y.was = CAST(k.c ->> 'content_type_id' AS integer)"
        " JOIN public.account_katuser AS o ON o.id = CAST(k.c ->> 'user_id' AS integer) ON CONFLICT DO NOTHING"
    ).rowcount
    found.append(Back("rocky", "django_admin_log", int(made), 0, "by the name of the content type"))
    connection.exec_driver_sql(
        f"UPDATE parked.quarantine AS q SET state = 'returned', ended_at = clock_timestamp() WHERE {_HELD}"
    )
    return [one for one in found if one.back]

"""Rocky: the crisis room and its permissions, and the history of migrations as the target release would have it."""

from __future__ import annotations

import msgspec

from kattegat.lifecycle.openkat import facts, recognise
from kattegat.lifecycle.openkat.steps import Hop, TwoWay, aside, entry, take_back
from kattegat.schema import ddl
from kattegat.schema.shape import Snapshot

TYPES = entry("rocky", "1.19", "content types")
PERMISSION = entry("rocky", "1.19", "permission")
_HISTORY = "django_migrations"
_SEQUENCE = "crisis_room_dashboarditem_id_seq"

HOPS = {
    "1.18": Hop(fill={"public.account_katuser.clearance_level": "-1"}),
    "1.19": Hop(
        steps=(
            TwoWay(
                down_words="the number of dashboard items is kept with them",
                up_words="the sequence of dashboard items has the name that OpenKAT gave it",
                up=(f"ALTER SEQUENCE IF EXISTS public.{_SEQUENCE} RENAME TO crisis_room_dashboarddata_id_seq",),
            ),
        ),
    ),
}


def with_schema(newer: str, hop: Hop, schema: Snapshot) -> Hop:
    """The hop with what has to know the foreign keys of the newer schema: rows go with all that refer to them."""
    if newer != "1.19":
        return hop
    permissions = TwoWay(
        down_words="the content types and permissions of the crisis room, and the permission of schedules, are set"
        " aside with what refers to them (groups, users, the admin's log)",
        up_words="content types and permissions that were set aside come back",
        down=(
            aside(
                TYPES,
                "public.django_content_type",
                "t.app_label = 'crisis_room'",
                "the older release has no crisis room",
                schema,
            ),
            aside(
                PERMISSION,
                "public.auth_permission",
                "t.codename = 'can_enable_disable_schedule'",
                "the older release does not know this permission",
                schema,
            ),
        ),
        up=(take_back(TYPES), take_back(PERMISSION)),
        tables=("public.django_content_type", "public.auth_permission"),
        newer=True,
    )
    return msgspec.structs.replace(hop, steps=(*hop.steps, permissions))


def history(source: str, target: str, release: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """SQL that makes `django_migrations` what the code of a release would have recorded, and SQL that undoes it.

    Rows of OpenKAT's own apps only. Those too many are set aside with id and time; those missing are added.
    """
    wanted = [(app, name) for app, names in recognise.migrations_of(release).items() for name in names]
    listed = ", ".join(f"({ddl.literal(app)}, {ddl.literal(name)})" for app, name in wanted)
    own = ", ".join(ddl.literal(app) for app in facts.OWN_APPS)
    number = entry("rocky", f"{source}>{target}", _HISTORY)
    many = f"t.app IN ({own}) AND (t.app, t.name) NOT IN ({listed})"
    record = "CREATE TABLE IF NOT EXISTS parked.openkat_migration (hop text, id bigint, PRIMARY KEY (hop, id))"
    hop = ddl.literal(f"{source}>{target}")
    there = (
        record,
        aside(number, f"public.{_HISTORY}", many, f"the code of {release} does not know this migration"),
        "WITH made AS (INSERT INTO public.django_migrations (app, name, applied) SELECT w.app, w.name, now()"  # noqa: S608
        f" FROM (VALUES {listed}) AS w (app, name) WHERE NOT EXISTS (SELECT 1 FROM public.django_migrations AS m"
        " WHERE m.app = w.app AND m.name = w.name) RETURNING id)"
        f" INSERT INTO parked.openkat_migration SELECT {hop}, id FROM made ON CONFLICT DO NOTHING",
    )
    back = (
        "DELETE FROM public.django_migrations AS m USING parked.openkat_migration AS o"  # noqa: S608
        f" WHERE o.hop = {hop} AND o.id = m.id",
        f"DELETE FROM parked.openkat_migration WHERE hop = {hop}",  # noqa: S608
        take_back(number),
    )
    return there, back

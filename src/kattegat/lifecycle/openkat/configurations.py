"""KATalogus' configurations after its own upgrade to 1.17, which gives built-in plugins new numbers, never makes a
normalizer's configuration, and forgets who had enabled a boefje that another organisation has settings for."""

# ruff: noqa: S608 - names are quoted, and come from the ledger and the catalogue

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from kattegat.lifecycle.openkat.back import Back
from kattegat.lifecycle.openkat.steps import katalogus
from kattegat.schema import ddl

TABLES = frozenset({"public.boefje_config", "public.normalizer_config"})

_COLUMNS = (
    "SELECT attname, pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
    " WHERE attrelid = CAST(%s AS regclass) AND attnum > 0 AND NOT attisdropped"
)


def put_back(connection: Connection, parked: Mapping[str, str]) -> list[Back]:
    """Plugins by their name, since numbers have changed: rows that are missing are made, configurations too, and what
    was enabled is enabled again. `parked` says where the tables of configurations lie."""
    found = []
    for kind, number in (("boefje", katalogus.STATIC_BOEFJE), ("normalizer", katalogus.STATIC_NORMALIZER)):
        place = parked.get(f"public.{kind}_config")
        if place is None:
            continue
        _plugins(connection, kind, number)
        back = _configs(connection, kind, number, ddl.name(place))
        connection.exec_driver_sql(
            "UPDATE parked.quarantine SET state = 'returned', ended_at = clock_timestamp()"
            " WHERE entry = %s AND state = 'held'",
            (number,),
        )
        found.append(Back("katalogus", f"{kind}_config", back, 0, "by the name of the plugin"))
    return found


def _plugins(connection: Connection, kind: str, number: int) -> None:
    types = {row[0]: row[1] for row in connection.exec_driver_sql(_COLUMNS, (f"public.{kind}",))}
    listed = [name for name in types if name not in ("id", "static", "deduplicate")]
    values = ", ".join(f"CAST(q.contents ->> {ddl.literal(name)} AS {types[name]})" for name in listed)
    names = ", ".join(ddl.ident(name) for name in listed)
    connection.exec_driver_sql(
        f"INSERT INTO public.{kind} ({names}, static) SELECT {values}, true FROM parked.quarantine AS q"
        f" WHERE q.entry = {number} AND q.state = 'held' AND NOT EXISTS (SELECT 1 FROM public.{kind} AS n"
        " WHERE n.plugin_id = q.contents ->> 'plugin_id') ON CONFLICT DO NOTHING"
    )


def _configs(connection: Connection, kind: str, number: int, place: str) -> int:
    # The plugin that a number stood for: one that is set aside, or one of the user's own, which has kept its number.
    known = (
        f"(SELECT CAST(q.contents ->> 'id' AS integer) AS id, q.contents ->> 'plugin_id' AS plugin_id"
        f" FROM parked.quarantine AS q WHERE q.entry = {number} AND q.state = 'held'"
        f" UNION ALL SELECT u.id, u.plugin_id FROM public.{kind} AS u WHERE NOT u.static)"
    )
    kept = (
        f"(SELECT n.id, c.organisation_pk, c.enabled{', c.settings' if kind == 'boefje' else ''} FROM {place} AS c"
        f" JOIN {known} AS k ON k.id = c.{kind}_id JOIN public.{kind} AS n ON n.plugin_id = k.plugin_id"
        " JOIN public.organisation AS o ON o.pk = c.organisation_pk)"
    )
    changed = connection.exec_driver_sql(
        f"UPDATE public.{kind}_config AS f SET enabled = k.enabled FROM {kept} AS k WHERE f.{kind}_id = k.id"
        " AND f.organisation_pk = k.organisation_pk AND f.enabled <> k.enabled"
    ).rowcount
    more, values = (", settings", ", k.settings") if kind == "boefje" else ("", "")
    made = connection.exec_driver_sql(
        f"INSERT INTO public.{kind}_config ({kind}_id, organisation_pk, enabled{more})"
        f" SELECT k.id, k.organisation_pk, k.enabled{values} FROM {kept} AS k ON CONFLICT DO NOTHING"
    ).rowcount
    return int(changed + made)

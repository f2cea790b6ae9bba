"""`kat schedule ...` and `kat block ...`: when and how much is scanned, and what never is."""

from __future__ import annotations

import json as jsons
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from sqlalchemy import Connection, text

from kattegat.accounts import groups, sets, settings
from kattegat.cli.install import Install, actor, opened
from kattegat.cli.look import Json, time_of
from kattegat.cli.output import emit, table
from kattegat.cli.tasks import Reason
from kattegat.errors import UsageError
from kattegat.reports.terminal import moment
from kattegat.scheduler import blocklist, plan, regime

app = App(name="schedule", help="How often, when and how much is scanned; for the install or what is named.")
block = App(name="block", help="What is never scanned: names, addresses, networks.")

Group = Annotated[str | None, Parameter(name="--group", help="For a group of organisations.")]
Whose = Annotated[str | None, Parameter(name="--organisation", help="For this organisation only.")]
Set = Annotated[str | None, Parameter(name="--set", help="For an asset set of --organisation.")]

CODES = text("SELECT id, code FROM organisation")
SET = text(
    """
    SELECT s.name, s.value, s.level, coalesce(g.name, a.name, '') AS place, coalesce(o.code, '') AS organisation,
           s.set_by, s.set_at
    FROM setting s
    LEFT JOIN organisation_group g ON g.id = s.group_id
    LEFT JOIN organisation o ON o.id = s.organisation_id
    LEFT JOIN asset_set a ON a.organisation_id = s.organisation_id AND a.id = s.asset_set_id
    WHERE s.name ~ :named
    ORDER BY s.name, array_position(ARRAY['install', 'group', 'organisation', 'asset_set'], s.level), place, o.code
    """
)


def _place(
    install: Install, connection: Connection, group: str | None, organisation: str | None, asset_set: str | None
) -> settings.Place:
    if group is not None:
        if organisation is not None or asset_set is not None:
            raise UsageError("Name one place: --group, --organisation, or --organisation with --set.")
        return settings.group(groups.get(connection, group).id)
    if organisation is None:
        if asset_set is not None:
            raise UsageError("An asset set is one of an organisation: name it with --organisation.")
        return settings.INSTALL
    number = install.organisation(organisation)
    if asset_set is None:
        return settings.organisation(number)
    for found in sets.all_sets(connection, number):
        if found.name == asset_set:
            return settings.asset_set(number, found.id)
    raise UsageError(f"There is no asset set {asset_set!r} in {organisation}.")


def _value(name: str, typed: tuple[str, ...]) -> Any:
    if name.endswith((".windows", ".blackouts")):
        return list(typed)
    said = " ".join(typed)
    if ".limit." in f".{name}":
        try:
            return jsons.loads(said)
        except ValueError:
            return said
    return said


def _replan(install: Install, connection: Connection, name: str, place: settings.Place) -> None:
    """Intervals stand in each schedule."""
    if not name.endswith(".every"):
        return
    everybody = sorted(connection.execute(CODES).scalars())
    if place.organisation_id is not None:
        everybody = [place.organisation_id]
    for number in everybody:
        plan.plan(connection, number, None, install.registry)


@app.command(name="set")
def set_(
    name: str,
    /,
    *values: str,
    group: Group = None,
    organisation: Whose = None,
    asset_set: Set = None,
) -> int:
    """Sets an interval, windows, blackouts or a limit; such as scan.windows "mon-fri 20:00-06:00 Europe/Amsterdam".

    Parameters
    ----------
    name
        scan.every, scan.windows, scan.blackouts, limit.scans, limit.address.connections, ..., or with a scanner's name.
    values
        The value; for windows and blackouts each of them, quoted.
    """
    if not values:
        raise UsageError(f"Say the value too: kat schedule set {name} VALUE.")
    with opened() as install, install.database.begin("kat_system") as connection:
        place = _place(install, connection, group, organisation, asset_set)
        regime.set_(connection, place, name, _value(name, values), install.registry, actor())
        _replan(install, connection, name, place)
    return 0


@app.command
def unset(name: str, /, *, group: Group = None, organisation: Whose = None, asset_set: Set = None) -> int:
    """Takes a rule away again, so that the one above it holds."""
    with opened() as install, install.database.begin("kat_system") as connection:
        place = _place(install, connection, group, organisation, asset_set)
        if not regime.unset(connection, place, name, actor()):
            raise UsageError(f"{name!r} is not set there; kat schedule list shows what is.")
        _replan(install, connection, name, place)
    return 0


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Lists every interval, window, blackout and limit that is set, where and by whom."""
    with opened() as install, install.database.begin("kat_system") as connection:
        rows = [row._asdict() for row in connection.execute(SET, {"named": regime.NAMED})]

    def show(console: Console) -> None:
        cells = [
            (
                row["name"],
                "; ".join(row["value"]) if isinstance(row["value"], list) else row["value"],
                " ".join(part for part in (row["level"], row["organisation"], row["place"]) if part),
                row["set_by"],
                moment(row["set_at"]),
            )
            for row in rows
        ]
        console.print(table(["rule", "value", "where", "by", "since (UTC)"], cells, empty="Nothing is set."))

    emit({"rules": rows}, json, show)
    return 0


@block.command(name="add")
def add(
    what: str,
    /,
    *,
    organisation: Whose = None,
    zone: str = "internet",
    until: Annotated[str | None, Parameter(name="--until", help="Holds until then, such as 2026-11-22T12:00Z.")] = None,
    reason: Reason = "",
) -> int:
    """Never scans a name and all below it, an address or a network."""
    with opened() as install:
        number = None if organisation is None else install.organisation(organisation)
        with install.database.begin("kat_system") as connection:
            end = time_of(until, "--until")
            blocklist.add(connection, what, actor(), reason, organisation_id=number, zone=zone, until=end)
    return 0


@block.command(name="remove")
def remove(what: str, /, *, organisation: Whose = None, zone: str = "internet", reason: Reason = "") -> int:
    """Takes an entry off the blocklist."""
    with opened() as install:
        number = None if organisation is None else install.organisation(organisation)
        with install.database.begin("kat_system") as connection:
            blocklist.remove(connection, what, actor(), reason, organisation_id=number, zone=zone)
    return 0


@block.command(name="list")
def blocked(*, json: Json = False) -> int:
    """Lists the blocklist: what, why, by whom, until when."""
    with opened() as install, install.database.begin("kat_system") as connection:
        found = blocklist.in_force(connection)
        codes = {row.id: row.code for row in connection.execute(CODES)}
    rows: list[dict[str, Any]] = [
        {
            "what": entry.what,
            "zone": entry.zone,
            "organisation": codes.get(entry.organisation_id) if entry.organisation_id is not None else None,
            "reason": entry.reason,
            "by": entry.set_by,
            "since": entry.set_at,
            "until": entry.until,
        }
        for entry in found
    ]

    def show(console: Console) -> None:
        cells = [
            (
                row["what"],
                row["zone"],
                row["organisation"] or "all",
                row["reason"],
                row["by"],
                moment(row["until"]) if row["until"] else "",
            )
            for row in rows
        ]
        columns = ["never scanned", "zone", "organisation", "why", "by", "until (UTC)"]
        console.print(table(columns, cells, empty="The blocklist is empty."))

    emit({"blocked": rows}, json, show)
    return 0

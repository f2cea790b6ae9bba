"""`kat pause`, `kat resume`, `kat pauses`: no scan begins there until somebody lets it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from sqlalchemy import text

from kattegat.accounts import groups
from kattegat.cli.install import Install, actor, opened
from kattegat.cli.look import Json, find, time_of
from kattegat.cli.output import emit, table
from kattegat.cli.tasks import Reason
from kattegat.errors import UsageError
from kattegat.reports.terminal import moment
from kattegat.scheduler import pauses
from kattegat.scheduler.pauses import Scope

Group = Annotated[str | None, Parameter(name="--group", help="A group of organisations.")]
Whose = Annotated[str | None, Parameter(name="--organisation", help="An organisation's code.")]
Scanner = Annotated[str | None, Parameter(name="--scanner", help="A scanner, everywhere or in --organisation.")]
Asset = Annotated[str | None, Parameter(name="--asset", help="The key of an asset of --organisation.")]

NAMED = text(
    """
    SELECT p.id, o.code, g.name, a.key FROM pause p
    LEFT JOIN organisation o ON o.id = p.organisation_id
    LEFT JOIN organisation_group g ON g.id = p.group_id
    LEFT JOIN asset a ON a.organisation_id = p.organisation_id AND a.id = p.asset_id
    """
)


def _scope(
    install: Install, group: str | None, organisation: str | None, scanner: str | None, asset: str | None
) -> Scope:
    if sum(1 for given in (group, scanner, asset) if given is not None) > 1 or (group and organisation):
        raise UsageError(
            "Name one thing: nothing for the whole install, --group, --organisation, --scanner or --asset."
        )
    number = None if organisation is None else install.organisation(organisation)
    if scanner is not None:
        install.registry.scanner(scanner)
        return Scope("scanner", organisation_id=number, scanner=scanner)
    if group is not None:
        with install.database.begin("kat_system") as connection:
            return Scope("group", group_id=groups.get(connection, group).id)
    if asset is not None:
        if number is None:
            raise UsageError("An asset is one of an organisation: name it with --organisation.")
        with install.database.begin("kat_system") as connection:
            found = find(connection, number, asset, None, None)
        return Scope("asset", organisation_id=number, asset_id=found.id)
    return pauses.INSTALL if number is None else Scope("organisation", organisation_id=number)


def pause(
    *,
    group: Group = None,
    organisation: Whose = None,
    scanner: Scanner = None,
    asset: Asset = None,
    until: Annotated[str | None, Parameter(name="--until", help="Resumes by itself then: 2026-11-22T12:00Z.")] = None,
    reason: Reason = "",
    json: Json = False,
) -> int:
    """Lets no scan begin: in the whole install, or in what is named. Scans that run come to their end."""
    end = time_of(until, "--until")
    if end is not None and end <= datetime.now(UTC):
        raise UsageError(f"--until {until!r} has passed.")
    with opened() as install:
        scope = _scope(install, group, organisation, scanner, asset)
        with install.database.begin("kat_system") as connection:
            tasks = pauses.pause(connection, scope, actor(), reason, end)
    emit(
        {"level": scope.level, "tasks": tasks},
        json,
        lambda console: console.print(f"Paused; {len(tasks)} scans that waited in the queue are held."),
    )
    return 0


def resume(
    *,
    group: Group = None,
    organisation: Whose = None,
    scanner: Scanner = None,
    asset: Asset = None,
    reason: Reason = "",
    json: Json = False,
) -> int:
    """Ends a pause of the whole install, or of what is named."""
    with opened() as install:
        scope = _scope(install, group, organisation, scanner, asset)
        with install.database.begin("kat_system") as connection:
            tasks = pauses.resume(connection, scope, actor(), reason)
    emit(
        {"level": scope.level, "tasks": tasks},
        json,
        lambda console: console.print(f"Resumed; {len(tasks)} scans are in the queue again."),
    )
    return 0


def listed(*, json: Json = False) -> int:
    """Lists what is paused, by whom, why and until when."""
    with opened() as install, install.database.begin("kat_system") as connection:
        found = pauses.listed(connection)
        named = {row.id: row for row in connection.execute(NAMED)}
    rows: list[dict[str, Any]] = [
        {
            "level": entry.level,
            "what": " ".join(
                part
                for part in (named[entry.id].name, named[entry.id].code, entry.scanner, named[entry.id].key)
                if part
            ),
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
                row["level"],
                row["what"],
                row["by"],
                moment(row["since"]),
                moment(row["until"]) if row["until"] else "",
                row["reason"],
            )
            for row in rows
        ]
        columns = ["paused", "which", "by", "since (UTC)", "until (UTC)", "why"]
        console.print(table(columns, cells, empty="Nothing is paused."))

    emit({"pauses": rows}, json, show)
    return 0

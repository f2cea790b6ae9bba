"""`kat tasks`, `kat task ...` and `kat run`: the queue and its truth, and what a person does to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from sqlalchemy import Connection, text

from kattegat.cli.install import DEFAULT_ORGANISATION, actor, opened
from kattegat.cli.look import Json, Limit, Organisation, check_limit, find
from kattegat.cli.output import emit, table
from kattegat.errors import UsageError
from kattegat.reports.terminal import moment
from kattegat.scheduler import acts, listing, queue, waiting

STATES = ("queued", "leased", "paused", "done", "failed", "dead", "cancelled")
KINDS = ("scan", "ingest", "report", "deliver", "sweep", "backup")
Reason = Annotated[str, Parameter(name="--reason", help="Why; kept in the audit trail.")]
Numbers = Annotated[list[int], Parameter(name="TASK", help="Numbers of tasks, as kat tasks shows them.")]

app = App(name="task", help="One task: what happened to it; cancel it, try it again, move it in the queue.")

SUBJECTS = text(
    """
    SELECT t.id, a.key, o.code FROM task t
    LEFT JOIN organisation o ON o.id = t.organisation_id
    LEFT JOIN source s ON s.organisation_id = t.organisation_id AND s.id = t.source_id
    LEFT JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE t.id = ANY(CAST(:ids AS bigint[]))
    """
)


def document(
    connection: Connection, rows: list[queue.Task], scanners: Any, *, why: dict[int, waiting.Why] | None = None
) -> list[dict[str, Any]]:
    """Tasks as they are shown: without what proves a lease, with their asset and with what they wait for."""
    said = waiting.tasks(connection, rows, scanners) if why is None else why
    subjects = {row.id: row for row in connection.execute(SUBJECTS, {"ids": [row.id for row in rows]})}
    hidden = ("payload", "lease_token", "turn")
    return [
        {name: getattr(row, name) for name in row.__struct_fields__ if name not in hidden}
        | {
            "asset": subjects[row.id].key if row.id in subjects else None,
            "organisation": subjects[row.id].code if row.id in subjects else None,
            "requested_by": row.payload.get("requested_by", ""),
            "waits": said.get(row.id),
        }
        for row in rows
    ]


def tasks(
    *,
    organisation: Annotated[str | None, Parameter(name="--organisation")] = None,
    state: Annotated[list[str] | None, Parameter(name="--state")] = None,
    kind: Annotated[list[str] | None, Parameter(name="--kind")] = None,
    scanner: Annotated[list[str] | None, Parameter(name="--scanner")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> int:
    """Lists tasks, the newest first: what waits and why, what runs where since when, what has ended and how.

    Parameters
    ----------
    organisation
        Only of this organisation.
    state
        Only in this state: queued, leased, paused, done, failed, dead, cancelled.
    kind
        Only of this kind: scan, ingest, report, deliver, sweep, backup.
    scanner
        Only of this scanner.
    """
    check_limit(limit)
    _among("--state", state or (), STATES)
    _among("--kind", kind or (), KINDS)
    with opened() as install:
        numbers = None if organisation is None else [install.organisation(organisation)]
        with install.database.begin("kat_system") as connection:
            which = listing.Filter(organisations=numbers, states=state or (), kinds=kind or (), scanners=scanner or ())
            rows = document(connection, listing.tasks(connection, which, limit=limit), install.registry.scanners)
            counts = listing.counts(connection, which)
            due = waiting.due(connection, numbers)
    totals = [{"kind": name, "state": state_, "count": count} for (name, state_), count in sorted(counts.items())]

    def show(console: Console) -> None:
        cells = [
            (
                row["id"],
                row["kind"],
                row["scanner"],
                row["asset"],
                row["state"],
                f"{row['tries']}/{row['max_tries']}",
                moment(row["created_at"]),
                _said(row),
            )
            for row in rows
        ]
        columns = ["id", "kind", "scanner", "asset", "state", "tries", "made (UTC)", "why"]
        console.print(table(columns, cells, empty="There are no tasks."))
        console.print(", ".join(f"{row['count']} {row['kind']} {row['state']}" for row in totals), style="dim")
        shown = "more than 10,000" if due > waiting.COUNTED else f"{due:,}"
        console.print(f"{shown} sources are due and wait for a place in the queue.", style="dim")

    emit({"tasks": rows, "counts": totals, "due": due}, json, show)
    return 0


def _said(row: dict[str, Any]) -> str:
    if row["waits"] is not None:
        return str(row["waits"].reason)
    if row["state"] == "leased":
        return f"at {row['leased_by']} since {moment(row['started_at'])} UTC"
    return str(row["reason"])


@app.command
def show(number: int, /, *, json: Json = False) -> int:
    """Shows one task and everything that happened to it."""
    with opened() as install, install.database.begin("kat_system") as connection:
        rows = listing.tasks(connection, listing.Filter(ids=[number]), limit=1)
        if not rows:
            raise UsageError(f"There is no task {number}; kat tasks lists what there is.")
        row = document(connection, rows, install.registry.scanners)[0]
        events = listing.events(connection, number)

    def show_it(console: Console) -> None:
        console.print(
            f"Task {number}: {row['kind']} {row['scanner']} {row['asset'] or ''} {row['state']}", markup=False
        )
        console.print(f"  {_said(row)}", style="dim", markup=False)
        cells = [(moment(event.at), event.was, event.became, event.by, event.reason) for event in events]
        console.print(table(["at (UTC)", "was", "became", "by", "reason"], cells))

    emit({"task": row, "events": events}, json, show_it)
    return 0


@app.command
def cancel(numbers: Numbers, /, *, reason: Reason = "", json: Json = False) -> int:
    """Ends tasks that wait or run; a running scan stops within five seconds, with the programs it started."""
    return _act(lambda connection, by: acts.cancel(connection, numbers, by, reason), "cancelled", json)


@app.command
def retry(numbers: Numbers, /, *, reason: Reason = "", json: Json = False) -> int:
    """Queues tasks again that failed, were cancelled, or were given up (dead)."""
    return _act(lambda connection, by: acts.retry(connection, numbers, by, reason), "queued again", json)


@app.command
def move(
    numbers: Numbers,
    /,
    *,
    to: Annotated[str, Parameter(name="--to", help="first, usual or last.")] = "first",
    reason: Reason = "",
    json: Json = False,
) -> int:
    """Moves waiting tasks before all others, back to their usual place, or behind all others."""
    return _act(lambda connection, by: acts.prioritise(connection, numbers, to, by, reason), f"moved {to}", json)


def run(
    key: str,
    /,
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    type: Annotated[str | None, Parameter(name="--type")] = None,
    scanner: Annotated[list[str] | None, Parameter(name="--scanner")] = None,
    reason: Reason = "",
    json: Json = False,
) -> int:
    """Has the scanners of one asset run now, before everything else; says which may not, and why.

    Parameters
    ----------
    key
        The asset's key, such as example.org, 192.0.2.1 or https://example.org:443.
    type
        Its type, where the key could be of several.
    scanner
        Only this scanner; may be repeated.
    """
    with opened() as install:
        number = install.organisation(organisation)
        for name in scanner or ():
            install.registry.scanner(name)
        with install.database.begin("kat_system") as connection:
            asset = find(connection, number, key, type, None)
            done = acts.run_now(connection, number, asset.id, actor(), reason, scanners=scanner)
            names = {
                row.id: row.scanner
                for row in connection.execute(
                    text(
                        "SELECT id, scanner FROM source WHERE organisation_id = :o AND id = ANY(CAST(:ids AS bigint[]))"
                    ),
                    {"o": number, "ids": [*done.asked, *done.held]},
                )
            }
    asked = sorted(names[source] for source in done.asked)
    held = {names[source]: why for source, why in sorted(done.held.items())}

    def show_it(console: Console) -> None:
        console.print(f"Next to run on {asset.key}: {', '.join(asked) or 'nothing'}", markup=False)
        for name, why in held.items():
            console.print(f"  {name} does not run: {why}", style="dim", markup=False)

    emit({"asset": asset.key, "asked": asked, "held": held}, json, show_it)
    return 0 if asked else 3


def _act(act: Callable[[Connection, str], acts.Done], done: str, json: bool) -> int:
    with opened() as install, install.database.begin("kat_system") as connection:
        answer = act(connection, actor())

    def show_it(console: Console) -> None:
        for number in answer.tasks:
            console.print(f"Task {number} is {done}.")
        for number, why in answer.refused.items():
            console.print(f"Task {number} is not {done}: {why}.", markup=False)

    emit(
        {"tasks": answer.tasks, "refused": {str(number): why for number, why in answer.refused.items()}}, json, show_it
    )
    return 0 if not answer.refused else 3


def _among(option: str, given: Any, known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"{option} {name!r} is none; it is one of {', '.join(known)}.")

"""`kat assets|asset|findings`: what is known now, and as it was."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text
from sqlalchemy import Connection, text

from kattegat.checks import coverage
from kattegat.cli.install import DEFAULT_ORGANISATION, Install, opened
from kattegat.cli.output import emit, table
from kattegat.errors import KattegatError, UsageError
from kattegat.inventory import origin, reading
from kattegat.model import assets as model
from kattegat.model import targets
from kattegat.model.verdict import SEVERITIES, rank
from kattegat.reports.contents import sentence
from kattegat.reports.terminal import COLOURS, moment

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
Organisation = Annotated[str, Parameter(name="--organisation", help="Whose: the organisation's code.")]
Limit = Annotated[int, Parameter(name="--limit", help="How many rows at most.")]
At = Annotated[str | None, Parameter(name="--at", help="As it was at this time, such as 2026-11-22T12:00Z.")]

SOURCES = text(
    """
    SELECT s.scanner, s.vantage, s.state, s.reason, s.confirmed_at, s.last_ended_at, s.unmeasured,
           h.due_at, coalesce(h.hold, '') AS hold, coalesce(h.wait, '') AS wait
    FROM source s LEFT JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
    WHERE s.organisation_id = :organisation AND s.asset_id = :asset ORDER BY s.scanner, s.vantage
    """
)
FINDINGS = text(
    """
    SELECT f.id, a.type, a.key, f."check", f.item, f.severity, f.text, f.params, f.state, f.first_seen, f.opened_at,
           f.resolved_at
    FROM finding f JOIN asset a ON a.organisation_id = f.organisation_id AND a.id = f.asset_id
    WHERE f.organisation_id = :organisation
      AND (CAST(:asset AS bigint) IS NULL OR f.asset_id = :asset)
      AND (:resolved OR f.state <> 'resolved')
      AND f.severity = ANY(CAST(:severities AS text[]))
    ORDER BY array_position(CAST(:order AS text[]), f.severity), a.type, a.key, f."check", f.item
    LIMIT :limit
    """
)


def check_limit(limit: int) -> None:
    """Raises `UsageError` for a number of rows that there can't be."""
    if not 1 <= limit <= 1_000_000:
        raise UsageError(f"--limit {limit} is no number of rows; it is 1 to 1000000.")


def time_of(given: str | None, option: str = "--at") -> datetime | None:
    """The time of an option; without a zone it is UTC. Raises `UsageError`."""
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(f"{option} {given!r} is no time; write it like 2026-11-22T12:00Z.") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def assets(
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    type: Annotated[str | None, Parameter(name="--type")] = None,
    search: Annotated[str, Parameter(name="--search")] = "",
    gone: Annotated[bool, Parameter(name="--gone", negative="")] = False,
    at: At = None,
    limit: Limit = 200,
    json: Json = False,
) -> int:
    """Lists the assets of an organisation.

    Parameters
    ----------
    type
        Only of this type, such as Hostname.
    search
        Only those with this text in the key.
    gone
        Those that are no longer present too.
    """
    check_limit(limit)
    wanted = reading.Filter((type,) if type else None, None if gone else True, search)
    then = time_of(at)
    with opened() as install, install.database.begin("kat_app", [install.organisation(organisation)]) as connection:
        number = install.organisation(organisation)
        rows = reading.assets(connection, number, wanted, limit=limit, at=then)
        total = reading.count(connection, number, wanted, at=then)
    document = {"assets": rows, "count": total.number, "exact": total.exact}

    def show(console: Console) -> None:
        cells = [
            (
                row.type,
                row.key,
                f"{row.clearance}{' declared' if row.declared else ''}",
                moment(row.first_seen),
                _gone(row),
            )
            for row in rows
        ]
        console.print(
            table(
                ["type", "key", "clearance", "first seen (UTC)", ""],
                cells,
                empty="There are no such assets." if type or search else "There are no assets yet.",
            )
        )
        if not total.exact or total.number > len(rows):
            console.print(f"{len(rows)} of {total} are shown; --limit shows more.", style="dim")

    emit(document, json, show)
    return 0


def _gone(row: reading.Row) -> str:
    return "" if row.present else f"gone {moment(row.gone_at)}" if row.gone_at else "not present"


def find(connection: Connection, organisation: int, key: str, type_: str | None, at: datetime | None) -> reading.Row:
    """The asset that a person means by a key; raises `UsageError`."""
    wanted: list[model.Asset] = []
    for name in [type_] if type_ else model.TYPES:
        try:
            wanted.append(model.parse(name, key))
        except KattegatError:
            continue
    with suppress(KattegatError):
        wanted.append(targets.parse(key))
    for asset in wanted:
        row = reading.asset(connection, organisation, asset, at)
        if row is not None:
            return row
    raise UsageError(f"There is no asset {key!r}; `kat assets --search TEXT` lists what there is.")


def asset(
    key: str,
    /,
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    type: Annotated[str | None, Parameter(name="--type")] = None,
    at: At = None,
    json: Json = False,
) -> int:
    """Shows one asset: facts, links, clearance and where it comes from, why each scanner ran or did not, findings.

    Parameters
    ----------
    key
        The asset's key, such as example.org, 192.0.2.1 or https://example.org:443.
    type
        Its type, where the key could be of several.
    """
    then = time_of(at)
    with opened() as install:
        number = install.organisation(organisation)
        with install.database.begin("kat_app", [number]) as connection:
            row = find(connection, number, key, type, then)
            document = _asset(install, connection, number, row, then)
    emit(document, json, lambda console: _show_asset(console, document))
    return 0


def _asset(
    install: Install, connection: Connection, number: int, row: reading.Row, at: datetime | None
) -> dict[str, Any]:
    facts = reading.facts(connection, number, [row.id], at=at)
    links = reading.links(connection, number, [row.id], at=at)
    document: dict[str, Any] = {
        "asset": row,
        "at": at,
        "clearance_from": _why(origin.why_clearance(connection, number, row.id, at)),
        "facts": facts,
        "links": links,
    }
    if at is None:
        now = datetime.now(UTC)
        covered = list(coverage.read(connection, number, install.registry, now, [row.id]))
        document["scanners"] = [
            {
                "scanner": source.scanner,
                "vantage": source.vantage,
                "state": source.state,
                "why": _scanner_state(source),
                "confirmed_at": source.confirmed_at,
                "due_at": None if source.hold else source.due_at,
            }
            for source in connection.execute(SOURCES, {"organisation": number, "asset": row.id})
        ]
        document["findings"] = findings_of(connection, number, asset_id=row.id)
        document["coverage"] = [
            {"check": entry.check, "outcome": entry.outcome, "reason": entry.reason} for entry in covered
        ]
    return document


def _why(found: origin.Origin | None) -> list[str]:
    if found is None:
        return ["it was not known"]
    if found.how == "declared":
        return [f"declared by {found.asset.declared_by}"]
    if found.how == "inherited" and found.declared is not None:
        steps = [
            f"{step.giver.key} passes on at most {step.cap} of it to {step.receiver.key} over {step.link.type}"
            for step in found.steps
        ]
        return [f"{found.declared.key} is declared with {found.declared.declared_clearance}", *steps]
    return ["nothing gives it clearance" if found.how == "nothing" else "it is not present"]


def _scanner_state(source: Any) -> str:
    if source.hold:
        return f"does not run: {source.hold}"
    if source.wait:
        return f"waits: {source.wait}"
    if source.state == "never":
        return f"has not run yet, due {moment(source.due_at)} UTC" if source.due_at else "has not run yet"
    at = f"{moment(source.last_ended_at)} UTC" if source.last_ended_at else "?"
    if source.state == "ok":
        gaps = "; ".join(
            f"{kind}{f' {item}' if item else ''}: {reason}" for kind, item, reason, *_ in source.unmeasured
        )
        return f"ran {at}" + (f", could not measure {gaps}" if gaps else "")
    return f"{'failed' if source.state == 'failed' else 'was refused'} {at}: {source.reason}"


def _show_asset(console: Console, document: dict[str, Any]) -> None:
    row: reading.Row = document["asset"]
    gone = "" if row.present else "  not present"
    console.print(Text.assemble((f"{row.type} {row.key}", "bold"), f"  clearance {row.clearance}{gone}"))
    for line in document["clearance_from"]:
        console.print(f"  {line}", style="dim", markup=False)
    facts = [
        (fact.kind, fact.item, msgspec.json.encode(fact.value).decode(), f"{fact.scanner} {moment(fact.recorded_at)}")
        for fact in document["facts"]
    ]
    console.print(table(["fact", "item", "value", "from, since (UTC)"], facts, title="Facts", empty="No facts."))
    links = [
        (link.origin_key, link.type, link.target_key, f"{link.fact_kind} ({link.scanner})")
        for link in document["links"]
    ]
    console.print(table(["from", "link", "to", "claimed by"], links, title="Links", empty="No links."))
    if document["at"] is not None:
        return
    scanners = [(entry["scanner"], entry["why"]) for entry in document["scanners"]]
    console.print(table(["scanner", ""], scanners, title="Scanners", empty="No scanner is about this type of asset."))
    console.print(_findings_table(document["findings"]))
    checks = [(entry["check"], entry["outcome"], entry["reason"]) for entry in document["coverage"]]
    console.print(table(["check", "", "because"], checks, title="Checks"))


def findings_of(
    connection: Connection,
    number: int,
    *,
    asset_id: int | None = None,
    least: str = "recommendation",
    resolved: bool = False,
    limit: int = 10_000,
) -> list[dict[str, Any]]:
    """Findings from the worst down."""
    severities = [severity for severity in SEVERITIES if rank(severity) <= rank(least)]
    rows = connection.execute(
        FINDINGS,
        {"organisation": number, "asset": asset_id, "resolved": resolved, "severities": severities, "limit": limit}
        | {"order": list(SEVERITIES)},
    )
    return [
        {
            "id": row.id,
            "severity": row.severity,
            "asset": {"type": row.type, "key": row.key},
            "check": row.check,
            "item": row.item,
            "text": sentence(row.text, row.params),
            "state": row.state,
            "first_seen": row.first_seen,
            "since": row.opened_at,
            "resolved_at": row.resolved_at,
        }
        for row in rows
    ]


def _findings_table(rows: list[dict[str, Any]]) -> Any:
    cells = [
        (
            Text(row["severity"], style=COLOURS[row["severity"]]),
            row["asset"]["key"],
            row["check"],
            row["text"],
            row["state"],
            moment(row["since"]),
        )
        for row in rows
    ]
    columns = ["severity", "asset", "check", "what is wrong", "state", "since (UTC)"]
    return table(columns, cells, title="Findings", empty="No findings.")


def findings(
    *,
    organisation: Organisation = DEFAULT_ORGANISATION,
    severity: Annotated[str, Parameter(name="--severity")] = "recommendation",
    resolved: Annotated[bool, Parameter(name="--resolved", negative="")] = False,
    limit: Limit = 500,
    json: Json = False,
) -> int:
    """Lists findings, the worst first.

    Parameters
    ----------
    severity
        From this severity on.
    resolved
        Resolved ones too.
    """
    if severity not in SEVERITIES:
        raise UsageError(f"--severity {severity!r} is none; it is one of {', '.join(SEVERITIES)}.")
    check_limit(limit)
    with opened() as install:
        number = install.organisation(organisation)
        with install.database.begin("kat_app", [number]) as connection:
            rows = findings_of(connection, number, least=severity, resolved=resolved, limit=limit + 1)
    more = len(rows) > limit
    rows = rows[:limit]

    def show(console: Console) -> None:
        console.print(_findings_table(rows))
        if more:
            console.print(f"The first {limit} are shown; --limit shows more.", style="dim")

    emit({"findings": rows, "more": more}, json, show)
    return 0

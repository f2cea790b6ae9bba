"""The contents of a scan for a terminal: findings as a table, coverage with reasons, changes since the last scan."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kattegat.model.verdict import SEVERITIES
from kattegat.reports.contents import AssetRef, Change, Contents, FindingRow

COLOURS = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "recommendation": "dim",
}
ITEMS_SHOWN = 6
WIDE = 120


def moment(time: datetime) -> str:
    """A time to the minute, in UTC."""
    return f"{time:%Y-%m-%d %H:%M}"


def safe(value: str) -> str:
    """A text from the outside without the control characters that steer a terminal."""
    return "".join(character if character.isprintable() else "�" for character in value)


def name(asset: AssetRef) -> str:
    """How an asset is called in a table: its key, without the zone that nearly everything lies in."""
    key = asset.key.removeprefix("internet|")
    return safe(f"certificate {key[:16]}…" if asset.type == "Certificate" else key)


def show(console: Console, contents: Contents) -> None:
    """Prints the whole report."""
    console.print()
    console.print(_findings(contents, console.width))
    console.print(_coverage(contents))
    if contents.troubles:
        console.print(_troubles(contents))
    console.print(_changes(contents))
    console.print(_summary(contents))


def _findings(contents: Contents, width: int) -> RenderableType:
    if not contents.findings:
        return Text("No findings: no check fails. What could not be judged is listed below.", style="green")
    table = Table(box=box.SIMPLE_HEAD, title="Findings", title_justify="left", title_style="bold", expand=True)
    wide = width >= WIDE
    # On a narrow terminal what belongs together shares a column, so that words are not cut in pieces.
    table.add_column("severity" if wide else "severity, since (UTC)", width=14 if wide else 16)
    if wide:
        table.add_column("since (UTC)", width=16)
    table.add_column("asset" if wide else "asset, how we know", overflow="fold", ratio=2)
    table.add_column("what is wrong, and how to mend it", overflow="fold", ratio=4 if wide else 3)
    if wide:
        table.add_column("how we know", overflow="fold", ratio=2)
    for finding in contents.findings:
        severity = Text(finding.severity, style=COLOURS[finding.severity])
        since, asset, wrong, how = (
            Text(moment(finding.since)),
            Text(_asset(finding)),
            _wrong(finding),
            _grounds(finding),
        )
        if wide:
            table.add_row(severity, since, asset, wrong, how, end_section=True)
        else:
            table.add_row(Group(severity, since), Group(asset, how), wrong, end_section=True)
    return table


def _asset(finding: FindingRow) -> str:
    """The asset; of a certificate, where it was seen."""
    lines = [name(finding.asset), *(f"of {name(ref)}" for ref in finding.shown_by[:3])]
    if len(finding.shown_by) > 3:
        lines.append(f"and {len(finding.shown_by) - 3} more")
    return "\n".join(lines)


def _wrong(finding: FindingRow) -> Text:
    said = Text(finding.title, style="bold")
    for item in finding.items[:ITEMS_SHOWN]:
        said.append(f"\n• {safe(item)}", style="not bold")
    if len(finding.items) > ITEMS_SHOWN:
        more = len(finding.items) - ITEMS_SHOWN
        said.append(f"\n• and {more} more ({len(finding.items)} in all; --json or --html shows them)", style="not bold")
    said.append(f"\nmend: {finding.fix}", style="not bold green")
    if finding.unmeasured:
        said.append(f"\nnot measured this time: {safe(finding.unmeasured)}", style="not bold magenta")
    return said


def _grounds(finding: FindingRow) -> Text:
    if not finding.known_by:
        return Text("an earlier scan", style="dim")
    by: dict[str, list[str]] = defaultdict(list)
    for ground in finding.known_by:
        by[f"{ground.scanner}, {moment(ground.confirmed_at)}"].append(ground.fact)
    return Text(
        "\n".join(f"{', '.join(dict.fromkeys(facts))} ({scanner})" for scanner, facts in by.items()), style="dim"
    )


def _coverage(contents: Contents) -> RenderableType:
    covered = contents.coverage
    total = len(covered.passed) + len(covered.failed) + len(covered.unknown)
    head = Text.assemble(
        ("Coverage", "bold"),
        f"  {total} checks of {len(contents.assets)} assets: ",
        (f"{len(covered.passed)} passed", "green"),
        ", ",
        (f"{len(covered.failed)} failed", "red"),
        ", ",
        (f"{len(covered.unknown)} unknown", "magenta"),
    )
    if not covered.unknown:
        return head
    groups: dict[tuple[str, AssetRef], list[str]] = defaultdict(list)
    for row in covered.unknown:
        groups[row.reason, row.asset].append(row.check)
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("assets", overflow="fold", ratio=2)
    table.add_column("unknown because", overflow="fold", ratio=3)
    table.add_column("checks", overflow="fold", ratio=3)
    # Assets that share a reason and checks share a row: a provider's twenty servers are one thing to know.
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (reason, asset), checks in sorted(groups.items(), key=lambda entry: (entry[0][1], entry[0][0])):
        shown = ", ".join(checks) if len(checks) <= ITEMS_SHOWN else f"{len(checks)} checks"
        together[reason, shown].append(name(asset))
    for (reason, shown), names in together.items():
        listed = "\n".join(names[:ITEMS_SHOWN]) + (
            f"\nand {len(names) - ITEMS_SHOWN} more" if len(names) > ITEMS_SHOWN else ""
        )
        table.add_row(Text(listed), Text(safe(reason)), Text(shown, style="dim"))
    return Group(head, table)


def _troubles(contents: Contents) -> RenderableType:
    table = Table(
        box=box.SIMPLE_HEAD, title="Could not be measured", title_justify="left", title_style="bold", expand=True
    )
    table.add_column("asset", overflow="fold", ratio=2)
    table.add_column("scanner", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=4)
    for trouble in contents.troubles:
        table.add_row(Text(name(trouble.asset)), trouble.scanner, Text(safe(trouble.reason)))
    return table


def _changes(contents: Contents) -> RenderableType:
    changes = contents.changes
    if changes.previous is None:
        return Text("This is the first scan of these targets; the next one will say what changed.", style="dim")
    head = Text.assemble(
        ("Since the scan of ", "bold"),
        (f"{moment(changes.previous)} UTC", "bold"),
        f"  items: {len(changes.new)} new, {len(changes.still_open)} still open, {len(changes.resolved)} resolved,"
        f" {len(changes.not_measured)} could not be measured this time",
    )
    rows: list[Text] = [head]
    for mark, style, listed in (
        ("new", "red", changes.new),
        ("resolved", "green", changes.resolved),
        ("not measured", "magenta", changes.not_measured),
    ):
        rows.extend(_change(mark, style, change) for change in listed)
    return Group(*rows)


def _change(mark: str, style: str, change: Change) -> Text:
    reason = f" ({safe(change.reason)})" if change.reason else ""
    # The item alone may be "the header is missing": the check says which.
    return Text.assemble(
        (f"  {mark:<13}", style), f"{name(change.asset)}: {safe(change.text)}", (f" [{change.check}]", "dim"), reason
    )


def _summary(contents: Contents) -> RenderableType:
    counts = Counter(finding.severity for finding in contents.findings)
    parts = [f"{counts[severity]} {severity}" for severity in SEVERITIES if counts[severity]]
    seconds = (contents.ended_at - contents.started_at).total_seconds()
    items = sum(len(finding.items) for finding in contents.findings)
    said = f"{len(contents.findings)} findings ({', '.join(parts) or 'none'}) with {items} items, in {seconds:.0f} s."
    if contents.incomplete_because:
        return Text.from_markup(f"[bold magenta]Not complete:[/] {escape(safe(contents.incomplete_because))}  {said}")
    return Text(said, style="bold")

"""`kat runner ...`: the runners of the install; none gets more work than it should."""

from __future__ import annotations

from typing import Any

from cyclopts import App
from rich.console import Console

from kattegat.cli.install import actor, opened
from kattegat.cli.look import Json
from kattegat.cli.output import emit, table
from kattegat.cli.tasks import Reason
from kattegat.reports.terminal import moment
from kattegat.scheduler import runners

app = App(name="runner", help="The runners: which there are, what they have; drain one, let it work again.")


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Lists the runners: where they scan from, their tools, when they were last heard from."""
    with opened() as install, install.database.begin("kat_system") as connection:
        found = runners.listed(connection)
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "vantage": entry.vantage,
            "tools": entry.tools,
            "seen_at": entry.seen_at,
            "state": "revoked" if entry.revoked_at else "drained" if entry.drained_at else "works",
            "reason": entry.drained_reason,
        }
        for entry in found
    ]

    def show(console: Console) -> None:
        cells = [
            (
                row["name"],
                row["vantage"],
                row["state"],
                moment(row["seen_at"]) if row["seen_at"] else "never",
                ", ".join(f"{tool} {version}" for tool, version in sorted(row["tools"].items())),
                row["reason"],
            )
            for row in rows
        ]
        columns = ["runner", "vantage", "", "heard from (UTC)", "tools", "why"]
        console.print(table(columns, cells, empty="There are no runners."))

    emit({"runners": rows}, json, show)
    return 0


@app.command
def drain(name: str, /, *, reason: Reason = "") -> int:
    """Gives a runner no more work; what it has it finishes and hands in."""
    with opened() as install, install.database.begin("kat_system") as connection:
        runners.drain(connection, name, actor(), reason)
    return 0


@app.command
def undrain(name: str, /, *, reason: Reason = "") -> int:
    """Gives a drained runner work again."""
    with opened() as install, install.database.begin("kat_system") as connection:
        runners.undrain(connection, name, actor(), reason)
    return 0

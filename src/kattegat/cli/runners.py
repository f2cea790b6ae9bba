"""`kat runner ...`: the runners of the install; none gets more work than it should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from sqlalchemy import text

from kattegat.cli.install import actor, opened
from kattegat.cli.look import Json
from kattegat.cli.output import emit, table
from kattegat.cli.tasks import Reason
from kattegat.model import keys
from kattegat.reports.terminal import moment
from kattegat.scheduler import runners

app = App(
    name="runner",
    help="Runs a runner (--server), or says which there are: register, revoke, drain one, let it work again.",
)


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Lists the runners: where they scan from, their tools, when they were last heard from."""
    with opened() as install, install.database.begin("kat_system") as connection:
        found = runners.listed(connection)
        codes = {row.id: row.code for row in connection.execute(text("SELECT id, code FROM organisation"))}
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "vantage": entry.vantage,
            "labels": list(entry.labels),
            "release": entry.release,
            "scope": {
                "organisations": [codes.get(number, str(number)) for number in entry.scope.organisations],
                "networks": list(entry.scope.networks),
                "scanners": list(entry.scope.scanners),
            },
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
                ", ".join(row["labels"] or [row["vantage"]]),
                "; ".join(", ".join(part) for part in row["scope"].values() if part) or "everything",
                row["state"],
                moment(row["seen_at"]) if row["seen_at"] else "never",
                ", ".join(f"{tool} {version}" for tool, version in sorted(row["tools"].items())),
                row["reason"],
            )
            for row in rows
        ]
        columns = ["runner", "where", "serves", "", "heard from (UTC)", "tools", "why"]
        console.print(table(columns, cells, empty="There are no runners."))

    emit({"runners": rows}, json, show)
    return 0


@app.default
def start(
    *,
    server: Annotated[str, Parameter(name="--server", help="https://HOST[:PORT] of the install, or unix:/PATH.")],
    token_file: Annotated[Path, Parameter(name="--token-file", help="The file with this runner's token.")],
    ca_file: Annotated[
        Path | None, Parameter(name="--ca-file", help="Trust the server by this PEM file alone.")
    ] = None,
    vantage: Annotated[str, Parameter(name="--vantage", help="Where it scans from, as it is registered.")] = "internet",
    spool: Annotated[
        Path | None, Parameter(name="--spool", help="Where results wait for a server that is away.")
    ] = None,
) -> int:
    """Runs a runner in the foreground: it needs a token and HTTPS to the server, and no database.

    It works on through a lost connection and hands in what it has later.
    """
    from kattegat.runner import main as runner_main

    given = ["--door", server, "--token-file", str(token_file), "--vantage", vantage]
    for option, value in (("--ca-file", ca_file), ("--spool", spool)):
        given += [option, str(value)] if value is not None else []
    return runner_main.main(given)


@app.command
def register(
    name: str,
    /,
    *,
    token_file: Annotated[
        Path, Parameter(name="--token-file", help="Where the new token is written, for its owner only.")
    ],
    vantage: Annotated[
        str, Parameter(name="--vantage", help="Where it scans from: internet, inside, dmz, ...")
    ] = "internet",
    label: Annotated[list[str] | None, Parameter(name="--label", help="Another place that it stands for.")] = None,
    organisation: Annotated[list[str] | None, Parameter(name="--organisation", help="It serves only this one.")] = None,
    network: Annotated[list[str] | None, Parameter(name="--network", help="It serves only this network.")] = None,
    scanner: Annotated[list[str] | None, Parameter(name="--scanner", help="It runs only this scanner.")] = None,
) -> int:
    """Registers a runner and writes its token to a file; a name that is known gets a new token, and its old one ends.

    With --network it gets scans of addresses, services and networks in it only, and may contact nothing else.
    """
    with opened() as install:
        numbers = tuple(install.organisation(code) for code in organisation or ())
        for wanted in scanner or ():
            install.registry.scanner(wanted)
        scope = runners.Scope(numbers, tuple(network or ()), tuple(scanner or ()))
        with install.database.begin("kat_system") as connection:
            token = runners.register(
                connection, name, vantage=keys.zone(vantage), labels=label or (), scope=scope, by=actor()
            )
            descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(token)
    return 0


@app.command
def revoke(name: str, /, *, reason: Reason = "") -> int:
    """Ends a runner's token at once; what it was scanning is given to others."""
    with opened() as install, install.database.begin("kat_system") as connection:
        runners.revoke(connection, name, actor(), reason)
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

"""`kat parked ...`: what an older release does not see, and what came of it meanwhile."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from kattegat.cli.install import actor, opened
from kattegat.cli.lifecycle import Terminal
from kattegat.cli.output import emit, table
from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle import parked
from kattegat.lifecycle.run import DeclinedError
from kattegat.reports.terminal import moment

app = App(name="parked", help="What the release in force does not know of: kept whole, out of its sight.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]
ACTS = {"I": "added", "U": "changed", "D": "removed", "T": "truncated"}


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Everything that is parked, with its size and how many of its rows the release in force has touched."""
    with opened(any_release=True) as install, install.database.begin("kat_owner") as connection:
        entries = parked.everything(connection)
    cells = [
        (entry.id, entry.kind, entry.was, f"{entry.rows:,}", size(entry.size), entry.touched or "", _when(entry))
        for entry in entries
    ]
    columns = ["", "kind", "belongs at", "rows", "size", "touched", "parked (UTC)"]
    emit(
        {"parked": entries, "size": sum(entry.size for entry in entries)},
        json,
        lambda console: console.print(table(columns, cells, empty="Nothing is parked.")),
    )
    return 0


@app.command
def show(number: int, /, *, json: Json = False) -> int:
    """One parked thing: where it lies, its shape, and the last rows of it that were changed or removed meanwhile.

    Parameters
    ----------
    number
        As kat parked list shows it.
    """
    with opened(any_release=True) as install, install.database.begin("kat_owner") as connection:
        entry = parked.get(connection, number)
        shape = parked.shape(connection, number)
        touched = parked.touched(connection, number)
    document: dict[str, Any] = {"parked": entry, "shape": shape, "touched": touched}

    def tell(console: Console) -> None:
        console.print(f"{entry.kind} {entry.was}", style="bold", markup=False)
        run = f" by change {entry.run}" if entry.run else ""
        console.print(f"lies at {entry.now_is} since {_when(entry)}{run}; about {size(entry.size)}", markup=False)
        console.print(msgspec.json.format(msgspec.json.encode(shape), indent=2).decode(), markup=False)
        cells = [
            (moment(row["at"]), ACTS.get(row["act"], row["act"]), msgspec.json.encode(row["key"]).decode())
            for row in touched
        ]
        console.print(table(["at (UTC)", "", "row"], cells, empty="None of its rows were touched since."))

    emit(document, json, tell)
    return 0


@app.command
def export(number: int, file: Path | None = None, /) -> int:
    """Writes a parked thing as JSON lines: first what it is, then a line for each row or value.

    Parameters
    ----------
    number
        As kat parked list shows it.
    file
        Where to; by default to stdout.
    """
    with opened(any_release=True) as install, install.database.begin("kat_owner") as connection:
        entry = parked.get(connection, number)
        lines = parked.export(connection, entry)
        try:
            if file is None:
                for line in lines:
                    sys.stdout.write(line.decode() + "\n")
                sys.stdout.flush()
            else:
                with file.open("wb") as out:
                    out.writelines(line + b"\n" for line in lines)
        except OSError as problem:
            if isinstance(problem, BrokenPipeError):
                raise
            raise KattegatError(f"{file} can't be written ({problem.strerror}); choose another file.") from None
    return 0


@app.command
def purge(
    *numbers: int,
    everything: Annotated[bool, Parameter(name="--all", negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Throws parked things away for good; a release that comes back finds them empty.

    Parameters
    ----------
    numbers
        As kat parked list shows them.
    everything
        All there are.
    yes
        Without a question.
    """
    if everything == bool(numbers):
        raise UsageError(
            "Say which parked things to throw away by their numbers, or --all; kat parked list shows them."
        )
    terminal = Terminal(json=json)
    with opened(any_release=True) as install:
        with install.database.begin("kat_owner") as connection:
            there = parked.everything(connection)
            chosen = there if everything else [parked.get(connection, number) for number in dict.fromkeys(numbers)]
        for entry in chosen:
            rows = f"{entry.rows:,} rows, " if entry.rows else ""
            terminal.say(f"Lost for good: {entry.kind} {entry.was} ({rows}{size(entry.size)}).")
        if not chosen:
            terminal.say("Nothing is parked.")
        elif not yes and not terminal.ask("Throw this away? Only a backup could bring it back."):
            raise DeclinedError("Nothing was changed.")
        with install.database.begin("kat_owner") as connection:
            done = parked.purge(connection, [entry.id for entry in chosen], actor(), socket.gethostname())
    emit({"purged": done}, json, lambda console: console.print(f"{len(done)} parked things were thrown away."))
    return 0


def size(count: int) -> str:
    """Bytes for a person: `12 kB`."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _when(entry: parked.Parked) -> str:
    return moment(entry.parked_at) if entry.parked_at else ""

"""The `kat` command. Errors of ours end as one sentence on stderr and an exit code: 2 wrong usage, 3 not complete,
4 another release is needed.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import structlog
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from kattegat.cli import (
    backup,
    evidence,
    keys,
    lifecycle,
    look,
    openkat,
    parked,
    pauses,
    plugin,
    plugins,
    process,
    runners,
    schedule,
    status,
    tasks,
    up,
)
from kattegat.cli.scan import STANDARD_INPUT, scan
from kattegat.errors import KattegatError, UsageError

app = App(
    name="kat",
    help="Watches over systems: scans what it may scan, keeps the evidence, judges it, reports what is wrong.",
    version=lambda: version("kattegat"),
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=""),
)
for command in (scan, up.up, status.status, up.doctor, look.assets, look.asset, look.findings, tasks.tasks):
    app.command(command)
for command in (lifecycle.upgrade, lifecycle.downgrade, lifecycle.finalize, lifecycle.history):
    app.command(command)
app.command(tasks.run)
app.command(pauses.pause)
app.command(pauses.resume)
app.command(pauses.listed, name="pauses")
for group in (tasks.app, runners.app, schedule.app, schedule.block):
    app.command(group)
for group in (evidence.app, backup.app, parked.app, openkat.app, keys.app, plugins.app, plugin.app, process.app):
    app.command(group)


def run(arguments: list[str] | None = None) -> None:
    """Runs `kat` and ends the process with its exit code."""
    sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def _readable(arguments: list[str]) -> None:
    """Raises `UsageError` for bytes that are no text: no key or organisation has them, and no database keeps them."""
    for argument in arguments:
        if "\x00" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"The argument {argument[:80]!r} is no UTF-8 text; type it again.")


def main(arguments: list[str]) -> int:
    """Runs `kat`; gives the exit code."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        _readable(arguments)
        # A lone hyphen is an option without a name to the parser.
        arguments = [STANDARD_INPUT if argument == "-" else argument for argument in arguments]
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except KattegatError as problem:
        console.print(f"kat: {problem}", markup=False)
        return problem.exit_code
    except CycloptsError as problem:
        said = " ".join(str(problem).split()).rstrip(" .,")
        console.print(f"kat: {said}; `kat --help` shows what there is.", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("kat: stopped.", markup=False)
        return 3
    except BrokenPipeError:
        return 0
    return result if isinstance(result, int) else 0

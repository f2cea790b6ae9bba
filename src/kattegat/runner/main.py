"""The command line of the runner: `kat runner`, and `python -m kattegat.runner` on a machine of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import aclosing, closing
from pathlib import Path

from kattegat import logs, registry, settings
from kattegat.errors import KattegatError
from kattegat.model import keys
from kattegat.runner.door import Door
from kattegat.runner.net import Shared
from kattegat.runner.outbox import Outbox
from kattegat.runner.process import Runner, raise_file_limit, serve


def arguments() -> argparse.ArgumentParser:
    """What the runner is told on its command line; the rest is in the environment."""
    parser = argparse.ArgumentParser(prog="kat runner", description="Performs scans for an install of Kattegat.")
    parser.add_argument("--door", required=True, help="https://HOST:PORT or unix:/PATH of the web process")
    parser.add_argument("--token-file", required=True, type=Path, help="file with this runner's token")
    parser.add_argument("--ca-file", type=Path, help="PEM file: the only certificates to trust the door by")
    parser.add_argument("--name", default="", help="what this runner is called (default: host name and process)")
    parser.add_argument("--vantage", default="internet", help="where it scans from: internet, inside, dmz, ...")
    parser.add_argument("--spool", type=Path, help="folder for results that could not be handed in yet")
    return parser


async def _run(given: argparse.Namespace, install: settings.Settings) -> None:
    name = given.name or f"{socket.gethostname()}-{os.getpid()}"
    try:
        outbox = Outbox(given.spool or install.data_dir / "runner-spool")
    except OSError as problem:
        raise KattegatError(f"The spool folder can't be used ({problem}); name another one with --spool.") from None
    with closing(outbox):
        door = Door(given.door, given.token_file, given.ca_file)
        async with aclosing(door):
            shared = Shared.of(install, keys.zone(given.vantage))
            await serve(Runner(door, registry.load(), install, shared, outbox, name=name), outbox)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code: 0 stopped, 2 wrong usage, 3 could not start,
    4 another release is needed.
    """
    given = arguments().parse_args(argv)
    try:
        install = settings.load()
        logs.to_stderr(install.log, "runner")
        raise_file_limit()
        asyncio.run(_run(given, install))
    except KattegatError as problem:
        sys.stderr.write(f"kat runner: {problem}\n")
        return problem.exit_code
    return 0

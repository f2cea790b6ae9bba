"""`kat process ...`: one process of the install in the foreground, as `kat up`, systemd or a container starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from kattegat import settings

# Each process imports its own room only: the runner starts without a database driver, the worker without a web server.
app = App(name="process", help="One process of the install, in the foreground.")


@app.command
def web(*, http: bool = True, socket: Path | None = None) -> int:
    """The web process: pages, health, and the door for runners.

    Parameters
    ----------
    http
        Listen on KAT_LISTEN and KAT_PORT.
    socket
        Listen on this Unix socket too, for the runner of the same machine.
    """
    from kattegat.web import process as web_process

    web_process.run(settings.load(), tcp=http, unix=socket)
    return 0


@app.command
def scheduler() -> int:
    """The scheduler: queues what is due, and takes back what nobody works on any more."""
    from kattegat.scheduler import process as scheduler_process

    scheduler_process.run(settings.load())
    return 0


@app.command
def worker() -> int:
    """A worker: reads evidence, records facts, runs checks."""
    from kattegat.worker import process as worker_process

    worker_process.run(settings.load())
    return 0


@app.command
def runner(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """A runner: performs scans; needs no database. `kat process runner --help` says more."""
    from kattegat.runner import main as runner_main

    return runner_main.main(list(arguments))

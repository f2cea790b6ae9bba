"""`kat process ...`: one process of the install in the foreground, as `kat up`, systemd or a container starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from kattegat import settings

# Each process imports its own room only: the runner starts without a database driver, the worker without a web server.
app = App(name="process", help="One process of the install, in the foreground.")


@app.command
def web(
    *, http: bool = True, socket: Path | None = None, group: Annotated[bool, Parameter(negative="")] = False
) -> int:
    """The web process: pages, health, and the door for runners.

    Parameters
    ----------
    http
        Listen on KAT_LISTEN and KAT_PORT.
    socket
        Listen on this Unix socket too, for the runner of the same machine.
    group
        Let this process's group use that socket too: for a runner under a user of its own.
    """
    from kattegat.web import process as web_process

    web_process.run(settings.load(), tcp=http, unix=socket, group=group)
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


@app.command
def prepare(
    *,
    token_file: Path | None = None,
    runner: str = "local",
    vantage: str = "internet",
    group: Annotated[bool, Parameter(negative="")] = False,
    wait: float = 60.0,
) -> int:
    """Makes what the processes need before their start: the schema in an empty database, the runner's token.

    Never changes the schema of an older or newer database: it stops with the sentence that says what to type.

    Parameters
    ----------
    token_file
        Where the runner's token is kept; one that works is left as it is.
    runner
        The name of the runner that the token is for.
    vantage
        Where that runner scans from: internet, inside, dmz, ...
    group
        Let the group of this user read the token: for a runner under a user of its own.
    wait
        Seconds to wait for a database that does not answer yet.
    """
    from kattegat.cli import service

    service.prepare(token_file, runner, vantage, group=group, wait=wait)
    return 0


@app.command
def health(role: str, /, *, door: str = "", token_file: Path | None = None, ca_file: Path | None = None) -> int:
    """Whether a process of this machine does its work: ends with 0, or with 3 and one sentence.

    Parameters
    ----------
    role
        web, scheduler, worker or runner.
    door
        For a runner: the door that it uses.
    token_file
        For a runner: the file with its token.
    ca_file
        For a runner: the only certificates to trust the door by.
    """
    from kattegat.cli import service

    service.health(role, door, token_file, ca_file)
    return 0

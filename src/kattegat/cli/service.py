"""`kat process prepare|health`: what containers and service managers need around the four processes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import aclosing
from pathlib import Path

import httpx

from kattegat import settings
from kattegat.cli.install import Install, opened
from kattegat.errors import KattegatError, UsageError
from kattegat.model.work import Heartbeat
from kattegat.runner.door import Door
from kattegat.scheduler import beat, runners
from kattegat.settings import Settings
from kattegat.store import server
from kattegat.store.database import DatabaseUnreachableError, open_database

SILENT_SECONDS = 30.0
ANSWER_SECONDS = 5.0
PAUSE_SECONDS = 1.0


class NotHealthyError(KattegatError):
    """A process that does not do its work."""

    def __init__(self, role: str, said: str) -> None:
        self.role = role
        super().__init__(f"The {role} process is not healthy: {said}.")


class TokenFileError(KattegatError):
    """A token that can't be kept where it was asked for."""

    def __init__(self, path: Path, said: str) -> None:
        self.path = path
        super().__init__(
            f"The runner's token can't be kept in {path} ({said}): name a file in a folder that this user may write to."
        )


def prepare(token_file: Path | None, runner: str, vantage: str, *, group: bool, wait: float) -> None:
    """Makes the schema in an empty database, and a token for the runner where the file holds none that is valid.

    An older or newer database is left as it is: that raises the sentence which `kat up` would end with. A database that
    does not answer yet is waited for, `wait` seconds at most.
    """
    end = time.monotonic() + wait
    while True:
        try:
            with opened(make=True) as install:
                if token_file is not None:
                    _keep_token(install, token_file, runner, vantage, group=group)
            return
        except DatabaseUnreachableError:
            if time.monotonic() > end:
                raise
        time.sleep(PAUSE_SECONDS)


def _keep_token(install: Install, path: Path, name: str, vantage: str, *, group: bool) -> None:
    # A token that works is kept: a new one would shut out the runner that uses it now.
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = ""
    except (OSError, UnicodeDecodeError) as problem:
        raise TokenFileError(path, getattr(problem, "strerror", None) or "it is no text") from None
    with install.database.begin("kat_system") as connection:
        found = runners.by_token(connection, token) if token else None
        if found is not None and (found.name, found.vantage, found.revoked_at) == (name, vantage, None):
            return
        token = runners.register(connection, name, vantage=vantage)
        # In the transaction: without the file the former token stays valid.
        _write(path, token, 0o640 if group else 0o600)


def _write(path: Path, token: str, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            file.write(token)
        fresh.replace(path)
    except OSError as problem:
        raise TokenFileError(path, problem.strerror or "it can't be written") from None


def health(role: str, door: str, token_file: Path | None, ca_file: Path | None) -> None:
    """Raises `NotHealthyError` unless the process of this role on this machine does its work.

    The web process must answer on its port, the scheduler and the workers must have reported to the database lately,
    and for a runner the door must answer and know its token.
    """
    chosen = settings.load()
    if role == "web":
        _web(chosen)
    elif role in ("scheduler", "worker"):
        _reported(chosen, role)
    elif role == "runner":
        if not door or token_file is None:
            raise UsageError("The health of a runner needs --door and --token-file, the same as the runner has.")
        asyncio.run(_door(door, token_file, ca_file))
    else:
        raise UsageError(f"There is no process {role!r}; there are web, scheduler, worker and runner.")


def _web(chosen: Settings) -> None:
    listen = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(chosen.listen, chosen.listen)  # noqa: S104 - compared only
    host = f"[{listen}]" if ":" in listen else listen
    try:
        answer = httpx.get(f"http://{host}:{chosen.port}/health", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError as problem:
        raise NotHealthyError("web", f"it does not answer on port {chosen.port} ({problem})") from None
    if answer.status_code != 200:
        raise NotHealthyError("web", f"it answers with status {answer.status_code}, so the database is away")


def _reported(chosen: Settings, role: str) -> None:
    here = socket.gethostname()
    # A look must not start the embedded server.
    if not chosen.database_url and server.status(chosen.data_dir).state != server.State.RUNNING:
        raise NotHealthyError(role, "the database of this install does not run")
    database = open_database(chosen)
    try:
        with database.begin("kat_system") as connection:
            ages = [entry.seconds for entry in beat.running(connection) if (entry.role, entry.host) == (role, here)]
    finally:
        database.close()
    if not ages:
        raise NotHealthyError(role, f"none on {here} is on the list that kat status shows")
    if min(ages) > SILENT_SECONDS:
        raise NotHealthyError(role, f"it has not reported for {min(ages):.0f} seconds")


async def _door(url: str, token_file: Path, ca_file: Path | None) -> None:
    client = Door(url, token_file, ca_file, ANSWER_SECONDS)
    async with aclosing(client):
        try:
            await client.heartbeat(Heartbeat([]))
        except KattegatError as problem:
            raise NotHealthyError("runner", str(problem).rstrip(".")) from None

"""`kat up|doctor`: starting the whole install, and saying what each part of it lacks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import httpx
from cyclopts import Parameter
from rich.text import Text
from sqlalchemy import text

from kattegat import registry, settings
from kattegat.cli import lifecycle
from kattegat.cli.install import Install, opened
from kattegat.cli.output import emit, progress_console, table
from kattegat.cli.scan import runner_token
from kattegat.cli.supervise import ROLES, Seat, Supervisor
from kattegat.errors import KattegatError, UsageError
from kattegat.evidence import vault
from kattegat.lifecycle import keys
from kattegat.runner import dns
from kattegat.scheduler import beat, listing
from kattegat.store import migrate, server

Json = Annotated[bool, Parameter(name="--json", negative="", help="One JSON document on stdout.")]

LOCAL_RUNNER = text("SELECT name, seen_at, extract(epoch FROM now() - seen_at) AS seconds FROM runner ORDER BY name")
LIVE_SECONDS = 20.0
READY_SECONDS = 60.0
LITTLE_SPACE = 1024**3


def up(*, port: Annotated[int | None, Parameter(name="--port")] = None) -> int:
    """Starts the whole install and stays in the foreground; Ctrl-C stops it. Never migrates an older database.

    Parameters
    ----------
    port
        The port that the web process listens on, in place of KAT_PORT.
    """
    if port is not None:
        if not 0 < port < 65536:
            raise UsageError(f"--port {port} is no port; it is 1 to 65535.")
        os.environ["KAT_PORT"] = str(port)
    console = progress_console()
    if settings.load().upgrade == "auto":
        lifecycle.automatic()
    with opened(make=True, progress=lambda said: console.print(said, style="dim")) as install:
        seat = Seat.take(install.settings)
        living = {role for role in ROLES if role in install.live()}
        if living or seat is None:
            who = ", ".join(sorted(living)) or "it is starting or stopping"
            raise UsageError(f"This install runs already ({who}); kat status shows it.")
        _check_port(install.settings.listen, install.settings.port)
        supervisor = Supervisor(install.settings, runner_token(install), http=True)
        with _stopping() as stopped:
            supervisor.start()
            try:
                address = f"http://{_shown(install.settings.listen)}:{install.settings.port}/"
                _wait_until_ready(supervisor, address, stopped)
                if not stopped:
                    console.print(
                        f"Kattegat is up at {address} (data in {install.settings.data_dir}). Ctrl-C stops it."
                    )
                    if keys.recovery(install.settings.data_dir) is None:
                        console.print("No recovery passphrase is set: kat keys recovery set", style="dim")
                while not stopped:
                    install.check_release()
                    supervisor.look(patience=1_000_000)
                    install.revive()
                    time.sleep(0.5)
            finally:
                supervisor.stop(lambda said: console.print(said, style="dim"))
                # Whoever has the seat uses the embedded server: only without it is that stopped, too.
                seat.leave()
    return 0


def _check_port(listen: str, port: int) -> None:
    """Raises `KattegatError` when the web process could not listen: a stranger there would answer in its place."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, UnicodeError) as problem:
        raise KattegatError(
            f"The web process can't listen on {listen} port {port} ({getattr(problem, 'strerror', None) or problem}):"
            " choose another with KAT_LISTEN, KAT_PORT or --port."
        ) from None


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that SIGTERM and Ctrl-C put their number into."""
    got: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _frame: got.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield got
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _wait_until_ready(supervisor: Supervisor, address: str, stopped: list[int]) -> None:
    end = time.monotonic() + READY_SECONDS
    while not stopped:
        supervisor.look(patience=2)
        try:
            if httpx.get(f"{address}health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > end:
            raise KattegatError(
                f"The web process does not answer at {address}; its log in the data directory says why."
            )
        time.sleep(0.2)


class Part(NamedTuple):
    """A part of the install: fine, or what to do."""

    name: str
    fine: bool
    said: str


def doctor(*, json: Json = False) -> int:
    """Looks at each part of the install: fine, or what to do. Ends with 3 when something is to be done."""
    parts: list[Part] = []
    chosen = settings.load()
    parts.append(Part("settings", True, f"data directory {chosen.data_dir}"))
    parts.append(_space(chosen.data_dir))
    try:
        loaded = registry.load()
        parts.append(Part("plugins", True, f"{len(loaded.scanners)} scanners, {len(loaded.checks)} checks"))
    except KattegatError as problem:
        parts.append(Part("plugins", False, str(problem)))
    try:
        resolvers = ", ".join(f"{entry.address}:{entry.port}" for entry in dns.resolvers(chosen.dns_server))
        parts.append(Part("resolver", bool(resolvers), resolvers or "none: set KAT_DNS_SERVER"))
    except KattegatError as problem:
        parts.append(Part("resolver", False, str(problem)))
    nmap = shutil.which("nmap")
    parts.append(Part("nmap", True, nmap or "not installed: services are told by their banners only"))
    if not chosen.database_url and server.status(chosen.data_dir).state == server.State.ABSENT:
        parts.append(Part("database", False, "there is none yet: kat up or kat scan makes it"))
    else:
        parts += _inside()
    emit(
        {"parts": [part._asdict() for part in parts]},
        json,
        lambda console: console.print(
            table(
                ["part", "", ""],
                [(p.name, Text("fine", "green") if p.fine else Text("to do", "red"), p.said) for p in parts],
            )
        ),
    )
    return 0 if all(part.fine for part in parts) else 3


def _space(folder: Any) -> Part:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{free / 1024**3:.1f} GiB free on the disk of {folder}"
    return Part(
        "disk", free > LITTLE_SPACE, said if free > LITTLE_SPACE else f"{said}: make room, evidence is kept there"
    )


def _inside() -> list[Part]:
    parts: list[Part] = []
    try:
        with opened() as install:
            parts.append(Part("database", True, f"answers, schema revision {migrate.head()}"))
            parts += _processes(install)
            parts.append(_vault(install))
            parts.append(_recovery(install))
    except KattegatError as problem:
        parts.append(Part("database", False, str(problem)))
    return parts


def _processes(install: Install) -> list[Part]:
    with install.database.begin("kat_system") as connection:
        live = {entry.role for entry in beat.running(connection) if entry.seconds < LIVE_SECONDS}
        dead = listing.count(connection, listing.Filter(states=["dead"]))
        runners = [row for row in connection.execute(LOCAL_RUNNER) if row.seconds is not None]
    found = [
        Part(role, role in live, "runs" if role in live else "does not run: kat up starts it")
        for role in ("web", "scheduler", "worker")
    ]
    awake = [row.name for row in runners if row.seconds < LIVE_SECONDS]
    found.append(Part("runner", bool(awake), ", ".join(awake) or "none has been heard from: kat up starts one"))
    said = f"{dead} tasks gave up; kat tasks --state dead shows why" if dead else "no task has given up"
    found.append(Part("tasks", not dead, said))
    return found


def _recovery(install: Install) -> Part:
    try:
        found = keys.recovery(install.settings.data_dir)
    except KattegatError as problem:
        return Part("recovery", False, str(problem))
    if found is None:
        return Part("recovery", False, "backups carry no keys while no passphrase is set: kat keys recovery set")
    return Part("recovery", True, f"backups wrap the keys to key {found.key_id()}, set on {found.made_at[:10]}")


def _vault(install: Install) -> Part:
    try:
        vault.open_vault(install.settings)
    except KattegatError as problem:
        return Part("evidence", False, str(problem))
    return Part("evidence", True, "the vault opens; kat evidence verify proves its contents")

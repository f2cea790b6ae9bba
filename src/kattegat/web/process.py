"""The web process: uvicorn on a TCP address and, for the runner of the same machine, on a Unix socket."""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from kattegat import logs
from kattegat import registry as registries
from kattegat.errors import KattegatError
from kattegat.evidence import vault as vaults
from kattegat.scheduler import beat, job
from kattegat.settings import Settings
from kattegat.store.database import Database, DatabaseUnreachableError, open_database
from kattegat.web.app import create_app

ROLE = "web"
# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_BYTES = 103

log = structlog.get_logger()


class ListenError(KattegatError):
    """An address or socket that can't be listened on."""


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again at its end, and the process would die before it has tidied up."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen_tcp(address: str, port: int) -> socket.socket:
    """A listening socket; raises `ListenError` with what to do."""
    made: socket.socket | None = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(512)
    except OSError as problem:
        if made is not None:
            made.close()
        raise ListenError(
            f"The web process can't listen on {address} port {port} ({problem.strerror or problem}); end what uses it"
            " or set KAT_LISTEN and KAT_PORT."
        ) from None
    return made


def listen_unix(path: Path, *, group: bool = False) -> socket.socket:
    """A listening Unix socket that only its owner can use; a left-over one is replaced, one in use is an error.

    With `group` its group can use it too: a runner under a user of its own.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ListenError(f"The path {path} is too long for a socket; use a shorter KAT_DATA_DIR.")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.exists():
        try:
            made.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            made.close()
            raise ListenError(f"Another web process listens on {path}; end it first.")
        made.close()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117 if group else 0o177)
    try:
        made.bind(str(path))
    except OSError as problem:
        made.close()
        raise ListenError(f"The socket {path} can't be made ({problem.strerror}).") from None
    finally:
        os.umask(mask)
    made.listen(512)
    return made


def server(
    database: Database, settings: Settings, *, vault: vaults.Vault | None = None, options: job.Options = job.in_force
) -> uvicorn.Server:
    """The server of this install's application, not running yet."""
    app = create_app(
        database,
        vaults.open_vault(settings) if vault is None else vault,
        registries.load(),
        settings,
        options=options,
    )
    return _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=10))


def run(
    settings: Settings,
    *,
    tcp: bool = True,
    unix: Path | None = None,
    group: bool = False,
    options: job.Options = job.in_force,
    ready: Callable[[], None] | None = None,
) -> None:
    """The process: until SIGTERM or SIGINT. `ready` is called when the sockets are open.

    With `group` the group of this process can use the Unix socket too.
    """
    logs.to_stderr(settings.log, ROLE)
    database = open_database(settings)
    sockets: list[socket.socket] = []
    stop = threading.Event()
    with suppress(DatabaseUnreachableError):
        database.learn()
    beating = threading.Thread(target=_beat, args=(database, stop), name="beat", daemon=True)
    try:
        if tcp:
            sockets.append(listen_tcp(settings.listen, settings.port))
        if unix is not None:
            sockets.append(listen_unix(unix, group=group))
        web = server(database, settings, options=options)
        beating.start()
        if ready is not None:
            ready()
        leave = functools.partial(setattr, web, "should_exit", True)
        with beat.on_signals(leave), beat.right_release(database, leave, deadline=beat.give_up):
            web.run(sockets=sockets)
    finally:
        stop.set()
        if beating.ident is not None:
            beating.join(5)
        for entry in sockets:
            entry.close()
        if unix is not None and len(sockets) == (2 if tcp else 1):
            with suppress(OSError):
                unix.unlink()
        database.close()


def _beat(database: Database, stop: threading.Event) -> None:
    listed: int | None = None
    while True:
        try:
            with database.begin("kat_system") as conn:
                if listed is None:
                    listed = beat.start(conn, ROLE)
                elif stop.is_set():
                    beat.stop(conn, listed)
                else:
                    beat.seen(conn, listed)
        except (SQLAlchemyError, KattegatError) as problem:
            log.error("the web process could not sign in", problem=str(problem).splitlines()[0])
        if stop.is_set():
            return
        stop.wait(beat.BEAT_SECONDS)

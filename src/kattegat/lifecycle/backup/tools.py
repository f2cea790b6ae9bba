"""pg_dump and pg_restore: which ones, and running them with progress."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from kattegat.errors import KattegatError
from kattegat.lifecycle.backup.errors import SpaceError, ToolError
from kattegat.lifecycle.backup.reach import Reach
from kattegat.store.account import bin_dir

TICK = 0.2


class Tools(msgspec.Struct, frozen=True):
    """A folder with pg_dump and pg_restore of one version (`18.6`)."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """Their major version."""
        return int(self.version.split(".")[0])


def find(reach: Reach, given: Path | None = None) -> Tools:
    """Tools of the server's own major version, else of the nearest newer one.

    Looked for in `given` alone where that is set (KAT_PG_BIN), else in what came with Kattegat, on the PATH, and where
    distributions put them. Raises `ToolError`: an older pg_dump refuses a newer server.
    """
    folders = [given] if given is not None else list(_folders(reach))
    found = [tools for folder in folders if (tools := _tools(folder)) is not None]
    fit = sorted((tools for tools in found if tools.major >= reach.major), key=lambda tools: tools.major)
    if fit:
        return fit[0]
    where = f"in KAT_PG_BIN ({given})" if given is not None else "on the PATH"
    have = f"pg_dump {max(tool.version for tool in found)} {where} is too old" if found else f"there is none {where}"
    raise ToolError(
        f"The server is PostgreSQL {reach.major} and needs pg_dump and pg_restore {reach.major} or newer, but {have}:"
        f" install postgresql-client-{reach.major}, or set KAT_PG_BIN to the folder that has them."
    )


def _folders(reach: Reach) -> Iterator[Path]:
    with suppress(KattegatError):
        yield bin_dir()
    for name in os.environ.get("PATH", "").split(os.pathsep):
        if name:
            yield Path(name)
    for pattern in (f"/usr/lib/postgresql/{reach.major}/bin", f"/usr/pgsql-{reach.major}/bin"):
        yield Path(pattern)


def _tools(folder: Path) -> Tools | None:
    dump, restore = folder / "pg_dump", folder / "pg_restore"
    if not os.access(dump, os.X_OK) or not os.access(restore, os.X_OK):
        return None
    try:
        done = subprocess.run([dump, "--version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+[.\w]*)", done.stdout)
    return Tools(folder, version[1]) if version else None


def dump(
    tools: Tools, reach: Reach, target: Path, snapshot: str, jobs: int, tick: Callable[[], None] = lambda: None
) -> None:
    """Dumps the whole database as it is in the exported snapshot into the new folder `target`; `tick` is called often.

    Raises `ToolError`, or `SpaceError` for a full disk.
    """
    dsn, environment = reach.for_tools(reach.database)
    command = [str(tools.folder / "pg_dump"), "-d", dsn, "-Fd", "-f", str(target), "-j", str(jobs)]
    # The fastest of gzip's levels: pg_dump is bound by compression, and every build of pg_restore reads gzip.
    command += ["--snapshot", snapshot, "--compress", "1", "--no-password", "--lock-wait-timeout", "60000"]
    if reach.role is not None:
        command += ["--role", reach.role]
    if reach.bound:
        command += ["--enable-row-security"]
    _run(command, environment, target.parent, tick)


def restore(
    tools: Tools, reach: Reach, source: Path, database: str, jobs: int, tick: Callable[[], None] = lambda: None
) -> None:
    """Restores a dump into an empty database; raises `ToolError` or `SpaceError`."""
    dsn, environment = reach.for_tools(database)
    command = [str(tools.folder / "pg_restore"), "-d", dsn, "-Fd", "-j", str(jobs), "--no-password"]
    if reach.bound:
        # Foreign keys are checked by queries that policies hold for; they let kat_owner see every row.
        command.append("--enable-row-security")
    command.append(str(source))
    # What a crash would lose is made durable before the database is put to use.
    environment["PGOPTIONS"] = "-c synchronous_commit=off -c statement_timeout=0 -c lock_timeout=0"
    _run(command, environment, None, tick)


def members(tools: Tools, source: Path) -> int:
    """How many things a dump holds; raises `ToolError` for one whose table of contents can't be read."""
    done = subprocess.run(
        [tools.folder / "pg_restore", "-l", source], capture_output=True, text=True, check=False, env=_environment({})
    )
    if done.returncode:
        line = _telling(done.stderr.splitlines())
        raise ToolError(f"The dump can't be read ({line}): `kat backup list` shows other backups.", line)
    return sum(1 for line in done.stdout.splitlines() if line and not line.startswith(";"))


def _run(command: list[str], environment: Mapping[str, str], place: Path | None, tick: Callable[[], None]) -> None:
    name = Path(command[0]).name
    said: deque[str] = deque(maxlen=200)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(environment),
        )
    except OSError as problem:
        raise ToolError(f"{command[0]} can't be started ({problem.strerror}): set KAT_PG_BIN to another.") from None
    errors = process.stderr
    reader = threading.Thread(target=lambda: said.extend(errors or ()), daemon=True)
    reader.start()
    try:
        while True:
            try:
                process.wait(TICK)
                break
            except subprocess.TimeoutExpired:
                tick()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        reader.join()
        if process.stderr is not None:
            process.stderr.close()
    tick()
    lines = [line.strip() for line in said if not _harmless(line)]
    failed = [line for line in lines if "error:" in line or "ERROR:" in line]
    # A newer pg_restore sets what an older server does not know and then counts that one as an error.
    if process.returncode and (failed or len(lines) == len(said)):
        line = _telling(failed or lines)
        if place is not None and "No space left" in " ".join(lines):
            raise SpaceError(place, -1, 0)
        todo = "make room on the server's disk" if "No space left" in line else "put that right"
        raise ToolError(f"{name} ended with an error ({line}): {todo} and type the same command again.", line)


def _harmless(line: str) -> bool:
    return "transaction_timeout" in line or "errors ignored on restore" in line


def _telling(lines: list[str]) -> str:
    line = next((line for line in lines if "error:" in line or "ERROR:" in line), lines[-1] if lines else "no word")
    return re.sub(r"^pg_\w+: (error: )?", "", line).strip().rstrip(".")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """None of our PG* variables: they would lead the tools elsewhere."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "HOME") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"} | dict(more)


def free(folder: Path) -> int:
    """Bytes that this user may still write there."""
    return shutil.disk_usage(folder).free

"""The server process of a cluster: whether it lives, what it says in its log, and what a killed one left behind."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import make_conninfo

from kattegat.store.layout import PORT, Layout

REPORT_SECONDS = 5.0


def ping(layout: Layout) -> pq.Ping:
    # A user and a database are named so that libpq looks up neither our own name nor our environment. A stopped or
    # swapped-out server leaves us in the queue of its socket: not for ever, and that is no answer.
    target = make_conninfo(
        "", host=str(layout.socket_dir()), port=PORT, user="kat_admin", dbname="postgres", connect_timeout=2
    )
    return pq.Ping(pq.PGconn.ping(target.encode()))


def patience() -> Iterator[bool]:
    """Wait ever longer between tries, up to half a second; True every REPORT_SECONDS: time to say something."""
    pause, said = 0.02, time.monotonic()
    while True:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
        due = time.monotonic() - said >= REPORT_SECONDS
        yield due
        if due:
            said = time.monotonic()


def _pid_file(layout: Layout) -> list[str]:
    try:
        return (layout.cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def ready(layout: Layout) -> bool:
    # Line 8 is the server's own word about its state (miscadmin.h, LOCK_FILE_LINE_PM_STATUS).
    lines = _pid_file(layout)
    return len(lines) > 7 and lines[7].strip() == "ready"


def postmaster(layout: Layout) -> int | None:
    """The pid in postmaster.pid if that process lives and is the server of this cluster, not a later bearer."""
    lines = _pid_file(layout)
    if not lines or not lines[0].strip().lstrip("-").isdigit():
        return None
    pid = abs(int(lines[0]))
    if not alive(pid):
        return None
    return pid if not Path("/proc/self/cwd").exists() or pid in processes_in(layout.cluster, pid) else None


def alive(pid: int) -> bool:
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


def processes_in(cluster: Path, only: int | None = None) -> list[int]:
    """The postgres processes working in this cluster, by /proc: each has it as its working directory."""
    place = cluster.stat()
    found = []
    for pid in [only] if only else [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        with suppress(OSError):
            process = Path(f"/proc/{pid}")
            at = (process / "cwd").stat()
            here = (at.st_dev, at.st_ino) == (place.st_dev, place.st_ino)
            if here and (process / "comm").read_text().startswith("postgres") and alive(pid):
                found.append(pid)
    return found


def clear_crash(layout: Layout) -> None:
    """End what a killed server left behind, as it would have ended it itself: children that still run a query hold
    the shared memory, and no new server starts before they let go. The caller has made sure that no server lives."""
    if not Path("/proc/self/cwd").exists():
        return
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for waited in patience():
            left = processes_in(layout.cluster)
            if not left:
                break
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if waited:
                break
    lines = _pid_file(layout)
    if lines and postmaster(layout) is None:
        # Stale. The server removes it too, unless the pid lives: as a zombie that nobody collects (a container without
        # init) or as another process of the same user (after a restart of the container).
        (layout.cluster / "postmaster.pid").unlink(missing_ok=True)
        (layout.socket_dir() / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)


def log_sizes(layout: Layout) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in layout.log.glob("postgres*.log")}


def telling_since(layout: Layout, before: dict[str, int], *, progress: bool = False) -> tuple[Path, str]:
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
        line = _newest(text) if progress else telling(text, sure=path == layout.start_log and not best[1])
        if line:
            best = path, line
    return best


def _newest(text: str) -> str:
    lines = [line.partition("LOG:  ")[2] for line in text.splitlines() if "redo " in line or "recovery" in line]
    return lines[-1].strip() if lines else ""


def telling(text: str, *, sure: bool = True) -> str:
    """The line that says why: the first FATAL, PANIC or error that is not the server turning clients away.

    With `sure` the last line stands in where none is."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = ""
    for line in lines:
        found = re.search(r"\b(PANIC|FATAL|(?:initdb: )?error|LOG|WARNING):\s+(.*)", line)
        if not found or "the database system is " in found[2]:
            continue
        if found[1] in ("LOG", "WARNING"):
            # Some FATAL lines only sum up what was said before them.
            cause = cause or (found[2] if re.search("could not|invalid|syntax|unrecognized", found[2]) else "")
        elif cause and re.search("contains errors|could not create any|could not load|aborting startup", found[2]):
            return cause
        else:
            return found[2]
    return lines[-1] if sure and lines else ""

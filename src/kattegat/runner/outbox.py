"""Results on their way to the door: in memory, and on disk when the door is away for long or the runner ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import OrderedDict
from pathlib import Path

import msgspec
import structlog

from kattegat.errors import UsageError
from kattegat.model.work import Result

MEMORY = 64 * 1024 * 1024
SUFFIX = ".result"

Lease = tuple[int, int]


class SpoolTaken(UsageError):  # noqa: N818 - a plain word
    """A spool folder that another runner on this machine has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"Another runner uses {folder} as its spool; give this one a folder of its own with --spool.")


class Outbox:
    """Finished results that the door has not taken yet, oldest first.

    `folder` is made when it is missing, readable by its owner only: evidence may hold secrets. What is there from an
    earlier run is part of the outbox. Raises `SpoolTaken`, and OSError for a folder that can't be used.
    """

    def __init__(self, folder: Path, memory: int = MEMORY) -> None:
        self._folder = folder
        self._most = memory
        self._waiting: OrderedDict[Lease, bytes | Path] = OrderedDict()
        self._size = 0
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Held as long as this object lives, and let go by the kernel however the process ends.
        self._lock = open(folder / "lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SpoolTaken(folder) from None
        for leftover in folder.glob("*.part"):
            leftover.unlink(missing_ok=True)  # was never whole, so was never promised
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns):
            lease = _lease(path)
            if lease is not None:
                self._waiting[lease] = path
        self._note()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def leases(self) -> list[Lease]:
        """The leases of everything that waits."""
        return list(self._waiting)

    @property
    def full(self) -> bool:
        """Whether memory holds more than it should because the disk could not take it: no time for new work."""
        return self._size > self._most

    def _note(self) -> None:
        if len(self):
            self._some.set()
            self._none.clear()
        else:
            self._some.clear()
            self._none.set()

    async def wait(self) -> None:
        """Returns when there is something to hand in."""
        await self._some.wait()

    async def wait_empty(self) -> None:
        """Returns when everything has been handed in."""
        await self._none.wait()

    def put(self, result: Result) -> None:
        """Takes a result in. Beyond the bound on memory it goes to disk; if the disk refuses, it stays in memory."""
        lease, content = (result.task_id, result.lease_token), msgspec.msgpack.encode(result)
        if self._size + len(content) > self._most and self._spool(lease, content):
            self._note()
            return
        self._waiting[lease] = content
        self._size += len(content)
        self._note()

    def next(self) -> tuple[Lease, bytes] | None:
        """The oldest result, packed, left in place until `drop`; None when there is none."""
        while self._waiting:
            lease, content = next(iter(self._waiting.items()))
            if isinstance(content, bytes):
                return lease, content
            try:
                packed = content.read_bytes()
                msgspec.msgpack.decode(packed, type=Result)
            except (OSError, msgspec.MsgspecError) as problem:
                # Left on disk for a person to look at, under a name that is not tried again.
                structlog.get_logger().error("spooled_result_unreadable", file=str(content), problem=str(problem))
                del self._waiting[lease]
                _aside(content)
                continue
            return lease, packed
        self._note()
        return None

    def later(self, lease: Lease) -> None:
        """Puts a result behind the others: the door can't take it yet, and may take them."""
        if lease in self._waiting:
            self._waiting.move_to_end(lease)

    def drop(self, lease: Lease) -> None:
        """Forgets a result: it was taken, or will never be."""
        content = self._waiting.pop(lease, None)
        if isinstance(content, bytes):
            self._size -= len(content)
        elif content is not None:
            content.unlink(missing_ok=True)
        self._note()

    def save(self) -> int:
        """Writes to disk what is only in memory, and says how many could not be written."""
        lost = 0
        for lease, content in list(self._waiting.items()):
            if isinstance(content, Path):
                continue
            if self._spool(lease, content):
                self._size -= len(content)
            else:
                lost += 1
        return lost

    def close(self) -> None:
        """Lets the folder go."""
        self._lock.close()

    def _spool(self, lease: Lease, content: bytes) -> bool:
        path = self._folder / f"{lease[0]}-{lease[1]}{SUFFIX}"
        part = path.with_suffix(".part")
        try:
            with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        except OSError as problem:
            structlog.get_logger().error("result_not_spooled", task=lease[0], problem=str(problem))
            part.unlink(missing_ok=True)
            return False
        self._waiting[lease] = path
        return True


def _aside(path: Path) -> None:
    try:
        path.rename(path.with_suffix(".unreadable"))
    except OSError as problem:
        structlog.get_logger().error("result_not_set_aside", file=str(path), problem=str(problem))


def _lease(path: Path) -> Lease | None:
    task, _, token = path.name.removesuffix(SUFFIX).partition("-")
    return (
        (int(task), int(token)) if task.isascii() and task.isdigit() and token.isascii() and token.isdigit() else None
    )

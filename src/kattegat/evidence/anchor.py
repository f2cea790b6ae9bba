"""Anchors: the chained hashes of sealed roots in a file outside the database, one line each, only ever appended to.

Whoever can change the database can't hide it while a copy of these files is out of reach. A line that a crash cut
short was never flushed as a whole: it is taken off by the next `write` and left out by `read`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

import msgspec
from sqlalchemy import Connection, text

from kattegat.evidence.errors import StoreError
from kattegat.store.layout import owned_by_parent

# More than two lines, so that the last whole one is in it.
_TAIL = 1024


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An anchored root: its place in the chain, its last leaf, its chained hash and the SHA-256 of its time stamp."""

    sequence: int
    last_leaf: int
    chained: str
    token: str | None = None

    def text(self) -> bytes:
        """The line as it is written: any other bytes are a changed line."""
        return msgspec.json.encode(self) + b"\n"


class Anchors(msgspec.Struct):
    """What a file says: its lines by sequence, and the numbers (from 1) of lines that are not as they were written."""

    lines: dict[int, Line] = {}
    damaged: list[int] = []


def path(folder: Path, organisation_id: int) -> Path:
    """The file of an organisation."""
    return folder / f"{organisation_id}.log"


def token_hash(token: bytes | None) -> str | None:
    """What a line says of a time stamp."""
    return None if token is None else hashlib.sha256(token).hexdigest()


def read(folder: Path, organisation_id: int) -> Anchors:
    """What is anchored; nothing where there is no file."""
    try:
        content = path(folder, organisation_id).read_bytes()
    except FileNotFoundError:
        return Anchors()
    except OSError as problem:
        raise StoreError(f"The anchors in {folder} can't be read ({problem.strerror}); run as their owner.") from None
    return _parse(content)


def _parse(content: bytes) -> Anchors:
    found = Anchors()
    for number, bare in enumerate(content.split(b"\n")[:-1], 1):
        raw = bare + b"\n"
        try:
            line = msgspec.json.decode(raw, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.damaged.append(number)
            continue
        if line.text() != raw or line.sequence != number or line.sequence in found.lines:
            found.damaged.append(number)
        else:
            found.lines[line.sequence] = line
    return found


def last(folder: Path, organisation_id: int) -> int:
    """The sequence of the last line, 0 where there is none; reads the end of the file only."""
    try:
        fd = os.open(path(folder, organisation_id), os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return _end(fd)[1]
    finally:
        os.close(fd)


def _end(fd: int) -> tuple[int, int]:
    """Where the last whole line ends, and its sequence."""
    size = os.fstat(fd).st_size
    start = max(0, size - _TAIL)
    tail = os.pread(fd, size - start, start)
    end = tail.rfind(b"\n") + 1
    whole = tail[:end].rstrip(b"\n").rsplit(b"\n", 1)
    if len(whole) == 2 or (start == 0 and end):
        try:
            return start + end, msgspec.json.decode(whole[-1], type=Line).sequence
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    # A damaged line still takes its place in the sequence: it is not written again as if nothing had happened.
    content = os.pread(fd, size, 0)
    return content.rfind(b"\n") + 1, content.count(b"\n")


def write(conn: Connection, folder: Path, organisation_id: int) -> int:
    """Appends the committed roots that have no line yet, flushed to the disk; gives how many.

    Roots written by this very transaction wait for the next call: they could still be rolled back.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        owned_by_parent(folder, folder.parent)
    try:
        fd = os.open(path(folder, organisation_id), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            return _append(conn, fd, folder, organisation_id)
        finally:
            os.close(fd)
    except OSError as problem:
        raise StoreError(
            f"The anchors in {folder} can't be written ({problem.strerror}); check its space and rights."
        ) from problem


def _append(conn: Connection, fd: int, folder: Path, organisation_id: int) -> int:
    whole, last = _end(fd)
    if whole < os.fstat(fd).st_size:
        os.ftruncate(fd, whole)
    rows = conn.execute(
        text(
            """
            SELECT sequence, first_leaf + leaves - 1 AS last_leaf, chained, timestamp_token FROM evidence_root
            WHERE organisation_id = :organisation AND sequence > :last
              AND xmin IS DISTINCT FROM CAST(pg_current_xact_id_if_assigned() AS xid)
            ORDER BY sequence
            """
        ),
        {"organisation": organisation_id, "last": last},
    ).all()
    new = [
        Line(row.sequence, row.last_leaf, bytes(row.chained).hex(), token_hash(row.timestamp_token)).text()
        for row in rows
    ]
    if new:
        os.write(fd, b"".join(new))
        owned_by_parent(fd, folder)
        os.fsync(fd)
        way = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(way)
        finally:
            os.close(way)
    return len(new)

"""Packs: objects that hold many encrypted records one after another, and where they are kept.

A record in a pack is one byte with the number of its form, a random nonce of 12 bytes, and AES-256-GCM over the
zstandard-compressed content. A pack is written once and never changed; nothing else is in it, so that every byte of it
belongs to some record.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import obstore
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from kattegat.evidence.errors import StoreError
from kattegat.store.layout import owned_by_parent

FORM = b"\x01"
NONCE = 12
NAME = re.compile(r"[0-9]+/[0-9]{4}/[0-9]{2}/[0-9]{2}/[0-9a-f]{32}\.pack")
# A pack is read whole when it is verified, so it stays well below the memory of a small machine.
PACK_BYTES = 64 * 1024 * 1024


class Place(msgspec.Struct, frozen=True):
    """Where a record lies: the object's name, and the bytes in it."""

    pack: str
    offset: int
    length: int


def encrypt(content: bytes, key: bytes, associated: bytes) -> bytes:
    """One record as it lies in a pack."""
    nonce = secrets.token_bytes(NONCE)
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    return FORM + nonce + AESGCM(key).encrypt(nonce, packed, FORM + associated)


def decrypt(record: bytes, key: bytes, associated: bytes) -> bytes:
    """The content of a record; raises ValueError with what is wrong with it."""
    if record[:1] != FORM or len(record) < len(FORM) + NONCE + 16:
        raise ValueError("its pack does not hold a record there")
    nonce = record[len(FORM) : len(FORM) + NONCE]
    try:
        packed = AESGCM(key).decrypt(nonce, record[len(FORM) + NONCE :], FORM + associated)
    except InvalidTag:
        raise ValueError("its bytes or its metadata do not fit the seal of their encryption") from None
    try:
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError:
        raise ValueError("its bytes can't be decompressed") from None


class Objects:
    """The object store that packs are kept in; `folder` is set when it is a folder of this machine."""

    def __init__(self, store: ObjectStore, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder

    @classmethod
    def at(cls, url: str) -> Objects:
        """A store by its URL (`s3://bucket/prefix`, `gs://`, `az://`, `file:///`); credentials from the environment."""
        try:
            return cls(from_url(url))
        except (BaseError, ValueError) as problem:
            raise StoreError(
                f"KAT_EVIDENCE_URL can't be used as an object store ({_first_line(problem)}); correct it."
            ) from problem

    @classmethod
    def folder(cls, path: Path) -> Objects:
        """A folder of this machine, made if it is missing."""
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True)
            owned_by_parent(path, path.parent)
        return cls(LocalStore(path), path)

    def empty(self) -> bool:
        """Whether there is no pack at all."""
        return next(self.names(), None) is None

    def names(self, prefix: str = "") -> Iterator[tuple[str, datetime]]:
        """The packs in this folder, with the time each was written; other objects are none of ours."""
        try:
            for batch in obstore.list(self._store, prefix=prefix or None):
                for found in batch:
                    if NAME.fullmatch(found["path"]):
                        yield found["path"], found["last_modified"]
        except (BaseError, OSError) as problem:
            raise _unreachable(problem) from problem

    def write(self, organisation_id: int, records: Sequence[bytes]) -> list[Place]:
        """Writes the records into new packs, durably, and says where each lies."""
        places: list[Place] = []
        start = 0
        while start < len(records):
            end, total = start, 0
            while end < len(records) and (end == start or total + len(records[end]) <= PACK_BYTES):
                total += len(records[end])
                end += 1
            name = f"{organisation_id}/{datetime.now(UTC):%Y/%m/%d}/{uuid4().hex}.pack"
            offset = 0
            for record in records[start:end]:
                places.append(Place(name, offset, len(record)))
                offset += len(record)
            self.put(name, b"".join(records[start:end]))
            start = end
        return places

    def put(self, name: str, content: bytes) -> None:
        """Writes one object, durably; raises `StoreError`, also where there is one of this name."""
        try:
            obstore.put(self._store, name, content, mode="create")
            if self._folder is not None:
                self._settle(self._folder, name)
        except (BaseError, OSError) as problem:
            raise _unreachable(problem) from problem

    def _settle(self, folder: Path, name: str) -> None:
        """A local file survives a power cut only when it and the way to it were flushed: the row is committed next."""
        path = folder / name
        way = [folder]
        for part in Path(name).parts:
            way.append(way[-1] / part)
        for step in way[1:]:
            owned_by_parent(step, folder)
        path.chmod(0o600)
        for step in reversed(way):
            fd = os.open(step, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def read(self, name: str) -> bytes:
        """A whole pack; raises FileNotFoundError."""
        if not NAME.fullmatch(name):
            # A row that was tampered with must not lead to other objects.
            raise FileNotFoundError(name)
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as problem:
            raise _unreachable(problem) from problem

    def part(self, place: Place) -> bytes:
        """The bytes at a place, fewer where the object ends before; raises FileNotFoundError."""
        if not NAME.fullmatch(place.pack):
            raise FileNotFoundError(place.pack)
        try:
            return bytes(obstore.get_range(self._store, place.pack, start=place.offset, length=place.length))
        except FileNotFoundError:
            raise
        except BaseError:
            # A range outside the object is an error of the same kind as a store that does not answer: ask for all.
            return self.read(place.pack)[place.offset : place.offset + place.length]
        except OSError as problem:
            raise _unreachable(problem) from problem

    def delete(self, names: Sequence[str]) -> None:
        """Removes packs; one that is gone already is no error."""
        for name in names:
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as problem:
                raise _unreachable(problem) from problem


def _unreachable(problem: BaseException) -> StoreError:
    return StoreError(
        f"The object store of the evidence refuses ({_first_line(problem)}); check its space, rights and address,"
        " then run this again."
    )


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__

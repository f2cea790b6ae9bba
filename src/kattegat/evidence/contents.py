"""Verifying where the bytes of each record lie and that they are the ones that were stored."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, text

from kattegat.evidence import keys, leaf, retention
from kattegat.evidence.errors import ChangedBytesError, DestroyedKeyError, WrappedKeyError
from kattegat.evidence.report import VerifyReport
from kattegat.evidence.vault import META_COLUMNS, Vault, read_meta, reveal


class Contents:
    """Checks records one after another; packs are read whole, once where their records follow one another."""

    def __init__(self, conn: Connection, vault: Vault, organisation_id: int, report: VerifyReport) -> None:
        self._conn = conn
        self._vault = vault
        self._organisation_id = organisation_id
        self._report = report
        self._keys: dict[int, keys.Key] = {}
        self._destroyed: set[int] = set()
        self._read_keys(conn)
        self._pack: tuple[str, bytes | None] = ("", None)
        self._sizes: dict[str, int] = {}
        self._claimed: dict[str, list[tuple[int, int]]] = {}
        self._used: set[str] = set()
        self._drops_readable = True
        self._drops = self._read_drops(conn)

    def _read_keys(self, conn: Connection) -> None:
        for id_, row in keys.rows(conn, self._organisation_id).items():
            try:
                self._keys[id_] = keys.unwrap(self._vault.install_key, *row)
            except DestroyedKeyError:
                wrapped, destroyed = row[2], row[4]
                if wrapped is not None or destroyed is None:
                    self._report.add("key", f"Key {id_} is half destroyed: one of its two marks was changed")
                else:
                    self._destroyed.add(id_)
            except WrappedKeyError as problem:
                self._report.add("key", str(problem).rstrip("."))

    def _read_drops(self, conn: Connection) -> list[tuple[int, int, str]]:
        """What retention says it dropped: first and last number, and the time."""
        found: list[tuple[int, int, str]] = []
        rows = conn.execute(
            text(
                f"SELECT {META_COLUMNS}, id, leaf, key_id, pack, pack_offset, pack_length FROM evidence"  # noqa: S608
                " WHERE organisation_id = :organisation AND scanner = :retention"
            ),
            {"organisation": self._organisation_id, "retention": retention.SCANNER},
        )
        for row in rows:
            if row.key_id in self._destroyed:
                self._drops_readable = False
                continue
            content = self._content(row)
            if content is None:
                continue
            try:
                drop = msgspec.json.decode(content, type=retention.Drop)
            except msgspec.DecodeError:
                self._report.add("drop", f"Record {row.id} is no record of retention", row.id)
                continue
            found += [(first, last, drop.dropped_at) for first, last in drop.ranges]
        return sorted(found)

    def _content(self, row: Row[Any]) -> bytes | None:
        """The content of a record of retention; None where `check` will say what is wrong with it."""
        key = self._keys.get(row.key_id)
        try:
            record = self._bytes(row)
            meta = read_meta(row)
            return None if key is None or record is None else reveal(record, key, meta, row.id)
        except (ChangedBytesError, ValueError, RecursionError):
            return None

    def _told(self, number: int) -> str | None:
        """When retention says it dropped this record."""
        low, high = 0, len(self._drops)
        while low < high:
            middle = (low + high) // 2
            first, last, at = self._drops[middle]
            if number < first:
                high = middle
            elif number > last:
                low = middle + 1
            else:
                return at
        return None

    def check(self, row: Row[Any], meta: leaf.Metadata, *, deep: bool) -> bool:
        """Whether the bytes are there and right; notes it if not. False too for those dropped or destroyed."""
        number = row.leaf_number
        told = self._told(number)
        if row.key_id in self._destroyed:
            self._report.destroyed += 1
            if row.pack is not None:
                self._used.add(row.pack)
            return False
        if row.dropped is not None or told is not None:
            return self._dropped(row, told, meta, deep=deep)
        if row.pack is None or row.pack_offset is None or row.pack_length is None or row.pack_offset < 0:
            self._report.add("row", f"The row of record {number} does not say where its bytes lie", number)
            return False
        key = self._keys.get(row.key_id)
        if key is None:
            self._report.add("key", f"The key {row.key_id} of record {number} is missing or can't be opened", number)
            return False
        self._used.add(row.pack)
        return not deep or self._deep(row, meta, key)

    def _dropped(self, row: Row[Any], told: str | None, meta: leaf.Metadata, *, deep: bool) -> bool:
        number = row.leaf_number
        where = (row.pack, row.pack_offset, row.pack_length, row.key_id)
        # With a destroyed key what retention recorded can't be read, and the row's own word has to do.
        if (row.dropped == told or not self._drops_readable) and where == (None, None, None, None):
            self._report.dropped += 1
            return False
        moved = self._moved(row)
        if moved is not None:
            return self.check(moved, meta, deep=deep)
        self._report.add("drop", f"The bytes of record {number} were taken away or marked so, not by retention", number)
        return False

    def _deep(self, row: Row[Any], meta: leaf.Metadata, key: keys.Key) -> bool:
        number = row.leaf_number
        record = self._bytes(row)
        if record is None:
            moved = self._moved(row)
            if moved is not None:
                return self.check(moved, meta, deep=True)
            self._report.add("pack", f"The pack of record {number} is missing ({row.pack})", number)
            return False
        try:
            if len(record) != row.pack_length:
                raise ChangedBytesError(
                    self._organisation_id, number, "its pack ends before, or its length was changed"
                )
            reveal(record, key, meta, number)
        except ChangedBytesError as problem:
            self._report.add("content", f"Record {number} was changed: {problem.what} ({row.pack})", number)
            return False
        self._claim(row)
        return True

    def _moved(self, row: Row[Any]) -> Row[Any] | None:
        """The row as it is now, where compaction or retention changed it after its page was read."""
        now = self._conn.execute(
            text(
                "SELECT leaf_number, key_id, pack, pack_offset, pack_length,"
                " CAST(extract(epoch FROM dropped_at) AS text) AS dropped FROM evidence"
                " WHERE organisation_id = :organisation AND id = :id AND leaf_number = :id"
            ),
            {"organisation": self._organisation_id, "id": row.leaf_number},
        ).first()
        if now is None or now.pack == row.pack:
            return None
        if now.dropped is not None and self._told(row.leaf_number) is None:
            self._drops = self._read_drops(self._conn)
        return now

    def _claim(self, row: Row[Any]) -> None:
        claimed = self._claimed.setdefault(row.pack, [])
        claimed.append((row.pack_offset, row.pack_length))
        if row.pack_offset + row.pack_length == self._sizes[row.pack] and _tiles(claimed, self._sizes[row.pack]):
            # Whole: forgotten, so that a large organisation needs little memory.
            del self._claimed[row.pack]

    def _bytes(self, row: Row[Any]) -> bytes | None:
        if row.pack is None or row.pack_offset is None or row.pack_length is None:
            return None
        name, whole = self._pack
        if name != row.pack:
            try:
                whole = self._vault.objects.read(row.pack)
                self._sizes[row.pack] = len(whole)
            except FileNotFoundError:
                whole = None
            self._pack = (row.pack, whole)
        return None if whole is None else whole[row.pack_offset : row.pack_offset + row.pack_length]

    def finish(self, *, deep: bool) -> None:
        """Notes packs with bytes that are no record's, and lists the packs that no row needs."""
        if not deep:
            return
        for pack, claimed in self._claimed.items():
            if not _tiles(claimed, self._sizes[pack]) and not any(
                problem.record is not None for problem in self._report.problems
            ):
                self._report.add("pack", f"The pack {pack} holds bytes that are no record's")
        self._report.unused_packs = [
            name for name, _ in self._vault.objects.names(str(self._organisation_id)) if name not in self._used
        ]


def _tiles(claimed: list[tuple[int, int]], size: int) -> bool:
    """Whether these (offset, length) lie one after another from the first byte to the last."""
    end = 0
    for offset, length in sorted(claimed):
        if offset != end:
            return False
        end += length
    return end == size

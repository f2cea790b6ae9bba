"""Verifying: every leaf from its content and metadata again, every root from its leaves, the chain, and the anchors.

What is found: a changed bit in a pack, a row, a root or an anchor; removed, added, moved and renumbered rows; roots
gone or replaced; a tail that was cut off after it was anchored. Records of the last minutes, not sealed yet, are
checked one by one, but that the very last ones of them were removed can't be told: no root knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, text

from kattegat.evidence import anchor, chain, contents, leaf, merkle
from kattegat.evidence.errors import UnseenOrganisationError
from kattegat.evidence.report import Problem, VerifyReport
from kattegat.evidence.seal import MISSING, Root
from kattegat.evidence.vault import META_COLUMNS, Vault, read_meta

Progress = Callable[[int, int], None]
PAGE = 2000

__all__ = ["Problem", "VerifyReport", "verify"]


def verify(
    conn: Connection,
    vault: Vault,
    organisation_id: int,
    *,
    deep: bool = True,
    progress: Progress | None = None,
    anchor_grace: timedelta = timedelta(minutes=10),
) -> VerifyReport:
    """Verifies an organisation's evidence and says exactly what is wrong with which record.

    `deep` reads every pack; without it the bytes are taken on trust. `progress(done, total)` is called per page of
    records. A root older than `anchor_grace` without an anchor is a problem. Raises `StoreError` or `InstallKeyError`
    when nothing can be said, and `UnseenOrganisationError` for one that the role does not see.
    """
    seen = conn.execute(text("SELECT FROM organisation WHERE id = :id"), {"id": organisation_id})
    if seen.first() is None:
        raise UnseenOrganisationError(organisation_id)
    return _Verifier(conn, vault, organisation_id, deep, anchor_grace).run(progress)


class _Verifier:
    def __init__(self, conn: Connection, vault: Vault, organisation_id: int, deep: bool, grace: timedelta) -> None:
        self.conn = conn
        self.organisation_id = organisation_id
        self.report = VerifyReport(organisation_id=organisation_id, deep=deep)
        # Before the database: a root is anchored after it was committed, so every anchored one is seen below.
        anchors = anchor.read(vault.anchors, organisation_id)
        self.links = chain.check(conn, organisation_id, anchors, grace, self.report)
        self.contents = contents.Contents(conn, vault, organisation_id, self.report)
        self.sealed_until = max(
            [root.last_leaf for root in self.links] + [line.last_leaf for line in anchors.lines.values()], default=0
        )

    def run(self, progress: Progress | None) -> VerifyReport:
        upto, total = self.conn.execute(
            text("SELECT coalesce(max(leaf_number), 0), count(*) FROM evidence WHERE organisation_id = :organisation"),
            {"organisation": self.organisation_id},
        ).one()
        trees = _Trees(self.links, self.report)
        last = 0
        for page in self._pages(upto):
            for row in page:
                self.report.records += 1
                number = row.leaf_number
                if row.id != number:
                    self.report.add(
                        "number",
                        f"The record with id {row.id} has the number {number}: one of them was changed",
                        row.id,
                    )
                    continue
                if number == last:
                    self.report.add("duplicate", f"There are two records with the number {number}", number)
                    continue
                self._missing(last + 1, number - 1)
                last = number
                if number > self.sealed_until:
                    self.report.unsealed += 1
                self._record(row, trees)
            if progress is not None:
                progress(self.report.records, total)
        self._missing(last + 1, self.sealed_until)
        trees.finish()
        self.contents.finish(deep=self.report.deep)
        return self.report

    def _pages(self, upto: int) -> Iterator[list[Row[Any]]]:
        """The rows in the order of their numbers, by keyset, so that a large organisation needs little memory."""
        after: tuple[int, int] | None = None
        while True:
            rows = list(
                self.conn.execute(
                    text(
                        f"SELECT {META_COLUMNS}, id, leaf, key_id, pack, pack_offset, pack_length,"  # noqa: S608
                        " CAST(extract(epoch FROM dropped_at) AS text) AS dropped FROM evidence"
                        " WHERE organisation_id = :organisation AND leaf_number <= :upto"
                        " AND (CAST(:number AS bigint) IS NULL OR (leaf_number, id) > (:number, :id))"
                        " ORDER BY leaf_number, id LIMIT :page"
                    ),
                    {
                        "organisation": self.organisation_id,
                        "upto": upto,
                        "number": after[0] if after else None,
                        "id": after[1] if after else None,
                        "page": PAGE,
                    },
                )
            )
            if not rows:
                return
            yield rows
            after = (rows[-1].leaf_number, rows[-1].id)

    def _missing(self, first: int, last: int) -> None:
        if last < first:
            return
        self.report.missing += last - first + 1
        named = f"Record {first} is" if first == last else f"Records {first} to {last} are"
        self.report.add("missing", f"{named} gone", first, until=last)

    def _record(self, row: Row[Any], trees: _Trees) -> None:
        stored = bytes(row.leaf)
        meta: leaf.Metadata | None
        try:
            meta = read_meta(row)
            fresh = leaf.digest(meta)
        except (ValueError, RecursionError):
            meta, fresh = None, b""
        trees.add(row.leaf_number, stored, fresh)
        if meta is None or fresh != stored:
            # The tree tells which of the two was changed.
            return
        if self.contents.check(row, meta, deep=self.report.deep):
            self.report.intact += 1


class _Trees:
    """Feeds the leaves to the roots that cover them, in order, and says which leaves and roots do not agree."""

    def __init__(self, roots: list[Root], report: VerifyReport) -> None:
        self._roots = roots
        self._report = report
        self._at = 0
        self._stored: dict[int, bytes] = {}
        self._fresh: dict[int, bytes] = {}

    def add(self, number: int, stored: bytes, fresh: bytes) -> None:
        while self._at < len(self._roots) and self._roots[self._at].last_leaf < number:
            self._close(self._roots[self._at])
            self._at += 1
        self._stored[number] = stored
        self._fresh[number] = fresh

    def finish(self) -> None:
        for root in self._roots[self._at :]:
            self._close(root)
        self._changed("its leaf or what the leaf covers")

    def _close(self, root: Root) -> None:
        span = range(root.first_leaf, root.last_leaf + 1)
        if merkle.root([self._stored.get(number, MISSING) for number in span]) == root.root:
            self._changed("what is recorded about it")
        elif merkle.root([self._fresh.get(number, MISSING) for number in span]) == root.root:
            self._changed("its leaf")
        else:
            before = len(self._report.problems)
            self._changed("its leaf or what the leaf covers")
            gone = any(number not in self._stored for number in span)
            if len(self._report.problems) == before and not gone:
                self._report.add(
                    "tree",
                    f"The records {root.first_leaf} to {root.last_leaf} are not those that root {root.sequence} sealed",
                    root.first_leaf,
                    until=root.last_leaf,
                    root=root.sequence,
                )
        self._stored.clear()
        self._fresh.clear()

    def _changed(self, what: str) -> None:
        kind: Literal["leaf", "metadata"] = "leaf" if what == "its leaf" else "metadata"
        for number, stored in self._stored.items():
            if stored != self._fresh[number]:
                self._report.add(kind, f"Record {number} was changed: {what}", number)

"""The sealer: one Merkle root per organisation and minute over the leaves not yet sealed, each chained to the last.

Three steps, each a transaction of its own, since a file can't be rolled back: `seal` writes the root, `timestamp.stamp`
may add a token to it, `anchor.write` copies what is committed into a file outside the database. `run` does them all.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.evidence import anchor, keys, leaf, merkle, timestamp
from kattegat.evidence.errors import UnknownEvidenceError, UnsealedError
from kattegat.evidence.vault import Vault
from kattegat.store.database import Database

# What stands in the tree for a number whose row was gone when the minute was sealed: verifying tells it as missing.
MISSING = bytes(32)


class Root(msgspec.Struct, frozen=True):
    """A sealed root. Times are seconds since 1970 as `leaf.instant` gives them; hashes are 32 bytes.

    It covers the leaves `first_leaf` to `first_leaf + leaves - 1`; `previous` is None in the first one.
    """

    organisation_id: int
    sequence: int
    minute: str
    first_leaf: int
    leaves: int
    root: bytes
    previous: bytes | None
    sealed_at: str

    @property
    def last_leaf(self) -> int:
        """The number of the last leaf covered."""
        return self.first_leaf + self.leaves - 1

    def chained(self) -> bytes:
        """SHA-256 over all of this, the previous root's chained hash among it."""
        fields = (
            "kattegat evidence root",
            leaf.FORM,
            self.organisation_id,
            self.sequence,
            self.minute,
            self.first_leaf,
            self.leaves,
            self.root.hex(),
            None if self.previous is None else self.previous.hex(),
            self.sealed_at,
        )
        return hashlib.sha256(b"\x02" + json.dumps(fields, separators=(",", ":")).encode()).digest()


class Proof(msgspec.Struct, frozen=True):
    """That a leaf is in a sealed root: `merkle.included(leaf, index, size, path, root)` is true."""

    leaf: bytes
    index: int
    size: int
    path: list[bytes]
    root: bytes
    sequence: int


class Sealed(msgspec.Struct):
    """What a run of the sealer did. `unstamped` says why time-stamping failed, by organisation."""

    roots: int = 0
    anchored: int = 0
    unstamped: dict[int, str] = {}


def due(conn: Connection) -> list[int]:
    """The organisations with leaves that are not sealed, ascending."""
    return list(
        conn.execute(
            text(
                """
                SELECT o.id FROM organisation o
                WHERE EXISTS (
                    SELECT FROM evidence e
                    WHERE e.organisation_id = o.id AND e.leaf_number > coalesce(
                        (SELECT r.first_leaf + r.leaves - 1 FROM evidence_root r
                         WHERE r.organisation_id = o.id ORDER BY r.sequence DESC LIMIT 1), 0))
                ORDER BY o.id
                """
            )
        ).scalars()
    )


def seal(conn: Connection, organisation_id: int, *, at: datetime | None = None) -> Root | None:
    """Seals what is not sealed; None when there is nothing, or this minute has its root already.

    `at` stands in for the clock of the database.
    """
    keys.lock(conn, organisation_id)
    last = conn.execute(
        text(
            """
            SELECT now.at, date_trunc('minute', now.at, 'UTC') AS minute, r.minute AS last_minute, r.sequence,
                   r.chained, r.first_leaf + r.leaves - 1 AS last_leaf
            FROM (SELECT coalesce(CAST(:at AS timestamptz), clock_timestamp()) AS at) AS now
            LEFT JOIN LATERAL (
                SELECT minute, sequence, chained, first_leaf, leaves FROM evidence_root
                WHERE organisation_id = :organisation ORDER BY sequence DESC LIMIT 1) AS r ON true
            """
        ),
        {"organisation": organisation_id, "at": at},
    ).one()
    if last.last_minute is not None and last.last_minute >= last.minute:
        return None
    first = (last.last_leaf or 0) + 1
    rows = conn.execute(
        text(
            "SELECT leaf_number, leaf FROM evidence WHERE organisation_id = :organisation AND leaf_number >= :first"
            " ORDER BY leaf_number"
        ),
        {"organisation": organisation_id, "first": first},
    ).all()
    if not rows:
        return None
    found = {row.leaf_number: bytes(row.leaf) for row in rows}
    leaves = [found.get(number, MISSING) for number in range(first, rows[-1].leaf_number + 1)]
    made = Root(
        organisation_id=organisation_id,
        sequence=(last.sequence or 0) + 1,
        minute=leaf.instant(last.minute),
        first_leaf=first,
        leaves=len(leaves),
        root=merkle.root(leaves),
        previous=None if last.chained is None else bytes(last.chained),
        sealed_at=leaf.instant(last.at),
    )
    conn.execute(
        text(
            "INSERT INTO evidence_root (organisation_id, id, sequence, minute, first_leaf, leaves, root, previous,"
            " chained, sealed_at) VALUES (:organisation, :sequence, :sequence, :minute, :first_leaf, :leaves, :root,"
            " :previous, :chained, :sealed_at)"
        ),
        {
            "organisation": organisation_id,
            "sequence": made.sequence,
            "minute": last.minute,
            "first_leaf": made.first_leaf,
            "leaves": made.leaves,
            "root": made.root,
            "previous": made.previous,
            "chained": made.chained(),
            "sealed_at": last.at,
        },
    )
    return made


def run(database: Database, vault: Vault, *, authority: timestamp.Ask | None = None) -> Sealed:
    """Seals, time-stamps (with an `authority`) and anchors whatever is due, organisation by organisation.

    An authority that does not answer holds nothing up: the root is anchored without a token.
    """
    done = Sealed()
    with database.begin("kat_system") as conn:
        waiting = due(conn)
    for organisation_id in waiting:
        with database.begin("kat_system") as conn:
            made = seal(conn, organisation_id)
        if made is not None:
            done.roots += 1
            if authority is not None:
                try:
                    with database.begin("kat_system") as conn:
                        timestamp.stamp(conn, organisation_id, made.sequence, authority)
                except timestamp.TimestampError as problem:
                    done.unstamped[organisation_id] = str(problem)
    # Not only what was sealed just now: a process that died between the steps left roots without an anchor.
    with database.begin("kat_system") as conn:
        newest = conn.execute(
            text(
                """
                SELECT o.id, r.sequence FROM organisation o
                CROSS JOIN LATERAL (SELECT max(sequence) AS sequence FROM evidence_root WHERE organisation_id = o.id) r
                WHERE r.sequence IS NOT NULL ORDER BY o.id
                """
            )
        ).all()
    for organisation_id, sequence in newest:
        if anchor.last(vault.anchors, organisation_id) < sequence:
            with database.begin("kat_system") as conn:
                done.anchored += anchor.write(conn, vault.anchors, organisation_id)
    return done


def proof(conn: Connection, organisation_id: int, evidence_id: int) -> Proof:
    """The proof that a record is in its root; raises `UnknownEvidenceError`, `UnsealedError`."""
    found = conn.execute(
        text(
            "SELECT sequence, first_leaf, leaves, root FROM evidence_root WHERE organisation_id = :organisation"
            " AND first_leaf <= :id ORDER BY sequence DESC LIMIT 1"
        ),
        {"organisation": organisation_id, "id": evidence_id},
    ).one_or_none()
    first = found.first_leaf if found is not None else evidence_id
    rows = conn.execute(
        text(
            "SELECT leaf_number, leaf FROM evidence WHERE organisation_id = :organisation"
            " AND leaf_number BETWEEN :first AND :last"
        ),
        {
            "organisation": organisation_id,
            "first": first,
            "last": max(evidence_id, first + found.leaves - 1 if found is not None else evidence_id),
        },
    )
    leaves = {row.leaf_number: bytes(row.leaf) for row in rows}
    if evidence_id not in leaves:
        raise UnknownEvidenceError(organisation_id, evidence_id)
    if found is None or evidence_id >= first + found.leaves:
        raise UnsealedError(organisation_id, evidence_id)
    ordered = [leaves.get(number, MISSING) for number in range(first, first + found.leaves)]
    return Proof(
        leaf=leaves[evidence_id],
        index=evidence_id - first,
        size=found.leaves,
        path=merkle.inclusion(ordered, evidence_id - first),
        root=bytes(found.root),
        sequence=found.sequence,
    )

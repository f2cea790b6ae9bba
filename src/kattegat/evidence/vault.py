"""The vault: puts batches of raw bytes with what is known about them, and gives them back unchanged or not at all.

A batch is written to the object store first and to the caller's transaction then, so that a row never points at bytes
that are not there; what a rolled-back transaction leaves behind is an object without rows, removed by
`retention.sweep`. The id of a record is its leaf number: from 1 without gaps per organisation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, text

from kattegat.evidence import keys, leaf, packs
from kattegat.evidence.errors import (
    ChangedBytesError,
    DroppedError,
    EntryError,
    MissingPackError,
    UnknownEvidenceError,
)
from kattegat.settings import Settings


class Entry(msgspec.Struct, frozen=True):
    """Bytes to keep, and what is known about them. Times need a zone; `detail` is any JSON object."""

    content: bytes
    scanner: str
    plugin_version: int
    asset_type: str
    asset_key: str
    vantage: str
    runner: str
    started_at: datetime
    ended_at: datetime
    detail: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Stored(msgspec.Struct, frozen=True):
    """A kept record. `id` is its number in the organisation, `leaf` its hash (32 bytes)."""

    id: int
    organisation_id: int
    recorded_at: datetime
    leaf: bytes
    scanner: str
    plugin_version: int
    asset_type: str
    asset_key: str
    vantage: str
    runner: str
    started_at: datetime
    ended_at: datetime
    detail: dict[str, Any]
    size: int
    content_hash: bytes
    dropped_at: datetime | None
    content: bytes = b""


class Vault:
    """Where the bytes, the install key and the anchors of an install are. Opens nothing until it is used."""

    def __init__(self, objects: packs.Objects, install_key: keys.InstallKey, anchors: Path) -> None:
        self.objects = objects
        self.install_key = install_key
        self.anchors = anchors


def open_vault(settings: Settings) -> Vault:
    """The vault of this install: the folder `evidence` of the data directory, or the store at KAT_EVIDENCE_URL.

    Raises `StoreError` for a URL that no store is known for.
    """
    if settings.evidence_url:
        objects = packs.Objects.at(settings.evidence_url)
    else:
        objects = packs.Objects.folder(settings.data_dir / "evidence")
    return Vault(objects, keys.InstallKey(settings.data_dir / "secrets" / "install.key"), settings.data_dir / "anchors")


def put(conn: Connection, vault: Vault, organisation_id: int, entries: Sequence[Entry]) -> list[int]:
    """Keeps the entries; gives their ids in the same order. Four statements, whatever the number of entries.

    The organisation's numbering is locked from here to the end of the transaction: put as late as possible, and for
    several organisations in ascending order of their ids. Raises `EntryError` (nothing stored), `StoreError`,
    `DestroyedKeyError`, `InstallKeyError`.
    """
    if not entries:
        return []
    drafts = [_draft(organisation_id, index, entry) for index, entry in enumerate(entries)]
    key = keys.current(conn, vault.install_key, organisation_id, objects=vault.objects)
    records = [
        packs.encrypt(entry.content, key.secret, leaf.associated(draft))
        for entry, draft in zip(entries, drafts, strict=True)
    ]
    places = vault.objects.write(organisation_id, records)
    keys.lock(conn, organisation_id)
    first, recorded_at = _next(conn, organisation_id)
    metas = [
        msgspec.structs.replace(draft, leaf_number=first + index, recorded_at=leaf.instant(recorded_at))
        for index, draft in enumerate(drafts)
    ]
    conn.execute(
        text(
            """
            INSERT INTO evidence (organisation_id, id, leaf_number, recorded_at, leaf, scanner, plugin_version,
                                  asset_type, asset_key, vantage, runner, started_at, ended_at, detail, size,
                                  content_hash, key_id, pack, pack_offset, pack_length)
            SELECT :organisation, number, number, :recorded_at, leaf, scanner, plugin_version,
                   asset_type, asset_key, vantage, runner, started_at, ended_at, CAST(detail AS jsonb), size,
                   content_hash, :key, pack, pack_offset, pack_length
            FROM unnest(
                CAST(:numbers AS bigint[]), CAST(:leaves AS bytea[]), CAST(:scanners AS text[]),
                CAST(:versions AS integer[]), CAST(:types AS text[]), CAST(:asset_keys AS text[]),
                CAST(:vantages AS text[]), CAST(:runners AS text[]), CAST(:started AS timestamptz[]),
                CAST(:ended AS timestamptz[]), CAST(:details AS text[]), CAST(:sizes AS bigint[]),
                CAST(:hashes AS bytea[]), CAST(:packs AS text[]), CAST(:offsets AS bigint[]),
                CAST(:lengths AS bigint[])
            ) AS new (number, leaf, scanner, plugin_version, asset_type, asset_key, vantage, runner, started_at,
                      ended_at, detail, size, content_hash, pack, pack_offset, pack_length)
            """
        ),
        {
            "organisation": organisation_id,
            "recorded_at": recorded_at,
            "key": key.id,
            "numbers": [meta.leaf_number for meta in metas],
            "leaves": [leaf.digest(meta) for meta in metas],
            "scanners": [meta.scanner for meta in metas],
            "versions": [meta.plugin_version for meta in metas],
            "types": [meta.asset_type for meta in metas],
            "asset_keys": [meta.asset_key for meta in metas],
            "vantages": [meta.vantage for meta in metas],
            "runners": [meta.runner for meta in metas],
            "started": [entry.started_at for entry in entries],
            "ended": [entry.ended_at for entry in entries],
            "details": [json.dumps(leaf.clean(entry.detail)) for entry in entries],
            "sizes": [meta.size for meta in metas],
            "hashes": [meta.content_hash for meta in metas],
            "packs": [place.pack for place in places],
            "offsets": [place.offset for place in places],
            "lengths": [place.length for place in places],
        },
    )
    return [meta.leaf_number for meta in metas]


def _draft(organisation_id: int, index: int, entry: Entry) -> leaf.Metadata:
    for field in ("scanner", "asset_type", "asset_key", "vantage", "runner"):
        value = getattr(entry, field)
        if "\x00" in value or leaf.clean(value) != value:
            raise EntryError(index, field, "has a character that no name has (NUL or half a surrogate pair)")
    fields: dict[str, str] = {}
    for name in ("started_at", "ended_at"):
        try:
            fields[name] = leaf.instant(getattr(entry, name))
        except ValueError as problem:
            raise EntryError(index, name, str(problem)) from None
    if entry.ended_at < entry.started_at:
        raise EntryError(index, "ended_at", "is before started_at")
    try:
        detail = leaf.canonical(leaf.clean(entry.detail))
    except (ValueError, RecursionError) as problem:
        raise EntryError(index, "detail", str(problem)) from None
    return leaf.Metadata(
        organisation_id=organisation_id,
        leaf_number=0,
        recorded_at="",
        scanner=entry.scanner,
        plugin_version=entry.plugin_version,
        asset_type=entry.asset_type,
        asset_key=entry.asset_key,
        vantage=entry.vantage,
        runner=entry.runner,
        started_at=fields["started_at"],
        ended_at=fields["ended_at"],
        detail=detail,
        size=len(entry.content),
        content_hash=hashlib.sha256(entry.content).digest(),
    )


def _next(conn: Connection, organisation_id: int) -> tuple[int, datetime]:
    """The next number and the time; a statement of its own, so that it sees what the last holder of the lock wrote.

    The sealed roots count too: rows cut off the end are then found as missing, their numbers are not given again.
    """
    row = conn.execute(
        text(
            """
            SELECT greatest(
                (SELECT max(leaf_number) FROM evidence WHERE organisation_id = :organisation),
                (SELECT first_leaf + leaves - 1 FROM evidence_root
                 WHERE organisation_id = :organisation ORDER BY sequence DESC LIMIT 1),
                0) + 1, clock_timestamp()
            """
        ),
        {"organisation": organisation_id},
    ).one()
    return int(row[0]), row[1]


META_COLUMNS = """organisation_id, leaf_number, CAST(extract(epoch FROM recorded_at) AS text) AS recorded, scanner,
    plugin_version, asset_type, asset_key, vantage, runner, CAST(extract(epoch FROM started_at) AS text) AS started,
    CAST(extract(epoch FROM ended_at) AS text) AS ended, CAST(detail AS text) AS raw_detail, size, content_hash"""


def read_meta(row: Row[Any]) -> leaf.Metadata:
    """What a leaf covers, from a row with `META_COLUMNS`; raises ValueError for a detail that can't be read."""
    return leaf.Metadata(
        organisation_id=row.organisation_id,
        leaf_number=row.leaf_number,
        recorded_at=row.recorded,
        scanner=row.scanner,
        plugin_version=row.plugin_version,
        asset_type=row.asset_type,
        asset_key=row.asset_key,
        vantage=row.vantage,
        runner=row.runner,
        started_at=row.started,
        ended_at=row.ended,
        detail=leaf.read_canonical(row.raw_detail),
        size=row.size,
        content_hash=bytes(row.content_hash),
    )


_STORED = f"""{META_COLUMNS}, id, recorded_at, leaf, started_at, ended_at, detail, key_id, pack, pack_offset,
    pack_length, dropped_at"""


def get(conn: Connection, vault: Vault, organisation_id: int, evidence_id: int, *, content: bool = True) -> Stored:
    """A record with its content, proven to be the bytes that were stored (`content=False`: what is known about it).

    Raises `UnknownEvidenceError`, `MissingPackError`, `ChangedBytesError`, `DroppedError`, `DestroyedKeyError`,
    `StoreError`.
    """
    row = _row(conn, organisation_id, evidence_id)
    if not content:
        return _stored(row)
    try:
        return _with_content(conn, vault, row)
    except MissingPackError:
        # Compaction or retention may have moved or dropped it since the row was read.
        again = _row(conn, organisation_id, evidence_id)
        if again.pack == row.pack:
            raise
        return _with_content(conn, vault, again)


def page(
    conn: Connection,
    organisation_id: int,
    *,
    scanner: str | None = None,
    asset: tuple[str, str] | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Stored]:
    """Records without content, the newest first; `asset` is (type, key). `before`: the last id of the page before."""
    rows = conn.execute(
        text(
            f"""
            SELECT {_STORED} FROM evidence
            WHERE organisation_id = :organisation
              AND (CAST(:scanner AS text) IS NULL OR scanner = :scanner)
              AND (CAST(:type AS text) IS NULL OR (asset_type = :type AND asset_key = :asset_key))
              AND (CAST(:before AS bigint) IS NULL OR leaf_number < :before)
            ORDER BY leaf_number DESC LIMIT :limit
            """  # noqa: S608 - a constant list of columns
        ),
        {
            "organisation": organisation_id,
            "scanner": scanner,
            "type": asset[0] if asset else None,
            "asset_key": asset[1] if asset else None,
            "before": before,
            "limit": limit,
        },
    )
    return [_stored(row) for row in rows]


def _row(conn: Connection, organisation_id: int, evidence_id: int) -> Row[Any]:
    row = conn.execute(
        text(f"SELECT {_STORED} FROM evidence WHERE organisation_id = :organisation AND id = :id"),  # noqa: S608
        {"organisation": organisation_id, "id": evidence_id},
    ).one_or_none()
    if row is None:
        raise UnknownEvidenceError(organisation_id, evidence_id)
    return row


def _stored(row: Row[Any]) -> Stored:
    return Stored(
        id=row.id,
        organisation_id=row.organisation_id,
        recorded_at=row.recorded_at,
        leaf=bytes(row.leaf),
        scanner=row.scanner,
        plugin_version=row.plugin_version,
        asset_type=row.asset_type,
        asset_key=row.asset_key,
        vantage=row.vantage,
        runner=row.runner,
        started_at=row.started_at,
        ended_at=row.ended_at,
        detail=row.detail,
        size=row.size,
        content_hash=bytes(row.content_hash),
        dropped_at=row.dropped_at,
    )


def _with_content(conn: Connection, vault: Vault, row: Row[Any]) -> Stored:
    organisation_id, evidence_id = row.organisation_id, row.id
    if row.dropped_at is not None:
        raise DroppedError(organisation_id, evidence_id, row.dropped_at)
    try:
        meta = read_meta(row)
    except (ValueError, RecursionError) as problem:
        raise ChangedBytesError(organisation_id, evidence_id, f"its detail {problem}") from None
    if leaf.digest(meta) != bytes(row.leaf):
        raise ChangedBytesError(organisation_id, evidence_id, "its metadata do not have the recorded leaf")
    key = keys.by_id(conn, vault.install_key, organisation_id, row.key_id)
    if key is None or None in (row.pack, row.pack_offset, row.pack_length) or min(row.pack_offset, row.pack_length) < 0:
        raise ChangedBytesError(organisation_id, evidence_id, "its row does not say where its bytes lie")
    place = packs.Place(row.pack, row.pack_offset, row.pack_length)
    try:
        record = vault.objects.part(place)
    except FileNotFoundError:
        raise MissingPackError(organisation_id, evidence_id, row.pack, "no such object") from None
    if len(record) != place.length:
        raise MissingPackError(organisation_id, evidence_id, row.pack, "the object ends before")
    return msgspec.structs.replace(_stored(row), content=reveal(record, key, meta, evidence_id))


def reveal(record: bytes, key: keys.Key, meta: leaf.Metadata, evidence_id: int) -> bytes:
    """The content of a record, checked against its metadata; raises `ChangedBytesError`."""
    try:
        found = packs.decrypt(record, key.secret, leaf.associated(meta))
    except ValueError as problem:
        raise ChangedBytesError(meta.organisation_id, evidence_id, str(problem)) from None
    if len(found) != meta.size or hashlib.sha256(found).digest() != meta.content_hash:
        raise ChangedBytesError(meta.organisation_id, evidence_id, "its bytes do not have the recorded hash")
    return found

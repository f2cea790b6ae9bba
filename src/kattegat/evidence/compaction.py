"""Compaction: puts many small packs together, since file systems and object stores are slow with many small objects.

Records are moved as they are, still encrypted. The old objects stay until `retention.sweep` takes them, so that
whoever has just read a row still finds its bytes.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, text

from kattegat.evidence import keys, vault
from kattegat.evidence.retention import SCANNER


def compact(
    conn: Connection,
    where: vault.Vault,
    organisation_id: int,
    *,
    below: int = 1024 * 1024,
    settled: timedelta = timedelta(days=1),
) -> int:
    """Puts the packs smaller than `below` bytes into larger ones, per day (UTC); gives how many were put together.

    Only days that ended `settled` ago and at most one day per call: the organisation's numbering is locked meanwhile.
    A pack that is missing or ends early stays as it is, for `verify` to tell. Raises `StoreError`.
    """
    keys.lock(conn, organisation_id)
    rows = conn.execute(
        text(
            """
            WITH small AS (
                SELECT pack, date_trunc('day', min(recorded_at), 'UTC') AS day FROM evidence
                WHERE organisation_id = :organisation AND pack IS NOT NULL
                GROUP BY pack
                HAVING sum(pack_length) < :below AND bool_and(scanner <> :retention)
                   AND date_trunc('day', max(recorded_at), 'UTC') = date_trunc('day', min(recorded_at), 'UTC')
                   AND date_trunc('day', max(recorded_at), 'UTC') + interval '1 day' <= now() - :settled
            ), chosen AS (SELECT day FROM small GROUP BY day HAVING count(*) > 1 ORDER BY day LIMIT 1)
            SELECT e.id, e.recorded_at, e.pack, e.pack_offset, e.pack_length
            FROM evidence e JOIN small USING (pack) JOIN chosen USING (day)
            WHERE e.organisation_id = :organisation ORDER BY e.leaf_number
            """
        ),
        {"organisation": organisation_id, "below": below, "settled": settled, "retention": SCANNER},
    ).all()
    whole: dict[str, bytes | None] = {}
    ends: dict[str, int] = {}
    for row in rows:
        if row.pack not in whole:
            try:
                whole[row.pack] = where.objects.read(row.pack)
            except FileNotFoundError:
                whole[row.pack] = None
        ends[row.pack] = max(ends.get(row.pack, 0), row.pack_offset + row.pack_length)
    sound = {name: content for name, content in whole.items() if content is not None and len(content) == ends[name]}
    moved = [row for row in rows if row.pack in sound]
    if len(sound) < 2:
        return 0
    places = where.objects.write(
        organisation_id,
        [sound[row.pack][row.pack_offset : row.pack_offset + row.pack_length] for row in moved],
    )
    conn.execute(
        text(
            """
            UPDATE evidence SET pack = new.pack, pack_offset = new.start
            FROM unnest(CAST(:ids AS bigint[]), CAST(:times AS timestamptz[]), CAST(:packs AS text[]),
                        CAST(:starts AS bigint[])) AS new (id, recorded_at, pack, start)
            WHERE evidence.organisation_id = :organisation AND evidence.id = new.id
              AND evidence.recorded_at = new.recorded_at
            """
        ),
        {
            "organisation": organisation_id,
            "ids": [row.id for row in moved],
            "times": [row.recorded_at for row in moved],
            "packs": [place.pack for place in places],
            "starts": [place.offset for place in places],
        },
    )
    return len(sound)

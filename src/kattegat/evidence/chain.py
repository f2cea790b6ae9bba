"""Verifying the chain of roots, against itself and against the anchors."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal, InvalidOperation

import msgspec
from sqlalchemy import Connection, text

from kattegat.evidence import timestamp
from kattegat.evidence.anchor import Anchors, token_hash
from kattegat.evidence.report import VerifyReport
from kattegat.evidence.seal import Root


class _Link(msgspec.Struct, frozen=True):
    root: Root
    id: int
    chained: bytes
    token: bytes | None


def check(
    conn: Connection, organisation_id: int, anchors: Anchors, grace: timedelta, report: VerifyReport
) -> list[Root]:
    """Notes what is wrong with roots and anchors; gives the roots that are as they were sealed, ascending."""
    now, links = _read(conn, organisation_id)
    report.roots = len(links)
    good: list[Root] = []
    whole: dict[int, _Link] = {}
    last = 0
    for link in links:
        sequence = link.root.sequence
        if sequence > last + 1:
            _gone(report, last + 1, sequence - 1)
        last = max(last, sequence)
        if link.id != sequence or sequence in whole or link.root.chained() != link.chained:
            report.add("root", f"Root {sequence} was changed (id {link.id})", root=sequence)
            continue
        before = whole.get(sequence - 1)
        previous = None if before is None else before.chained
        if (before is not None or sequence == 1) and link.root.previous != previous:
            report.add("chain", f"Root {sequence} does not follow root {sequence - 1}", root=sequence)
        if good and link.root.first_leaf <= good[-1].last_leaf:
            report.add("chain", f"Root {sequence} covers records of an earlier root again", root=sequence)
            continue
        whole[sequence] = link
        good.append(link.root)
    _anchored(links, anchors, now, grace, report, last)
    return good


def _read(conn: Connection, organisation_id: int) -> tuple[Decimal, list[_Link]]:
    now = conn.execute(text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS text)")).scalar_one()
    rows = conn.execute(
        text(
            """
            SELECT id, organisation_id, sequence, CAST(extract(epoch FROM minute) AS text) AS minute, first_leaf,
                   leaves, root, previous, chained, timestamp_token,
                   CAST(extract(epoch FROM sealed_at) AS text) AS sealed_at
            FROM evidence_root WHERE organisation_id = :organisation ORDER BY sequence, id
            """
        ),
        {"organisation": organisation_id},
    )
    return Decimal(now), [
        _Link(
            root=Root(
                organisation_id=row.organisation_id,
                sequence=row.sequence,
                minute=row.minute,
                first_leaf=row.first_leaf,
                leaves=row.leaves,
                root=bytes(row.root),
                previous=None if row.previous is None else bytes(row.previous),
                sealed_at=row.sealed_at,
            ),
            id=row.id,
            chained=bytes(row.chained),
            token=None if row.timestamp_token is None else bytes(row.timestamp_token),
        )
        for row in rows
    ]


def _gone(report: VerifyReport, first: int, last: int) -> None:
    named = f"Root {first} is" if first == last else f"Roots {first} to {last} are"
    report.add("root", f"{named} gone", root=first)


def _anchored(
    links: list[_Link], anchors: Anchors, now: Decimal, grace: timedelta, report: VerifyReport, last: int
) -> None:
    for number in anchors.damaged:
        report.add("anchor", f"Line {number} of the anchors was changed", root=number)
    for link in links:
        sequence = link.root.sequence
        line = anchors.lines.get(sequence)
        if line is None:
            # A root sealed a moment ago may wait for its anchor; a line that was changed is told above.
            if sequence not in anchors.damaged and _age(link.root, now) > grace.total_seconds():
                report.add(
                    "anchor", f"Root {sequence} has no anchor: its line was taken away or never written", root=sequence
                )
            continue
        report.anchored += 1
        if line.chained != link.chained.hex() or line.last_leaf != link.root.last_leaf:
            report.add("anchor", f"Root {sequence} is not the one that was anchored", root=sequence)
        if line.token != token_hash(link.token):
            report.add(
                "timestamp", f"The time stamp of root {sequence} is not the one that was anchored", root=sequence
            )
        elif link.token is not None:
            problem = timestamp.wrong(link.token, link.chained)
            if problem is not None:
                report.add("timestamp", f"The time stamp of root {sequence} does not hold: {problem}", root=sequence)
            else:
                report.timestamped += 1
    beyond = [line for sequence, line in anchors.lines.items() if sequence > last]
    if beyond:
        first = min(line.sequence for line in beyond)
        report.add(
            "cut_off",
            f"The end was cut off: the anchors go on to root {beyond[-1].sequence} and record {beyond[-1].last_leaf},"
            f" the database ends with root {last}",
            root=first,
        )


def _age(root: Root, now: Decimal) -> Decimal:
    try:
        return now - Decimal(root.sealed_at)
    except InvalidOperation:
        return Decimal("Infinity")

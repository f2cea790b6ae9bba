"""Monthly partitions of the tables that grow with time: made ahead, so that no insert meets a missing one."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime

from sqlalchemy import Connection, text

from kattegat.schema import fence
from kattegat.store.tables import PARTITIONED

MONTHS_AHEAD = 3


def _month(day: date, offset: int) -> date:
    index = day.year * 12 + day.month - 1 + offset
    return date(index // 12, index % 12 + 1, 1)


def ensure(
    connection: Connection, *, today: date | None = None, tables: Collection[str] = tuple(PARTITIONED)
) -> list[str]:
    """Makes the partitions of the last, this and the next months that are missing; gives the names of those made."""
    day = today or datetime.now(UTC).date()
    have = set(
        connection.execute(text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")).scalars()
    )
    made: list[str] = []
    fenced = fence.present(connection)
    # An older schema, on its way here, does not have them all.
    for table in (name for name in tables if name in have):
        for offset in range(-1, MONTHS_AHEAD + 1):
            start, end = _month(day, offset), _month(day, offset + 1)
            name = f"{table}_{start:%Y_%m}"
            if name not in have:
                if fenced and not made:
                    # No trigger sees a table being made.
                    fence.hold(connection)
                connection.execute(
                    text(
                        f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table}"
                        f" FOR VALUES FROM ('{start:%Y-%m-%d} 00:00:00+00') TO ('{end:%Y-%m-%d} 00:00:00+00')"
                    )
                )
                made.append(name)
    if made and fenced:
        fence.install(connection, made)
    return made

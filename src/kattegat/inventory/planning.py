"""Keeps PostgreSQL to plans that follow indexes, whatever its statistics say.

The statements of this room start from the few rows of a batch and go on by index. Right after an install or an import
no statistics say how large the tables are, and the planner then reads whole tables for every step through the graph:
measured, that was fifty times slower at a thousand assets. Plans that were kept from a time when the tables were
empty, those of foreign keys among them, are dropped: they choose between indexes as if it didn't matter.

Joins into a table are written as LATERAL with OFFSET 0, which the planner can't turn round, with the ORDER BY of the
index that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

_ON = """
    DISCARD PLANS;
    SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
    SET LOCAL enable_material = off; SET LOCAL jit = off
"""
_OFF = """
    SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT;
    SET LOCAL enable_material TO DEFAULT; SET LOCAL enable_sort TO DEFAULT; SET LOCAL jit TO DEFAULT
"""


@contextmanager
def by_index(connection: Connection) -> Iterator[None]:
    """Within it, statements are planned to follow indexes. Two round trips; an error ends it with the transaction."""
    connection.exec_driver_sql(_ON)
    yield
    connection.exec_driver_sql(_OFF)


def in_order(connection: Connection) -> None:
    """From here to the end of `by_index`, an index that gives the asked order is taken before any that needs a sort.

    Not before sources are locked: in the order of their ids the planner would then walk through all of them.
    """
    connection.exec_driver_sql("SET LOCAL enable_sort = off")

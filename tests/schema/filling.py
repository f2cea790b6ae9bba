"""Rows at the edges of their types, put into a database that has the schema."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from strategies import Draw, Row, values_of

from kattegat.schema.ddl import ident, literal, name
from kattegat.schema.shape import Snapshot


@st.composite
def rows(draw: Draw, s: Snapshot, least: int = 2, most: int = 6) -> dict[str, list[Row]]:
    """For each table `least` to `most` rows: column -> value in text form, or None, without the generated columns.

    The columns of foreign keys have few values to choose from, so that some of them meet."""
    found: dict[str, list[Row]] = {}
    for table, shape in s.tables.items():
        met = {key for one in shape.constraints.values() if one.kind == "foreign key" for key in one.columns}
        columns = {key: one for key, one in shape.columns.items() if one.generated is None}
        values: dict[str, st.SearchStrategy[Any]] = {}
        for key, column in columns.items():
            known = values_of(s, column.type)
            value = st.sampled_from(known[:2] if key in met else known)
            values[key] = value if column.not_null else st.one_of(value, value, st.none())
        found[table] = draw(st.lists(st.fixed_dictionaries(values), min_size=least, max_size=most))
    return found


def insert(connection: Connection, s: Snapshot, contents: dict[str, list[Row]]) -> int:
    """Puts in what the constraints allow, in two rounds (a row may refer to one of a later table); how many went in.
    Deferred constraints are checked at once."""
    done = 0
    waiting = [(table, row) for table, listed in contents.items() for row in listed]
    for _ in range(2):
        left = []
        for table, row in waiting:
            shape = s.tables[table]
            listed = ", ".join(ident(key) for key in row)
            values = ", ".join(
                "NULL" if value is None else f"{literal(value)}::{shape.columns[key].type}"
                for key, value in row.items()
            )
            statement = f"INSERT INTO {name(table)} ({listed}) OVERRIDING SYSTEM VALUE VALUES ({values})"
            if not row:
                statement = f"INSERT INTO {name(table)} DEFAULT VALUES"
            try:
                with connection.begin_nested():
                    connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
                    connection.exec_driver_sql(statement.replace("%", "%%"))
                done += 1
            except DBAPIError:
                left.append((table, row))
        waiting = left
    return done

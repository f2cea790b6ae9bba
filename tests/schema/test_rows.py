"""Counts and fingerprints of what tables hold."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from edits import pairs
from filling import insert, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from strategies import VALUES

from kattegat.schema import scratch, snapshot
from kattegat.schema.catalog import settled
from kattegat.schema.ddl import ident, literal, name
from kattegat.schema.rows import Contents, Position, counts, fingerprints, sequences
from kattegat.schema.shape import Snapshot


@pytest.fixture
def connection(place: scratch.Scratch) -> Iterator[Connection]:
    with place.engine.connect() as found:
        yield found


def of(connection: Connection, table: str = "public.t", **leave_out: list[str]) -> Contents:
    shape = snapshot.read(connection)
    out = {f"public.{key}": value for key, value in leave_out.items()}
    return fingerprints(connection, shape, tables=[table], leave_out=out)[table]


def run(connection: Connection, *statements: str) -> None:
    scratch.run(connection, statements)


def test_order_of_rows_and_columns_and_settings_do_not_count(connection: Connection) -> None:
    run(connection, "CREATE TABLE t (a integer, at timestamptz, d double precision, b bytea, s interval)")
    values = [f"({n}, '2026-01-02 03:04:05+00', 0.1::float8 * {n}, '\\x0{n}', '1 day {n} s')" for n in range(1, 6)]
    run(connection, f"INSERT INTO t VALUES {', '.join(values)}")
    first = of(connection)
    assert first.rows == 5
    run(connection, "TRUNCATE t", "ALTER TABLE t DROP COLUMN a", "ALTER TABLE t ADD COLUMN a bigint")
    mixed = [f"('{n}', {value.removeprefix(f'({n}, ')}" for n, value in enumerate(values, 1)]
    run(connection, f"INSERT INTO t (a, at, d, b, s) VALUES {', '.join(reversed(mixed))}")
    run(connection, "SET LOCAL TimeZone = 'Asia/Tokyo'", "SET LOCAL DateStyle = 'SQL, DMY'")
    run(connection, "SET LOCAL extra_float_digits = 0", "SET LOCAL bytea_output = 'escape'")
    run(connection, "SET LOCAL IntervalStyle = 'iso_8601'", "SET LOCAL search_path = pg_catalog")
    assert of(connection) == first
    assert connection.execute(text("SHOW TimeZone")).scalar_one() == "Asia/Tokyo"
    assert connection.execute(text("SHOW search_path")).scalar_one() == "pg_catalog"


def test_settings_come_back_without_a_transaction(place: scratch.Scratch) -> None:
    with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        run(connection, "SET TimeZone = 'Asia/Tokyo'")
        snapshot.read(connection)
        assert connection.execute(text("SHOW TimeZone")).scalar_one() == "Asia/Tokyo"
        assert connection.execute(text("SHOW search_path")).scalar_one() == '"$user", public'


def test_settings_come_back_after_an_error(connection: Connection) -> None:
    run(connection, "CREATE TABLE t (a integer)", "SET LOCAL TimeZone = 'Asia/Tokyo'")
    shape = snapshot.read(connection)
    gone = replace(shape, tables={"public.gone": shape.tables["public.t"]})
    with pytest.raises(DBAPIError), connection.begin_nested():
        fingerprints(connection, gone)
    assert connection.execute(text("SHOW TimeZone")).scalar_one() == "Asia/Tokyo"
    with pytest.raises(DBAPIError), settled(connection), connection.begin_nested():
        run(connection, "SELECT 1 / 0")
    assert connection.execute(text("SHOW TimeZone")).scalar_one() == "Asia/Tokyo"
    connection.rollback()
    assert connection.execute(text("SHOW search_path")).scalar_one() == '"$user", public'


@pytest.mark.parametrize("type_", sorted(VALUES))
def test_every_value_of_a_type_is_told_from_every_other(connection: Connection, type_: str) -> None:
    seen = {}
    run(connection, f"CREATE TABLE t (v {type_})")
    for value in [None, *VALUES[type_]]:
        put = "NULL" if value is None else literal(value)
        run(connection, "TRUNCATE t", f"INSERT INTO t VALUES ({put}), ({put})")
        seen[value] = of(connection).digest
    # 0.0 and -0.0 are equal and yet printed apart, so even they are told apart.
    assert len(set(seen.values())) == len(seen)


def test_what_is_confused_easily(connection: Connection) -> None:
    run(connection, "CREATE TABLE t (a text, b text)")
    contents = [
        "(NULL, 'x')",
        "('', 'x')",
        "('x', NULL)",
        "('x', '')",
        "('x,', '')",
        "('x', ',')",
        "('x\",\"', '')",
        "('NULL', 'x')",
        "('x', 'y'), ('x', 'y')",
        "('x', 'y')",
        "('x', 'y'), ('y', 'x')",
        "('x', 'x'), ('y', 'y')",
    ]
    found = []
    for values in contents:
        run(connection, "TRUNCATE t", f"INSERT INTO t VALUES {values}")
        found.append(of(connection))
    for (one, first), (other, second) in itertools.combinations(zip(contents, found, strict=True), 2):
        assert first != second, (one, other)
    run(connection, "TRUNCATE t")
    assert of(connection) == Contents(rows=0, digest="0" * 32)


def test_left_out_columns_do_not_count(connection: Connection) -> None:
    run(connection, 'CREATE TABLE t (a integer, "B%b" text, _p7 text)', "INSERT INTO t VALUES (1, 'x', 'p')")
    whole, part = of(connection), of(connection, t=["B%b"])
    run(connection, """UPDATE t SET _p7 = 'q'""")
    assert of(connection) == whole
    run(connection, """UPDATE t SET "B%b" = 'y'""")
    assert of(connection) != whole
    assert of(connection, t=["B%b"]) == part
    assert of(connection, t=["a", "B%b"]).rows == 1


def test_partitions_count_for_their_table(connection: Connection) -> None:
    run(connection, "CREATE TABLE t (a integer) PARTITION BY RANGE (a)")
    run(connection, "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    run(connection, "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20)")
    run(connection, "INSERT INTO t SELECT generate_series(0, 19)")
    assert counts(connection, ["public.t", "public.t_1"]) == {"public.t": 20, "public.t_1": 10}
    assert counts(connection, []) == {}
    assert of(connection).rows == 20


def test_where_sequences_stand(connection: Connection) -> None:
    run(connection, "CREATE SEQUENCE s START 5", 'CREATE TABLE "T.x" (a serial, b bigint GENERATED ALWAYS AS IDENTITY)')
    run(connection, 'INSERT INTO "T.x" DEFAULT VALUES', 'INSERT INTO "T.x" DEFAULT VALUES')
    assert sequences(connection, snapshot.read(connection)) == {
        "public.s": Position(5, False),
        "public.T.x_a_seq": Position(2, True),
        "public.T.x.b": Position(2, True),
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(pair=pairs(most_edits=1), data=st.data())
def test_any_change_of_any_row_shows(
    place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], data: st.DataObject
) -> None:
    typed = pair[1]
    with place.engine.connect() as connection:
        scratch.make(connection, typed)
        insert(connection, typed, data.draw(rows(typed)))
        shape = snapshot.read(connection)
        before = fingerprints(connection, shape)
        assert before == fingerprints(connection, shape)
        assert {table: one.rows for table, one in before.items()} == counts(connection, shape.tables)
        run(connection, "SET LOCAL session_replication_role = replica")
        for table, one in sorted(before.items()):
            if not one.rows:
                continue
            run(connection, f"DELETE FROM {name(table)} WHERE ctid = (SELECT min(ctid) FROM {name(table)})")
            after = fingerprints(connection, shape)
            assert {key for key in after if after[key] != before[key]} == {table}
            before = after
        for table, shaped in sorted(shape.tables.items()):
            for key, column in sorted(shaped.columns.items()):
                if column.type == "text" and column.generated is None and not shaped.constraints:
                    run(connection, f"UPDATE {name(table)} SET {ident(key)} = concat({ident(key)}, '~')")
                    changed = fingerprints(connection, shape)
                    assert (changed[table] != before[table]) == bool(before[table].rows)
                    before = changed

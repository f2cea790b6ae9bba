"""What `ddl` writes means what the shape says: random schemas, built and read back."""

from __future__ import annotations

from edits import pairs
from filling import insert, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from strategies import schemas

from kattegat.schema import ddl, scratch, snapshot
from kattegat.schema.shape import Snapshot, differences

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def built(place: scratch.Scratch, shape: Snapshot) -> Snapshot:
    """What is read after building it; the database is empty again afterwards."""
    with place.engine.connect() as connection:
        scratch.make(connection, shape)
        return snapshot.read(connection)


@FEW
@given(typed=schemas(partitioned=True))
def test_built_schema_is_read_back(place: scratch.Scratch, typed: Snapshot) -> None:
    shape = built(place, typed)
    assert shape.other == ()
    for kind in ("tables", "sequences", "enums", "domains", "views", "functions"):
        assert getattr(shape, kind).keys() == getattr(typed, kind).keys()
    for name, table in typed.tables.items():
        found = shape.tables[name]
        for part in ("columns", "constraints", "indexes", "triggers", "policies"):
            assert getattr(found, part).keys() == getattr(table, part).keys(), (name, part)
        for key, column in table.columns.items():
            have = found.columns[key]
            assert (have.type, have.not_null, have.identity, have.collation) == (
                column.type.replace('"', "") if "." not in column.type else have.type,
                column.not_null,
                column.identity,
                column.collation,
            )
            assert (have.default is None, have.generated is None) == (column.default is None, column.generated is None)
            assert set(column.uses) <= set(have.uses)
        for key, constraint in table.constraints.items():
            one = found.constraints[key]
            assert (one.kind, one.columns, one.references, one.referenced, one.valid, one.nulls_not_distinct) == (
                constraint.kind,
                constraint.columns,
                constraint.references,
                constraint.referenced,
                constraint.valid,
                constraint.nulls_not_distinct,
            )
            assert set(constraint.uses) <= set(one.uses)
        for key, index in table.indexes.items():
            there = found.indexes[key]
            assert (there.columns, there.unique, len(there.keys), there.predicate is None) == (
                index.columns,
                index.unique,
                len(index.keys),
                index.predicate is None,
            )
        for key, trigger in table.triggers.items():
            on = found.triggers[key]
            assert (on.function, on.columns, on.enabled) == (trigger.function, trigger.columns, trigger.enabled)
        assert (found.grants, found.column_grants) == (table.grants, table.column_grants)
        assert (found.row_security, found.forced, found.options) == (table.row_security, table.forced, table.options)
        assert (found.partition is None) == (table.partition is None)
    for name, view in typed.views.items():
        assert set(view.uses) <= set(shape.views[name].uses)
        assert shape.views[name].columns == view.columns
    again = built(place, shape)
    assert differences(again, shape) == []
    assert again == shape


@FEW
@given(pair=pairs(), data=st.data())
def test_edited_schema_is_built_and_takes_rows(
    place: scratch.Scratch, pair: tuple[Snapshot, Snapshot], data: st.DataObject
) -> None:
    first, second = pair
    built(place, first)
    contents = data.draw(rows(second))
    with place.engine.connect() as connection:
        scratch.make(connection, second)
        assert snapshot.read(connection).other == ()
        put = insert(connection, second, contents)
        held = sum(connection.execute(text(f"SELECT count(*) FROM {ddl.name(one)}")).scalar_one() for one in contents)
        assert put == held

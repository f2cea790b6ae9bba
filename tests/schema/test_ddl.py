"""What `ddl` writes means what the shape says: random schemas, built and read back."""

from __future__ import annotations

import pytest
from edits import pairs
from filling import insert, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from strategies import Draw, schemas

from kattegat.schema import ddl, scratch, snapshot
from kattegat.schema.shape import Function, Grants, Snapshot, Table, View, differences

FEW = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


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


ROLES = ("kat_app", "kat_system", "PUBLIC")
WORDS = ("SELECT", "INSERT", "UPDATE")


@st.composite
def rights(draw: Draw) -> Grants:
    found: Grants = {}
    for role in draw(st.lists(st.sampled_from(ROLES), unique=True)):
        option = " WITH GRANT OPTION" if role != "PUBLIC" and draw(st.booleans()) else ""
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, unique=True))
        found[role] = tuple(sorted(word + option for word in words))
    return found


@FEW
@given(data=st.data())
def test_rights_become_those_asked_for(place: scratch.Scratch, data: st.DataObject) -> None:
    """From any rights to any others, on a table, its columns, a sequence and a function."""

    def drawn() -> Table:
        by_column = {key: value for key in ("a", "B.b") if (value := data.draw(rights()))}
        return Table(columns={}, grants=data.draw(rights()), column_grants=by_column)

    old, new = drawn(), drawn()
    executed: tuple[Grants, Grants] = ({"kat_app": ("EXECUTE WITH GRANT OPTION",)}, {"kat_app": ("EXECUTE",)})
    with place.engine.connect() as connection:
        scratch.run(connection, ['CREATE TABLE "T%" (a integer, "B.b" integer)', "CREATE SEQUENCE s"])
        scratch.run(connection, ddl.create_function(Function("CREATE FUNCTION f(x text[]) RETURNS text RETURN 'x'")))
        scratch.run(connection, ddl.table_grants("public.T%", Table(columns={}), old))
        scratch.run(connection, ddl.grants("public.s", "sequence", {}, {"PUBLIC": ("USAGE",)}))
        scratch.run(connection, ddl.grants("public.f(text[])", "function", ddl.usual_grants("function"), executed[0]))
        first = snapshot.read(connection)
        assert (first.tables["public.T%"].grants, first.tables["public.T%"].column_grants) == (
            old.grants,
            old.column_grants,
        )
        assert first.functions["public.f(text[])"].grants == executed[0]
        scratch.run(connection, ddl.table_grants("public.T%", old, new))
        scratch.run(connection, ddl.grants("public.s", "sequence", {"PUBLIC": ("USAGE",)}, {}))
        scratch.run(connection, ddl.grants("public.f(text[])", "function", *executed))
        second = snapshot.read(connection)
        assert (second.tables["public.T%"].grants, second.tables["public.T%"].column_grants) == (
            new.grants,
            new.column_grants,
        )
        assert second.sequences["public.s"].grants == {}
        assert second.functions["public.f(text[])"].grants == executed[1]
        assert ddl.table_grants("public.T%", new, new) == []


def test_every_part_can_be_dropped_and_made_again(place: scratch.Scratch) -> None:
    with place.engine.connect() as connection:
        scratch.run(
            connection,
            [
                'CREATE TABLE "T.a" (id serial PRIMARY KEY, "n%" text CONSTRAINT "c""k" CHECK ("n%" <> \'\'))',
                'CREATE UNIQUE INDEX "i%" ON "T.a" (lower("n%"))',
                "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
                'CREATE TRIGGER "t%" BEFORE UPDATE ON "T.a" FOR EACH ROW EXECUTE FUNCTION f()',
                'ALTER TABLE "T.a" DISABLE TRIGGER "t%"',
                'CREATE POLICY "p%" ON "T.a" FOR SELECT TO kat_app USING (id > 0)',
                'CREATE VIEW "v%" AS SELECT id FROM "T.a"',
                "CREATE PROCEDURE p(a integer) LANGUAGE sql AS 'SELECT 1'",
            ],
        )
        shape = snapshot.read(connection)
        name, table = "public.T.a", shape.tables["public.T.a"]
        view, function, procedure = shape.views["public.v%"], shape.functions["public.f()"], "public.p(integer)"
        take_off = [
            ddl.drop_view("public.v%", view),
            ddl.drop_policy(name, "p%"),
            ddl.drop_trigger(name, "t%"),
            ddl.drop_function("public.f()", function),
            ddl.drop_function(procedure, shape.functions[procedure]),
            ddl.drop_index(name, "i%"),
            ddl.drop_constraint(name, 'c"k'),
            ddl.own_sequence("public.T.a_id_seq", None),
            ddl.set_default(name, "id", None),
        ]
        scratch.run(connection, take_off)
        bare = snapshot.read(connection).tables[name]
        assert (bare.triggers, bare.policies, bare.indexes, set(bare.constraints)) == ({}, {}, {}, {"T.a_pkey"})
        sequence = shape.sequences["public.T.a_id_seq"]
        owner = ddl.split_column(str(sequence.owned_by), shape.tables)
        assert owner == (name, "id")
        put_back = [
            ddl.set_default(name, "id", table.columns["id"].default),
            ddl.own_sequence("public.T.a_id_seq", owner),
            ddl.alter_sequence("public.T.a_id_seq", sequence),
            ddl.add_constraint(name, 'c"k', table.constraints['c"k'], not_valid=True),
            ddl.validate_constraint(name, 'c"k'),
            ddl.create_index(table.indexes["i%"]),
            *ddl.create_function(function),
            *ddl.create_function(shape.functions[procedure]),
            *ddl.create_trigger(name, "t%", table.triggers["t%"]),
            ddl.create_policy(name, "p%", table.policies["p%"]),
            ddl.create_view("public.v%", view),
            ddl.set_owner("public.v%", "view", view.owner),
        ]
        scratch.run(connection, put_back)
        assert snapshot.read(connection) == shape


def test_an_index_can_be_made_and_dropped_beside_writers(place: scratch.Scratch) -> None:
    with place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            scratch.run(connection, ["CREATE TABLE t (a integer)", "CREATE UNIQUE INDEX i ON t (a)"])
            before = snapshot.read(connection)
            index = before.tables["public.t"].indexes["i"]
            scratch.run(connection, [ddl.drop_index("public.t", "i", concurrently=True)])
            assert snapshot.read(connection).tables["public.t"].indexes == {}
            scratch.run(connection, [ddl.create_index(index, concurrently=True)])
            assert snapshot.read(connection) == before
        finally:
            scratch.run(connection, [ddl.drop_table("public.t")])


def test_a_circle_is_refused() -> None:
    shape = Snapshot(
        views={
            "public.a": View("SELECT 1 AS x FROM public.b", uses=("public.b",)),
            "public.b": View("SELECT 1 AS x FROM public.a", uses=("public.a",)),
        }
    )
    with pytest.raises(ddl.CannotBuildError, match="a circle of uses"):
        ddl.build(shape)

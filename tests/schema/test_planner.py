"""One construct at a time: there and back with rows, and with writes of the other release in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, text
from ways import as_release, execute, go, planned, rows, same

from kattegat.schema import ledger, planner, scratch, snapshot
from kattegat.schema.hints import Hints, Refresh


@pytest.fixture
def connection(place: scratch.Scratch) -> Iterator[Connection]:
    with place.engine.connect() as connection:
        # All is made as on a server of one's own: by an owner that is no superuser. `go` sees to the changes.
        connection.exec_driver_sql("SET ROLE kat_owner")
        ledger.install(connection)
        yield connection
        connection.rollback()


PAIRS = {
    "column only there": ("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE t (id int PRIMARY KEY)"),
    "column not null with default": (
        "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL DEFAULT 'x', b int NOT NULL DEFAULT 3)",
        "CREATE TABLE t (id int PRIMARY KEY)",
    ),
    "column with index and check": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, CONSTRAINT a_short CHECK (char_length(a) < 5)); CREATE"
        " INDEX ta ON t (a, id)",
        "CREATE TABLE t (id int PRIMARY KEY)",
    ),
    "table with foreign keys": (
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p ON"
        " DELETE CASCADE)",
        "CREATE TABLE t (id int PRIMARY KEY)",
    ),
    "child table": (
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (id bigserial PRIMARY KEY, t int REFERENCES t)",
        "CREATE TABLE t (id int PRIMARY KEY)",
    ),
    "identity table": (
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text UNIQUE)",
        "CREATE TABLE u (id int PRIMARY KEY)",
    ),
    "primary key moves": (
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL)",
        "CREATE TABLE t (id int NOT NULL, a int PRIMARY KEY)",
    ),
    "narrower text": (
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(3))",
    ),
    "narrower key": ("CREATE TABLE t (a text PRIMARY KEY)", "CREATE TABLE t (a varchar(3) PRIMARY KEY)"),
    "narrower number": (
        "CREATE TABLE t (id int PRIMARY KEY, a bigint, b numeric)",
        "CREATE TABLE t (id int PRIMARY KEY, a smallint, b int)",
    ),
    "text to number": ("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE t (id int PRIMARY KEY, a int)"),
    "json to jsonb": ("CREATE TABLE t (id int PRIMARY KEY, a json)", "CREATE TABLE t (id int PRIMARY KEY, a jsonb)"),
    "not null": ("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL)"),
    "unique": ("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE)"),
    "check": (
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a IN ('a', 'bb')))",
    ),
    "foreign key": (
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a int)",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a int REFERENCES p)",
    ),
    "enum value": (
        "CREATE TYPE mood AS ENUM ('a', 'bb', 'ccc'); CREATE TABLE t (id int PRIMARY KEY, a mood DEFAULT 'a');"
        "CREATE INDEX ta ON t (id) WHERE a = 'a'",
        "CREATE TYPE mood AS ENUM ('a', 'bb'); CREATE TABLE t (id int PRIMARY KEY, a mood DEFAULT 'a');"
        "CREATE INDEX ta ON t (id) WHERE a = 'a'",
    ),
    "enum becomes text": (
        "CREATE TYPE mood AS ENUM ('a', 'bb', 'ccc'); CREATE TABLE t (id int PRIMARY KEY, a mood DEFAULT 'a',"
        " b mood[])",
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text[])",
    ),
    "enum with parked column": (
        "CREATE TYPE mood AS ENUM ('a', 'bb', 'ccc'); CREATE TABLE t (id int PRIMARY KEY, a mood, b mood)",
        "CREATE TYPE mood AS ENUM ('bb', 'a'); CREATE TABLE t (id int PRIMARY KEY, b mood)",
    ),
    "domain": (
        "CREATE DOMAIN d AS text CHECK (VALUE <> ''); CREATE TABLE t (id int PRIMARY KEY, a d)",
        "CREATE DOMAIN d AS text CHECK (char_length(VALUE) < 3); CREATE TABLE t (id int PRIMARY KEY, a d)",
    ),
    "generated": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (upper(a)) STORED)",
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text)",
    ),
    "generated of another": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (a) STORED)",
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(2), b text GENERATED ALWAYS AS (lower(a)) STORED)",
    ),
    "serial": (
        "CREATE TABLE t (id serial PRIMARY KEY, n serial, a text)",
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
    ),
    "identity": (
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a text)",
        "CREATE TABLE t (id bigint PRIMARY KEY, a text)",
    ),
    "view and function": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); CREATE VIEW v AS SELECT id, a FROM t;"
        "CREATE VIEW w AS SELECT a FROM v; CREATE FUNCTION f(text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';"
        "CREATE INDEX ft ON t (f(b))",
        "CREATE TABLE t (id int PRIMARY KEY, b text); CREATE VIEW v AS SELECT id FROM t;"
        "CREATE FUNCTION f(text) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT 2::bigint'; CREATE INDEX ft"
        " ON t (f(b))",
    ),
    "trigger and policy": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NEW; END'; CREATE TRIGGER g BEFORE UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION g();"
        " CREATE POLICY p ON t USING (a = 'x'); ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE TABLE t (id int PRIMARY KEY, b text)",
    ),
    "keyless": ("CREATE TABLE t (a text, b text)", "CREATE TABLE t (a varchar(2))"),
    "partitioned": (
        "CREATE TABLE t (id int, at date NOT NULL, a text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE t_one PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE TABLE u (id int)",
    ),
    "unique constraint renamed": (
        "CREATE TABLE t (id int PRIMARY KEY, a text, CONSTRAINT one UNIQUE (a)); CREATE INDEX i1 ON t (a, id)",
        "CREATE TABLE t (id int PRIMARY KEY, a text, CONSTRAINT two UNIQUE (a)); CREATE INDEX i2 ON t (a, id)",
    ),
    "exclusion": (
        "CREATE TABLE t (id int PRIMARY KEY, a int4range)",
        "CREATE TABLE t (id int PRIMARY KEY, a int4range, EXCLUDE USING gist (a WITH &&))",
    ),
}
VALUES = [
    "NULL",
    "'a'",
    "'bb'",
    "'ccc'",
    "'9'",
    "'40000'",
    '\'{"z":1,  "a": [1]}\'',
    "'{a,bb}'",
    "'[1,5)'",
    "'[2,3)'",
    "'2026-03-04'",
]


def fill(connection: Connection, first: int) -> None:
    """As many rows as the schema takes, of values of every kind."""
    shape = snapshot.read(connection)
    for table, its in sorted(shape.tables.items(), key=lambda item: len(item[1].constraints)):
        own = [name for name, c in its.columns.items() if c.generated is None and c.identity != "always"]
        plain = [n for n in own if not (its.columns[n].default or "").startswith("nextval")]
        for number, value in enumerate(VALUES * 2):
            chosen = [str(first + number) if n == "id" else ("'2026-03-04'" if n == "at" else value) for n in plain]
            with connection.begin_nested() as point:
                names = ", ".join(plain)
                words = f"({names}) VALUES ({', '.join(chosen)})" if plain else "DEFAULT VALUES"
                try:
                    connection.exec_driver_sql(f"INSERT INTO {table} {words}")
                except Exception:
                    point.rollback()


@pytest.mark.parametrize("both_ways", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back(connection: Connection, name: str, both_ways: bool) -> None:
    one, other = PAIRS[name][:: -1 if both_ways else 1]
    execute(connection, [other])
    target = snapshot.read(connection)
    execute(connection, ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public", one])
    source = snapshot.read(connection)
    fill(connection, 1)
    before = rows(connection, source.tables)
    assert any(before.values())
    try:
        way = planned(connection, target)
    except Exception as problem:
        if "needs answers" not in str(problem):
            raise
        way = planned(connection, target, Hints(fill={"public.t.a": "{id}"}))
    for _round in range(2):
        go(connection, way)
        same(connection, target)
        rows(connection, target.tables)
        go(connection, way.reverse())
        same(connection, source)
        assert rows(connection, source.tables) == before
    # Another plan, made when everything has been parked once, comes to the same.
    go(connection, way)
    there = rows(connection, target.tables)
    fill(connection, 100)
    again = planned(connection, source, Hints(fill={"public.t.a": "{id}"}))
    go(connection, again)
    same(connection, source)
    go(connection, again.reverse())
    same(connection, target)
    held = rows(connection, target.tables)
    for table, its in there.items():
        for row in its:
            assert row in held[table]


def test_rows_that_the_older_release_wrote(connection: Connection) -> None:
    execute(connection, ["CREATE TABLE t (id int PRIMARY KEY)"])
    target = snapshot.read(connection)
    execute(
        connection,
        ["DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL DEFAULT 'd', b json, c int DEFAULT 5)"],
    )
    source = snapshot.read(connection)
    execute(
        connection, ["""INSERT INTO t VALUES (1, 'x', '{"b":  1}', NULL), (2, 'y', NULL, 2), (3, 'z', 'null', 3)"""]
    )
    way = planned(connection, target)
    go(connection, way)
    as_release(connection)
    execute(
        connection,
        [
            "INSERT INTO t VALUES (9)",
            "DELETE FROM t WHERE id = 2",
            "UPDATE t SET id = 4 WHERE id = 3",
            "UPDATE t SET id = id WHERE id = 1",
        ],
    )
    go(connection, way.reverse())
    same(connection, source)
    got = rows(connection, source.tables)["public.t"]
    assert got == [
        {"a": "d", "b": None, "c": "5", "id": "9"},
        {"a": "x", "b": '{"b":  1}', "c": None, "id": "1"},
        {"a": "z", "b": "null", "c": "3", "id": "4"},
    ] or sorted(map(repr, got)) == sorted(
        map(
            repr,
            [
                {"a": "d", "b": None, "c": "5", "id": "9"},
                {"a": "x", "b": '{"b":  1}', "c": None, "id": "1"},
                {"a": "z", "b": "null", "c": "3", "id": "4"},
            ],
        )
    )
    acts = connection.execute(text("SELECT act, key->>'id', contents->>'id' FROM parked.touched ORDER BY id")).all()
    assert [tuple(a) for a in acts] == [("I", "9", None), ("D", "2", "2"), ("U", "4", "3")]


def test_split_column(connection: Connection) -> None:
    execute(connection, ["CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL)"])
    older = snapshot.read(connection)
    execute(connection, ["DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, first text NOT NULL, last text)"])
    newer = snapshot.read(connection)
    execute(connection, ["INSERT INTO t VALUES (1, 'Ada', 'Lovelace'), (2, 'Alan', 'Turing'), (3, 'Grace', NULL)"])
    hints = Hints(
        fill={
            "public.t.name": "{first} || coalesce(' ' || {last}, '')",
            "public.t.first": "split_part({name}, ' ', 1)",
        },
        refresh={
            "public.t.name": Refresh("{first} || coalesce(' ' || {last}, '')", when=("first", "last")),
            "public.t.first": Refresh("split_part({name}, ' ', 1)", when=("name",)),
            "public.t.last": Refresh("nullif(split_part({name}, ' ', 2), '')", when=("name",)),
        },
    )
    way = planned(connection, older, hints)
    go(connection, way)
    same(connection, older)
    assert [row["name"] for row in rows(connection, older.tables)["public.t"]] == [
        "Ada Lovelace",
        "Alan Turing",
        "Grace",
    ]
    execute(
        connection,
        ["UPDATE t SET name = 'Ada King' WHERE id = 1", "INSERT INTO t (id, name) VALUES (4, 'Edsger Dijkstra')"],
    )
    go(connection, way.reverse())
    same(connection, newer)
    assert {row["id"]: (row["first"], row["last"]) for row in rows(connection, newer.tables)["public.t"]} == {
        "1": ("Ada", "King"),
        "2": ("Alan", "Turing"),
        "3": ("Grace", None),
        "4": ("Edsger", None),
    }
    execute(connection, ["UPDATE t SET last = 'Hopper' WHERE id = 3"])
    go(connection, way)
    names = {row["id"]: row["name"] for row in rows(connection, older.tables)["public.t"]}
    assert names == {"1": "Ada King", "2": "Alan Turing", "3": "Grace Hopper", "4": "Edsger Dijkstra"}


def test_renames(connection: Connection) -> None:
    execute(
        connection,
        [
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE fresh (id int PRIMARY KEY, p int REFERENCES p,"
            " b text CHECK (b <> ''));"
            "CREATE INDEX i ON fresh (b); CREATE VIEW v AS SELECT b FROM fresh"
        ],
    )
    target = snapshot.read(connection)
    execute(
        connection,
        [
            "DROP TABLE fresh CASCADE; CREATE TABLE old (id int PRIMARY KEY, p int REFERENCES p, a text CHECK"
            " (a <> ''));"
            "CREATE INDEX i ON old (a); CREATE VIEW v AS SELECT a AS b FROM old; INSERT INTO old VALUES (1, NULL, 'x')"
        ],
    )
    source = snapshot.read(connection)
    way = planned(connection, target, Hints(tables={"public.old": "public.fresh"}, columns={"public.fresh.a": "b"}))
    assert [step.words for step in way.steps if step.kind == "build index"] == []
    go(connection, way)
    same(connection, target)
    assert rows(connection, target.tables)["public.fresh"] == [{"id": "1", "p": None, "b": "x"}]
    go(connection, way.reverse())
    same(connection, source)


def test_placed_values_come_back_where_nobody_changed_them(connection: Connection) -> None:
    execute(connection, ["CREATE TABLE t (id int PRIMARY KEY, s text CHECK (s IN ('open', 'done')))"])
    target = snapshot.read(connection)
    execute(
        connection,
        [
            "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, s text CHECK (s IN ('open', 'done', 'muted')));"
            "INSERT INTO t VALUES (1, 'muted'), (2, 'muted'), (3, 'done')"
        ],
    )
    way = planned(connection, target, Hints(place={"public.t.s": {"muted": "open"}}))
    go(connection, way)
    same(connection, target)
    execute(connection, ["UPDATE t SET s = 'done' WHERE id = 2"])
    go(connection, way.reverse())
    got = {row["id"]: row["s"] for row in rows(connection, target.tables)["public.t"]}
    assert got == {"1": "muted", "2": "done", "3": "done"}
    states = connection.execute(
        text("SELECT key->>'id', state, contents->>'s' FROM parked.quarantine ORDER BY 1")
    ).all()
    assert [tuple(s) for s in states] == [("1", "returned", "muted"), ("2", "stale", "muted")]


def test_set_aside_rows_take_along_those_that_refer_to_them(connection: Connection) -> None:
    execute(
        connection,
        [
            "CREATE TABLE p (id int PRIMARY KEY, a text NOT NULL); CREATE TABLE c (id int PRIMARY KEY, p int"
            " REFERENCES p ON DELETE CASCADE, up int REFERENCES c)"
        ],
    )
    target = snapshot.read(connection)
    execute(
        connection,
        [
            "ALTER TABLE p ALTER a DROP NOT NULL; INSERT INTO p VALUES (1, NULL), (2, 'x'); INSERT INTO c VALUES"
            " (1, 1, NULL), (2, 2, 1), (3, 2, NULL), (4, NULL, 2)"
        ],
    )
    source = snapshot.read(connection)
    before = rows(connection, source.tables)
    way = planned(connection, target)
    go(connection, way)
    same(connection, target)
    assert [row["id"] for row in rows(connection, target.tables)["public.c"]] == ["3"]
    go(connection, way.reverse())
    assert rows(connection, source.tables) == before


def test_renames_of_names_in_quotes(connection: Connection) -> None:
    newer = """
        CREATE TABLE "Old table" (id int PRIMARY KEY, "a b" text CHECK ("a b" <> 'the a b of "Old table"'), open text
            CHECK (open <> 'open'), n bigint GENERATED ALWAYS AS (id * 2) STORED);
        CREATE TABLE child (id serial PRIMARY KEY, p int REFERENCES "Old table" ON DELETE CASCADE);
        CREATE INDEX one ON "Old table" (lower("a b"), open) WHERE open <> 'open';
        CREATE SEQUENCE counted OWNED BY "Old table".id;
        CREATE VIEW seen AS SELECT o."a b", o.open FROM "Old table" o JOIN child ON child.p = o.id;
        CREATE FUNCTION numbers() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count("a b") FROM "Old table"; END;
        INSERT INTO "Old table" (id, "a b", open) VALUES (1, 'x', 'y'), (2, NULL, NULL);
        INSERT INTO child (p) VALUES (1), (2), (1);
        CREATE POLICY own ON "Old table" USING ("a b" = 'a b');
        ALTER TABLE "Old table" ENABLE ROW LEVEL SECURITY; ALTER TABLE "Old table" FORCE ROW LEVEL SECURITY
    """
    renames = [
        """ALTER TABLE "Old table" RENAME TO "user"; ALTER TABLE "user" RENAME "a b" TO "order";"""
        """ ALTER TABLE "user" RENAME open TO "Shut"; ALTER TABLE "user" ALTER "Shut" SET NOT NULL"""
    ]
    with connection.begin_nested() as point:
        execute(connection, [newer, 'ALTER TABLE "Old table" NO FORCE ROW LEVEL SECURITY', "DELETE FROM child"])
        execute(connection, ['DELETE FROM "Old table"', 'ALTER TABLE "Old table" FORCE ROW LEVEL SECURITY', *renames])
        target = snapshot.read(connection)
        point.rollback()
    execute(connection, [newer])
    source = snapshot.read(connection)
    connection.exec_driver_sql("RESET ROLE")
    before = rows(connection, source.tables)
    hints = Hints(
        tables={"public.Old table": "public.user"},
        columns={"public.user.a b": "order", "public.user.open": "Shut"},
    )
    way = planned(connection, target, hints)
    assert [step.kind for step in way.steps if "rename" in step.kind] == [
        "rename table",
        "rename column",
        "rename column",
    ]
    go(connection, way)
    same(connection, target)
    assert [row["order"] for row in rows(connection, target.tables)["public.user"]] == ["x"]
    go(connection, way.reverse())
    same(connection, source)
    assert rows(connection, source.tables) == before


def test_renames_that_would_clash(connection: Connection) -> None:
    execute(connection, ["CREATE TABLE a (x int, y int); CREATE TABLE b (x int)"])
    shape = snapshot.read(connection)
    with pytest.raises(planner.CannotPlanError, match="b, which is there already"):
        planned(connection, shape, Hints(tables={"public.a": "public.b"}))
    with pytest.raises(planner.CannotPlanError, match="to y, which is there already"):
        planned(connection, shape, Hints(columns={"public.a.x": "y"}))


def test_many_columns_and_long_names(connection: Connection) -> None:
    long = [f"{'é' * 29}_{number:03}" for number in range(220)]
    columns = ", ".join(f"\"{name}\" text DEFAULT '%s {number}'" for number, name in enumerate(long))
    table = "ü" * 31
    execute(connection, [f'CREATE TABLE "{table}" (id int PRIMARY KEY)'])
    target = snapshot.read(connection)
    execute(connection, [f'DROP TABLE "{table}"', f'CREATE TABLE "{table}" (id int PRIMARY KEY, {columns})'])
    source = snapshot.read(connection)
    execute(connection, [f'INSERT INTO "{table}" SELECT n FROM generate_series(1, 3) AS n'])
    before = rows(connection, source.tables)
    way = planned(connection, target)
    go(connection, way)
    same(connection, target)
    execute(connection, [f'UPDATE "{table}" SET id = 30 WHERE id = 3', f'DELETE FROM "{table}" WHERE id = 2'])
    go(connection, way.reverse())
    same(connection, source)
    after = {row["id"]: row for row in rows(connection, source.tables)[f"public.{table}"]}
    was = {row["id"]: row for row in before[f"public.{table}"]}
    assert after == {"1": was["1"], "30": {**was["3"], "id": "30"}}
    kept = connection.execute(text("SELECT act, contents FROM parked.touched ORDER BY id")).all()
    assert [(each.act, len(each.contents)) for each in kept] == [("U", 221), ("D", 221)]


def test_forced_policies_hide_nothing_from_a_change(connection: Connection) -> None:
    newer = """
        CREATE TABLE p (id int PRIMARY KEY, n bigint);
        CREATE TABLE c (id int PRIMARY KEY, p int, CONSTRAINT cp FOREIGN KEY (p) REFERENCES p);
        INSERT INTO p VALUES (1, 3000000000), (2, 2), (3, 3); INSERT INTO c VALUES (1, 1), (2, 2), (3, 3);
        CREATE POLICY nobody ON p USING (false); CREATE POLICY nobody ON c USING (false);
        ALTER TABLE p ENABLE ROW LEVEL SECURITY; ALTER TABLE p FORCE ROW LEVEL SECURITY;
        ALTER TABLE c ENABLE ROW LEVEL SECURITY; ALTER TABLE c FORCE ROW LEVEL SECURITY
    """
    with connection.begin_nested() as point:
        execute(connection, [newer, "ALTER TABLE c DROP CONSTRAINT cp", "ALTER TABLE p ALTER n TYPE int USING 1"])
        target = snapshot.read(connection)
        point.rollback()
    execute(connection, [newer])
    source = snapshot.read(connection)
    connection.exec_driver_sql("RESET ROLE")
    before = rows(connection, source.tables)
    way = planned(connection, target)
    go(connection, way)
    same(connection, target)
    found = rows(connection, target.tables)
    assert [row["n"] for row in found["public.p"]] == ["2", "3"]
    assert len(found["public.c"]) == 3
    go(connection, way.reverse())
    same(connection, source)
    assert rows(connection, source.tables) == before

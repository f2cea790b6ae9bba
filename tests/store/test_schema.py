"""The schema itself: tenancy in every key, row-level security on every tenant table, no drift from the code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from kattegat.store import migrate
from kattegat.store.database import Database
from kattegat.store.tables import INSTALL_TABLES, PARTITIONED, TENANT_TABLES, metadata

KEYS = text(
    """
    SELECT c.relname AS tablename, k.conname, k.contype,
           (SELECT array_agg(a.attname ORDER BY p.place)
            FROM unnest(k.conkey) WITH ORDINALITY AS p(number, place)
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.number) AS columns
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND k.contype IN ('p', 'u', 'f') AND NOT c.relispartition
    """
)
UNIQUE_INDEXES = text(
    """
    SELECT c.relname AS tablename, i.relname AS indexname, a.attname AS first_column
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.indkey[0]
    WHERE c.relnamespace = 'public'::regnamespace AND x.indisunique AND NOT c.relispartition
    """
)


def test_every_key_of_a_tenant_table_starts_with_its_organisation(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        rows = connection.execute(KEYS).all()
        indexes = connection.execute(UNIQUE_INDEXES).all()
    tenant = {table.name for table in TENANT_TABLES}
    seen = {row.tablename for row in rows}
    assert seen == tenant | INSTALL_TABLES
    for row in rows:
        if row.tablename not in tenant:
            continue
        assert row.columns[0] == "organisation_id", row
        if row.contype == "p":
            time = PARTITIONED.get(row.tablename)
            assert list(row.columns) == ["organisation_id", *([time] if time else []), "id"], row
    for row in indexes:
        if row.tablename in tenant:
            assert row.first_column == "organisation_id", row


def test_every_table_is_known_as_tenant_or_install(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        names = set(
            connection.execute(
                text(
                    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                    " AND relkind IN ('r', 'p') AND NOT relispartition"
                )
            ).scalars()
        )
    assert names == {table.name for table in metadata.sorted_tables} | {"alembic_version"}


def test_the_application_sees_the_organisations_it_named_and_no_others(database: Database) -> None:
    with database.begin("kat_system") as connection:
        for code in ("a", "b"):
            organisation = connection.execute(
                text("INSERT INTO organisation (code, name) VALUES (:code, :code) RETURNING id"), {"code": code}
            ).scalar_one()
            connection.execute(
                text("INSERT INTO asset (organisation_id, type, key) VALUES (:id, 'Hostname', 'x.test')"),
                {"id": organisation},
            )
    with database.begin("kat_system") as connection:
        first, second = connection.execute(text("SELECT id FROM organisation ORDER BY code")).scalars()
    count = text("SELECT array_agg(organisation_id ORDER BY organisation_id) FROM asset")
    with database.begin("kat_app") as connection:
        assert connection.execute(count).scalar() is None
        assert connection.execute(text("SELECT count(*) FROM organisation")).scalar() == 0
    with database.begin("kat_app", [first]) as connection:
        assert connection.execute(count).scalar() == [first]
    with database.begin("kat_app", [first, second]) as connection:
        assert connection.execute(count).scalar() == [first, second]
    with pytest.raises(ProgrammingError, match="row-level security"), database.begin("kat_app", [first]) as connection:
        connection.execute(
            text("INSERT INTO asset (organisation_id, type, key) VALUES (:id, 'Hostname', 'y.test')"), {"id": second}
        )


def test_row_level_security_is_forced_on_every_tenant_table(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        forced = set(
            connection.execute(
                text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity")
            ).scalars()
        )
    assert {table.name for table in TENANT_TABLES} <= forced


def test_the_application_reaches_no_partition_and_no_token(database: Database) -> None:
    with database.begin("kat_owner") as connection:
        open_ones = connection.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
                " AND (relispartition OR relname = 'runner') AND has_table_privilege('kat_app', oid, 'SELECT')"
            )
        ).all()
    assert open_ones == []


def test_autogenerate_finds_no_difference_from_the_tables_in_code(database: Database) -> None:
    with database.engine("kat_owner").connect() as connection:
        command.check(migrate.config(connection))


def test_plain_alembic_answers(database: Database) -> None:
    url = database.engine("kat_owner").raw_connection()
    info = url.driver_connection.info  # type: ignore[union-attr]
    address = f"postgresql://{info.user}:{info.password}@/{info.dbname}?host={info.host}&port={info.port}"
    url.close()
    environment = {**os.environ, "KAT_DATABASE_URL": address}
    environment = {name: value for name, value in environment.items() if not name.startswith("KAT_TEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(migrate.INI), "current"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{migrate.head()} (head)" in done.stdout

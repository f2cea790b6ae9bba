"""The two schemas that a change of release keeps in the database it changes: `lifecycle` (who changed what, and how)
and `parked` (what an older release must not see, kept whole).

They hold no table of any release, so they are the same in every release: additions only, never a change of meaning.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

TABLES = """
CREATE SCHEMA IF NOT EXISTS lifecycle;
CREATE SCHEMA IF NOT EXISTS parked;

-- Even: open. Odd: a change of release is under way, and nobody else writes. A sequence, not a row: a row would be read
-- from the snapshot of a transaction that began before the change.
CREATE SEQUENCE IF NOT EXISTS lifecycle.epoch AS bigint MINVALUE 0 START 0;

CREATE TABLE IF NOT EXISTS lifecycle.fact (
    name text PRIMARY KEY,
    value jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS lifecycle.plan (
    revision text PRIMARY KEY,
    follows text,
    release text NOT NULL,
    document text NOT NULL,
    before text NOT NULL,
    after text NOT NULL,
    sha256 text NOT NULL,
    signature bytea,
    key_id text,
    back boolean NOT NULL DEFAULT false,
    stored_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS lifecycle.run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    from_release text,
    to_release text,
    from_revision text,
    to_revision text,
    state text NOT NULL DEFAULT 'running',
    document text NOT NULL,
    sha256 text NOT NULL,
    backup text,
    by_whom text NOT NULL,
    host text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    result jsonb,
    CONSTRAINT run_state CHECK (state IN ('running', 'done', 'cancelling', 'cancelled', 'refused'))
);
CREATE UNIQUE INDEX IF NOT EXISTS run_open ON lifecycle.run ((true)) WHERE state IN ('running', 'cancelling');
CREATE TABLE IF NOT EXISTS lifecycle.journal (
    run bigint NOT NULL REFERENCES lifecycle.run (id),
    number integer NOT NULL,
    kind text NOT NULL,
    target text NOT NULL,
    words text NOT NULL,
    sha256 text NOT NULL,
    state text NOT NULL DEFAULT 'pending',
    back boolean NOT NULL DEFAULT false,
    started_at timestamptz,
    ended_at timestamptz,
    rows bigint,
    PRIMARY KEY (run, number),
    CONSTRAINT journal_state CHECK (state IN ('pending', 'running', 'done', 'undone'))
);

-- Ids are reserved from here when a plan is made; they name what is parked: column _p12, table parked.t12.
CREATE SEQUENCE IF NOT EXISTS parked.id AS bigint;
CREATE TABLE IF NOT EXISTS parked.entry (
    id bigint PRIMARY KEY,
    kind text NOT NULL,
    was text NOT NULL,
    now_is text NOT NULL,
    shape jsonb NOT NULL,
    made_by text NOT NULL DEFAULT coalesce(current_setting('kat.change_of', true), ''),
    state text NOT NULL,
    parked_at timestamptz,
    returned_at timestamptz,
    account jsonb,
    CONSTRAINT entry_state CHECK (state IN ('parked', 'returned', 'purged'))
);
-- What an older release did to rows whose values are parked: their key, and the row as it was, every value in its text
-- form (which PostgreSQL reads back exactly, whatever the type).
CREATE TABLE IF NOT EXISTS parked.touched (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry bigint NOT NULL,
    act "char" NOT NULL,
    key jsonb NOT NULL,
    contents jsonb,
    open boolean NOT NULL DEFAULT true,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX IF NOT EXISTS touched_once ON parked.touched (entry, md5(key::text)) WHERE act = 'U' AND open;
CREATE INDEX IF NOT EXISTS touched_entry ON parked.touched (entry);
-- Rows (column_name NULL) and single values that the schema in force can't hold.
CREATE TABLE IF NOT EXISTS parked.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry bigint NOT NULL,
    table_name text NOT NULL,
    column_name text,
    key jsonb NOT NULL,
    contents jsonb NOT NULL,
    placed text,
    image text,
    reason text NOT NULL,
    state text NOT NULL DEFAULT 'held',
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CONSTRAINT quarantine_state CHECK (state IN ('held', 'returned', 'stale', 'conflict'))
);
CREATE INDEX IF NOT EXISTS quarantine_held ON parked.quarantine (entry) WHERE state = 'held';
CREATE INDEX IF NOT EXISTS quarantine_key ON parked.quarantine (entry, md5(key::text));
"""


class Entry(Struct, frozen=True):
    """A parked thing. `kind` is column, table, type, sequence, function, rows, values or watch; `was` where it belongs
    (`public.task.note`), `now_is` where it lies (`public.task._p12`, `parked.t12`), `shape` its part of a snapshot."""

    id: int
    kind: str
    was: str
    now_is: str
    shape: dict[str, object]
    state: str = "parked"


def install(connection: Connection) -> None:
    """Makes the schemas and whatever of them is missing; to be called by the owner of the database's tables."""
    from kattegat.schema import parking

    connection.exec_driver_sql(TABLES)
    for function in parking.FUNCTIONS:
        connection.exec_driver_sql(function.replace("%", "%%"))


def present(connection: Connection) -> bool:
    """Whether this database has a ledger."""
    return bool(connection.execute(text("SELECT to_regclass('lifecycle.journal') IS NOT NULL")).scalar())


def entries(connection: Connection) -> list[Entry]:
    """All that is parked now, in the order in which it was."""
    rows = connection.execute(
        text(
            "SELECT id, kind, was, now_is, shape, state FROM parked.entry WHERE state = 'parked' ORDER BY parked_at, id"
        )
    )
    return [msgspec.convert(dict(row._mapping), Entry) for row in rows]


def next_id(connection: Connection) -> int:
    """The first id that no plan has reserved yet. Reserves nothing: a dry run writes nothing."""
    row = connection.execute(text("SELECT last_value, is_called FROM parked.id")).one()
    return int(row.last_value) + int(row.is_called)


def reserve(connection: Connection, upto: int) -> None:
    """Takes the ids below `upto`, which a plan to be stored or run uses."""
    connection.execute(text("SELECT setval('parked.id', greatest(:upto, 1), false)"), {"upto": upto})

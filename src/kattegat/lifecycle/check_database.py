"""Checks before a change of release: the database, its records and its schema, and the plan against them.

Each yields a sentence for each thing that is wrong: what it is, and what to do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kattegat.lifecycle.situation import Situation
from kattegat.schema import fence, ledger, runs

FOREIGN_LISTED = 5
LEAST_FREE = 64 * 1024**2


def ours(s: Situation) -> Iterator[str]:
    tables = {row[0] for row in s.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")}
    if "alembic_version" not in tables or "organisation" not in tables or "install" not in tables:
        if not tables:
            yield "The database is empty: `kat up` makes an install in it."
        else:
            some = ", ".join(sorted(tables)[:FOREIGN_LISTED])
            yield f"The database is no Kattegat database (it has {some}): set KAT_DATABASE_URL to the right one."
        return
    versions = [row[0] for row in s.rows("SELECT version_num FROM public.alembic_version ORDER BY 1")]
    if len(versions) != 1:
        said = ", ".join(versions) or "none"
        yield (
            f"The database says {len(versions)} revisions ({said}) in place of one: put the row of alembic_version"
            " right, or restore a backup."
        )


def ledger_whole(s: Situation) -> Iterator[str]:
    if not ledger.present(s.connection):
        yield (
            "The database has no record of changes (schema lifecycle): type `kat up` with the release that it is for,"
            " which adds it."
        )
        return
    for name in ("fact", "plan", "run", "journal", "epoch"):
        if s.value("SELECT to_regclass(:name)", name=f"lifecycle.{name}") is None:
            yield f"lifecycle.{name} was removed from the database: restore a backup."
    for name in ("entry", "touched", "quarantine", "id"):
        if s.value("SELECT to_regclass(:name)", name=f"parked.{name}") is None:
            yield f"parked.{name} was removed from the database: restore a backup."


def numbers(s: Situation) -> Iterator[str]:
    if s.value("SELECT coalesce(max(id), 0) FROM parked.entry") >= ledger.next_id(s.connection):
        yield (
            "The sequence parked.id was set back behind what is parked: SELECT setval('parked.id', (SELECT max(id) FROM"
            " parked.entry))."
        )
    for was, now_is in s.rows(
        "SELECT was, now_is FROM parked.entry WHERE state = 'parked' AND kind = 'table' AND NOT EXISTS (SELECT FROM"
        " pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE concat(n.nspname, '.', c.relname) = now_is)"
    ):
        yield f"The parked table {was} ({now_is}) was removed by hand: restore a backup."
    for was, now_is in s.rows(
        "SELECT was, now_is FROM parked.entry WHERE state = 'parked' AND kind = 'column' AND NOT EXISTS (SELECT FROM"
        " pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE concat(n.nspname, '.', c.relname, '.', a.attname) = now_is AND NOT a.attisdropped)"
    ):
        yield f"The parked column {was} ({now_is}) was removed by hand: restore a backup."


def open_change(s: Situation) -> Iterator[str]:
    run = runs.open_run(s.connection)
    if run is not None:
        yield (
            f"A {run.kind} was begun by {run.by_whom} on {run.host} at {run.started_at:%Y-%m-%d %H:%M} UTC and has not"
            f" ended: type `kat {run.kind} --resume` to go on with it, or `kat {run.kind} --cancel` to go back."
        )


def epoch(s: Situation) -> Iterator[str]:
    state = fence.state(s.connection)
    if state.change is not None:
        yield f"Another change of release runs in this database now ({state.change}): wait for it to end."
    elif not state.open and runs.open_run(s.connection) is None:
        yield (
            f"The fence of this database is closed (epoch {state.epoch}) and no change is on record: type"
            f" `kat {s.kind} --resume` to look at everything and open it."
        )


def fenced(s: Situation) -> Iterator[str]:
    if not fence.present(s.connection):
        yield "The fence of this database was removed: type `kat up` with the release it is for, which puts it back."
        return
    for (name,) in s.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version' AND NOT EXISTS (SELECT FROM pg_trigger t"
        " WHERE t.tgrelid = c.oid AND t.tgname = :trigger AND t.tgenabled = 'A') ORDER BY 1 LIMIT 3",
        trigger=fence.TRIGGER,
    ):
        yield (
            f"Table {name} is not fenced (its trigger {fence.TRIGGER} is missing or off): type `kat up` with the"
            " release that the database is for, which puts it back."
        )


def recorded(s: Situation) -> Iterator[str]:
    found = s.value("SELECT value ->> 'revision' FROM lifecycle.fact WHERE name = 'release'")
    revision = s.value("SELECT min(version_num) FROM public.alembic_version")
    if found is not None and revision is not None and found != revision:
        yield (
            f"The database says revision {revision}, and the last change left {found}: somebody set it by hand; put"
            f" alembic_version back to {found}, or restore a backup."
        )


def damaged_indexes(s: Situation) -> Iterator[str]:
    for (name,) in s.rows(
        "SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE c.relnamespace = 'public'::regnamespace AND NOT (i.indisvalid AND i.indisready) ORDER BY 1"
    ):
        yield f"The index {name} is not whole, somebody broke off building it: REINDEX INDEX CONCURRENTLY {name}."


def unproven_constraints(s: Situation) -> Iterator[str]:
    for name, table in s.rows(
        "SELECT conname, conrelid::regclass::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        " AND NOT convalidated ORDER BY 1"
    ):
        yield f"The constraint {name} of {table} was never validated: ALTER TABLE {table} VALIDATE CONSTRAINT {name}."


def room(s: Situation) -> Iterator[str]:
    """Only where the server keeps its files beside ours is its disk known."""
    if s.plan is None or s.settings.database_url:
        return
    tables = sorted({name for step in s.plan.steps if step.rewrite for name in step.tables})
    needed = int(
        s.value(
            "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)"
            " FROM unnest(CAST(:names AS text[])) AS t (name)",
            names=tables,
        )
    )
    free = shutil.disk_usage(s.settings.data_dir).free
    if free < needed + LEAST_FREE:
        yield (
            f"The disk of {s.settings.data_dir} has {free / 1024**2:,.0f} MB free, and the change needs about"
            f" {(needed + LEAST_FREE) / 1024**2:,.0f} MB: make room."
        )


def folders(s: Situation) -> Iterator[str]:
    """Backups and evidence are written there, and the plan's key is read."""
    for path in (s.settings.data_dir, *(s.settings.data_dir / name for name in ("evidence", "backups"))):
        if path.exists() and not _writable(path):
            yield f"{path} can't be written by this user: run as its owner."


def _writable(path: Path) -> bool:
    # Of a file system mounted read-only even root is told so.
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)

"""Turns a revision's `upgrade()` into the steps of a plan, without touching the database that they are for.

In a scratch database of the same server the schema is built by our own revisions up to the current one. Then
`upgrade()` is rendered to SQL (Alembic's offline mode), each statement being run there at once: so the shapes before
and after are known, and with them the way back, which the plan stores.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, text

from kattegat.schema import ddl, ledger, operations, planner, scratch, snapshot, sqltext, stored
from kattegat.schema.hints import Hints
from kattegat.schema.operations import NotReversibleError
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Lock, Plan, Step
from kattegat.schema.stored import PlanKey
from kattegat.store import migrate

READ, REWRITE, WRITE = 2_000_000.0, 400_000.0, 60_000.0  # rows per second of a plain server

_DATA = re.compile(
    r"^\s*(?:WITH\b.*?\b)?(UPDATE|INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|DO)\b", re.IGNORECASE | re.DOTALL
)
_CREATE = re.compile(
    r"^\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>\"[^\"]+\"|\w+)",
    re.IGNORECASE,
)
_DROP = re.compile(
    r"^\s*DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?(?:\w+\.)?(?P<name>\"[^\"]+\"|\w+)", re.IGNORECASE
)
# Undone, an upgrade leaves nothing parked: behind the fence only the upgrade itself has filled what it made, and it
# will fill it again.
_FORGET = """DO $kat_forget$
DECLARE
    e record;
    place text;
BEGIN
    FOR e IN SELECT * FROM parked.entry WHERE id >= {first} AND id < {end} AND state = 'parked'
        AND kind IN ('watch', 'column', 'table') ORDER BY kind DESC, id
    LOOP
        place := CASE e.kind WHEN 'column' THEN pg_catalog.regexp_replace(e.was, '[.][^.]*$', '') ELSE e.was END;
        place := pg_catalog.format('%I.%I', pg_catalog.split_part(place, '.', 1),
            pg_catalog.substr(place, pg_catalog.strpos(place, '.') + 1));
        IF e.kind = 'watch' THEN
            EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS _kat_watch_%s ON %s', e.id, place);
            EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS _kat_swept_%s ON %s', e.id, place);
            EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS parked.watch_%s()', e.id);
        ELSIF e.kind = 'column' THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s DROP COLUMN _p%s', place, e.id);
        ELSE
            EXECUTE pg_catalog.format('DROP TABLE parked.t%s', e.id);
        END IF;
        UPDATE parked.entry SET state = 'purged', returned_at = pg_catalog.clock_timestamp() WHERE id = e.id;
    END LOOP;
END $kat_forget$"""
_PATH = "SET LOCAL search_path = public"
_ROWS = text(
    """
    SELECT n.nspname || '.' || c.relname AS name,
           CAST(greatest(c.reltuples, 0, (SELECT sum(greatest(p.reltuples, 0)) FROM pg_partition_tree(c.oid) t
                                          JOIN pg_class p ON p.oid = t.relid)) AS bigint) AS estimate
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    """
)


class Live(Struct, frozen=True):
    """What a plan has to know of the database it is for: its shape, estimated rows per table, the first free id."""

    shape: Snapshot
    rows: dict[str, int]
    next_id: int


def live(connection: Connection) -> Live:
    """Reads it."""
    rows = {str(row.name): int(row.estimate) for row in connection.execute(_ROWS)}
    return Live(snapshot.read(connection), rows, ledger.next_id(connection))


@contextmanager
def workshop(admin: str, at: str, found: Live, config: Config | None = None) -> Iterator[Workshop]:
    """A scratch database at revision `at`, made by our own revisions. Raises `scratch.ScratchError`."""
    chosen = config or migrate.config()
    with scratch.database(admin, owner="kat_owner") as place, place.engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE kat_owner"))
        ledger.install(connection)
        own = migrate.copied(chosen, connection)
        own.attributes["record"] = False
        command.upgrade(own, at)
        ledger.reserve(connection, found.next_id)
        yield Workshop(connection, found)


class _Segment(Struct):
    """Statements that run in one transaction, or one that runs in none, with the shapes before and after."""

    alone: bool
    before: Snapshot
    statements: list[str]
    after: Snapshot | None = None
    last: bool = False


class Workshop:
    """Renders revisions, the next one each time."""

    def __init__(self, connection: Connection, found: Live) -> None:
        self._connection = connection
        self._live = found

    def shape(self) -> Snapshot:
        """The shape at this point."""
        return snapshot.read(self._connection)

    def render(self, script: Script, key: PlanKey, release: str) -> Plan:
        """The steps of a revision's `upgrade()`, and those that store its way back and set the revision."""
        revision = script.revision
        follows = operations.linear(revision, script.down_revision)
        if follows is None:
            raise NotReversibleError(
                f"Revision {revision} is the first one: `kat up` makes it, nothing upgrades to it."
            )
        hints = getattr(script.module, "hints", None) or Hints()
        before = self.shape()
        segments, moves = self._segments(script)
        after = self.shape()
        first = ledger.next_id(self._connection)
        back = operations.plan_back(self._connection, revision, follows, before, after, hints, moves=moves)
        ledger.reserve(self._connection, back.next_id)
        row = stored.signed(
            key, revision=revision, follows=follows, release=release, plan=back, before=before, after=after
        )
        said = stored.set_revision(revision, follows)
        steps = self._taking_ids(
            [self._step(script, segment, hints, (first, back) if len(segments) == 1 else None) for segment in segments]
        )
        steps.append(
            Step(
                kind="store way back",
                target=f"lifecycle.plan.{revision}",
                words=f"The way back of revision {revision} is stored, signed, and the database says {revision}.",
                do=(f"SELECT setval('parked.id', {back.next_id}, false)", stored.insertion(row), said.undo[0]),
                undo=(said.do[0], stored.deletion(revision)),
                undo_words=f"The database says revision {follows} again.",
                rows=2,
                seconds=0.02,
                undo_seconds=0.01,
            )
        )
        # The ids of what undoing would park are free again for the next revision: an upgrade that is undone takes its
        # stored plans with it, and moves on past them all.
        ledger.reserve(self._connection, back.next_id)
        return Plan(source=before.fingerprint(), target=after.fingerprint(), steps=tuple(steps), next_id=back.next_id)

    # -- rendering ---------------------------------------------------------------------------------------------------

    def _segments(self, script: Script) -> tuple[list[_Segment], list[operations.Move]]:
        done: list[_Segment] = []
        now = _Segment(False, self.shape(), [])

        def end(*, alone: bool) -> None:
            nonlocal now
            if now.statements:
                now.after = self.shape()
                done.append(now)
                now = _Segment(alone, now.after, [])
            else:
                now.alone = alone

        def take(output: str) -> None:
            statement = output.strip().removesuffix(";").strip()
            if not statement or all(line.startswith("--") for line in statement.splitlines()):
                return
            self._run(sqltext.plain(statement))
            now.statements.append(statement)
            if now.alone:
                end(alone=True)

        context = MigrationContext.configure(
            dialect_name="postgresql",
            # A % in a statement is a %: no driver will look for parameters in it.
            dialect_opts={"paramstyle": "named"},
            opts={
                "as_sql": True,
                "literal_binds": True,
                "output_buffer": io.StringIO(),
                "shape_connection": self._connection,
            },
        )
        rendering: Any = context.impl
        rendering.static_output = take
        # What an autocommit block does around its statements.
        rendering.emit_commit = lambda: end(alone=True)
        rendering.emit_begin = lambda: end(alone=False)
        with Operations.context(context):
            script.module.upgrade()
        end(alone=False)
        for segment in reversed(done):
            if not segment.alone:
                segment.last = True
                break
        return done, context.opts.get(operations.MOVES, [])

    def _run(self, statement: str) -> None:
        driver = self._connection.connection.driver_connection
        if driver is None:
            raise ValueError("the connection is closed")
        with driver.cursor() as cursor:
            cursor.execute(statement.encode(), prepare=False)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, script: Script, segment: _Segment, hints: Hints, planned: tuple[int, Plan] | None) -> Step:
        """`planned` is the way back of the whole revision, with its first id, where the segment is all of it."""
        after = segment.after or segment.before
        words = f"Revision {script.revision}, {script.doc.rstrip('.').lower()}"
        changed, rewrite = _changed(segment.before, after)
        data = any(_DATA.match(statement) for statement in segment.statements)
        rows = sum(self._live.rows.get(table, 0) for table in changed)
        rate = WRITE if data else REWRITE if rewrite else READ
        lock: Lock = (
            "ACCESS EXCLUSIVE" if changed and not segment.alone else "SHARE UPDATE EXCLUSIVE" if changed else ""
        )
        if segment.alone:
            statement = segment.statements[0]
            do: tuple[str, ...] = ("SET search_path = public", statement, "SET search_path = ''")
            undo = self._alone_back(statement, segment.before, after)
        else:
            do = (_PATH, *segment.statements)
            # The revision's own SQL for the way back belongs to what is undone first.
            some = operations.hints_between(hints, after, segment.before, data=segment.last)
            first, plan = planned or (ledger.next_id(self._connection), self._back(after, segment.before, some))
            ledger.reserve(self._connection, plan.next_id)
            undo = (
                *sqltext.in_one_transaction(plan)[: None if planned is None else -1],
                _FORGET.format(first=first, end=plan.next_id),
            )
        return Step(
            kind="upgrade" if not segment.alone else "build index",
            target=f"revision {script.revision}",
            words=f"{words}: {len(segment.statements)} statement{'s' if len(segment.statements) != 1 else ''}.",
            do=do,
            undo=undo,
            undo_words=f"What revision {script.revision} made is taken off again.",
            lock=lock,
            tables=changed,
            rewrite=rewrite,
            rows=rows,
            seconds=round(0.01 * len(do) + rows / rate, 3),
            undo_seconds=round(0.01 * len(undo), 3),
            alone=segment.alone,
        )

    def _back(self, after: Snapshot, before: Snapshot, hints: Hints) -> Plan:
        return planner.plan(
            after,
            before,
            hints=hints,
            parked=ledger.entries(self._connection),
            first_id=ledger.next_id(self._connection),
        )

    def _taking_ids(self, steps: Sequence[Step]) -> list[Step]:
        """Undone before the ids were reserved, a step must not leave them to others."""
        end = ledger.next_id(self._connection)
        taken = f"SELECT setval('parked.id', {end}, false)"
        return [step if step.alone else replace(step, undo=(taken, *step.undo)) for step in steps]

    def _alone_back(self, statement: str, before: Snapshot, after: Snapshot) -> tuple[str, ...]:
        created, dropped = _CREATE.match(statement), _DROP.match(statement)
        if created:
            return (f"DROP INDEX CONCURRENTLY IF EXISTS public.{created['name']}",)
        if dropped:
            name = dropped["name"].strip('"')
            for table in before.tables.values():
                if name in table.indexes:
                    return (ddl.create_index(table.indexes[name], concurrently=table.partition is None),)
        plan = self._back(after, before, Hints())
        ledger.reserve(self._connection, plan.next_id)
        return tuple(sqltext.in_one_transaction(plan, whole=True))


def _changed(before: Snapshot, after: Snapshot) -> tuple[tuple[str, ...], bool]:
    """The tables that were there before and are different or gone after, and whether one of them was rewritten."""
    changed = tuple(sorted(name for name, table in before.tables.items() if after.tables.get(name) != table))
    rewrite = any(
        column.type != after.tables[table].columns[name].type
        for table in changed
        if table in after.tables
        for name, column in before.tables[table].columns.items()
        if name in after.tables[table].columns
    )
    return changed, rewrite

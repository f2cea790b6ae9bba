"""Reversible operations for Alembic: what a revision takes away is parked, and `downgrade()` runs the stored way back.

Importing this module registers `op.park_column`, `op.park_table`, `op.unpark` and `op.way_back`; `recorded` makes the
upgrades of an `env.py` store their way back. `docs/reference/reversible-operations.md` shows both.

Options of `context.configure` that are read here: `plan_key` (a `PlanKey`, or a function that gives one),
`accept_plans` (SHA-256 sums of plans to run though the key has not signed them), `schemas`, and, where SQL is only
printed, `stored_plans` (the rows by revision) and `shape_connection` (a database of the shape that the SQL is for).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from typing import Any

from alembic import op as alembic_op
from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.util import CommandError
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from kattegat.errors import KattegatError
from kattegat.schema import ledger, planner, shrink, snapshot, sqltext, stored
from kattegat.schema.hints import Hints
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Snapshot, differences
from kattegat.schema.steps import Plan, Step
from kattegat.schema.stored import NoStoredPlanError, PlanKey, SchemaDriftError, Stored

Steps = Iterable[Any]
StepsFunction = Callable[[Any, MigrationContext], Steps]

SCHEMAS = ("public",)
MOVES = "kattegat_moves"  # among the options of a migration context: what `op.unpark` did in this revision


class Move(Struct, frozen=True):
    """What `op.unpark` did in the middle of an `upgrade()`: its plan, the shapes around it, what was parked before."""

    before: Snapshot
    plan: Plan
    after: Snapshot
    parked: tuple[Entry, ...]


class NotReversibleError(KattegatError):
    """A revision, or a wish, for which there is no way back of this kind."""


class NothingParkedError(KattegatError):
    """Nothing is parked under this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"Nothing is parked as {name}; the table parked.entry lists what is.")


# -- the operations -------------------------------------------------------------------------------------------------


@Operations.register_operation("park_column")
class ParkColumnOp(MigrateOperation):
    """Takes a column out of the schema and keeps it."""

    def __init__(self, table: str, column: str, schema: str = "public") -> None:
        self.table = f"{schema}.{table}"
        self.column = column

    @classmethod
    def park_column(cls, operations: Operations, table: str, column: str, *, schema: str = "public") -> None:
        """Parks a column with all that hangs on it, in place of `op.drop_column`. Reads no row."""
        operations.invoke(cls(table, column, schema))


@Operations.register_operation("park_table")
class ParkTableOp(MigrateOperation):
    """Takes a table out of the schema and keeps it."""

    def __init__(self, table: str, schema: str = "public") -> None:
        self.table = f"{schema}.{table}"

    @classmethod
    def park_table(cls, operations: Operations, table: str, *, schema: str = "public") -> None:
        """Parks a table, in place of `op.drop_table`. Reads no row."""
        operations.invoke(cls(table, schema))


@Operations.register_operation("unpark")
class UnparkOp(MigrateOperation):
    """Brings a parked column or table back."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def unpark(cls, operations: Operations, name: str) -> None:
        """Brings back what is parked as `public.task` or `public.task.note`, with its values.

        Indexes and constraints that hung on a column were taken off when it was parked; the revision that brings it
        back makes those it wants.
        """
        operations.invoke(cls(name))


@Operations.register_operation("way_back")
class WayBackOp(MigrateOperation):
    """Runs the stored way back of a revision."""

    def __init__(self, revision: str) -> None:
        self.revision = revision

    @classmethod
    def way_back(cls, operations: Operations, revision: str) -> None:
        """The whole of a `downgrade()`: runs the plan that was stored when the revision was applied."""
        operations.invoke(cls(revision))


def way_back(revision: str) -> None:
    """`op.way_back(revision)`, for code that is type-checked."""
    alembic_op.invoke(WayBackOp(revision))


def park_column(table: str, column: str, *, schema: str = "public") -> None:
    """`op.park_column(...)`, for code that is type-checked."""
    alembic_op.invoke(ParkColumnOp(table, column, schema))


def park_table(table: str, *, schema: str = "public") -> None:
    """`op.park_table(...)`, for code that is type-checked."""
    alembic_op.invoke(ParkTableOp(table, schema))


def unpark(name: str) -> None:
    """`op.unpark(...)`, for code that is type-checked."""
    alembic_op.invoke(UnparkOp(name))


@Operations.implementation_for(ParkColumnOp)
def _park_column(operations: Operations, operation: ParkColumnOp) -> None:
    _go_to(operations, lambda have: shrink.without_column(have, operation.table, operation.column))


@Operations.implementation_for(ParkTableOp)
def _park_table(operations: Operations, operation: ParkTableOp) -> None:
    _go_to(operations, lambda have: shrink.without_table(have, operation.table))


@Operations.implementation_for(UnparkOp)
def _unpark(operations: Operations, operation: UnparkOp) -> None:
    connection = _shapes(operations.migration_context)
    entries = [entry for entry in ledger.entries(connection) if entry.was == operation.name]
    if not entries:
        raise NothingParkedError(operation.name)
    move = _go_to(operations, lambda have: shrink.with_entry(have, entries[-1]))
    operations.migration_context.opts.setdefault(MOVES, []).append(move)


@Operations.implementation_for(WayBackOp)
def _way_back(operations: Operations, operation: WayBackOp) -> None:
    context = operations.migration_context
    if context.as_sql:
        row = context.opts.get("stored_plans", {}).get(operation.revision)
        if row is None:
            raise NoStoredPlanError(operation.revision)
        stored.verify(row, _key(context), _accepted(context))
        _check_follows(row)
        for statement in (*sqltext.AS_A_CHANGE, *sqltext.in_one_transaction(row.plan())):
            context.impl.static_output(statement + ";")
        return
    connection = _connection(context)
    row = stored.read(connection, operation.revision)
    stored.verify(row, _key(context), _accepted(context))
    _check_follows(row)
    run_between(connection, row.plan(), row.revision, row.shape_after(), row.shape_before(), schemas=_schemas(context))


# -- recording the way back -----------------------------------------------------------------------------------------


def recorded(steps: StepsFunction, *, release: str) -> StepsFunction:
    """Alembic's function of steps (`context.configure(fn=...)`), of which each upgrade stores its way back.

    In the transaction of the upgrade itself: the shape before, `upgrade()`, the shape after, the plan from there back,
    signed, in `lifecycle.plan`. A revision that was taken back comes back by the reverse of its stored plan. The
    revision's module may have `hints` (`kattegat.schema.hints.Hints`) for what shapes can't tell.
    """

    def wrapped(revision: Any, context: MigrationContext) -> Steps:
        found = list(steps(revision, context))
        for step in found:
            if isinstance(step, RevisionStep) and step.is_upgrade:
                step.migration_fn = _recording(step, context, release)
        return found

    return wrapped


def _recording(step: RevisionStep, context: MigrationContext, release: str) -> Callable[..., None]:
    original = step.migration_fn
    script = step.revision

    @wraps(original)
    def upgrade(**kw: Any) -> None:
        connection = _connection(context)
        schemas = _schemas(context)
        follows = linear(script.revision, script.down_revision)
        row = next((row for row in stored.everything(connection) if row.revision == script.revision), None)
        if row is not None and row.back:
            stored.verify(row, _key(context), _accepted(context))
            plan = row.plan().reverse()
            run_between(connection, plan, follows or "", row.shape_before(), row.shape_after(), schemas=schemas)
            return
        context.opts.pop(MOVES, None)
        before = snapshot.read(connection, schemas)
        original(**kw)
        after = snapshot.read(connection, schemas)
        hints = getattr(script.module, "hints", None) or Hints()
        plan = plan_back(connection, script.revision, follows, before, after, hints, moves=context.opts.get(MOVES, ()))
        ledger.reserve(connection, plan.next_id)
        stored.store(
            connection,
            stored.signed(
                _key(context, make=True),
                revision=script.revision,
                follows=follows,
                release=release,
                plan=plan,
                before=before,
                after=after,
            ),
        )

    return upgrade


def plan_back(
    connection: Connection,
    revision: str,
    follows: str | None,
    before: Snapshot,
    after: Snapshot,
    hints: Hints,
    *,
    moves: Sequence[Move] = (),
) -> Plan:
    """The way back of a revision, from the shape after it to the one before, ending with the revision being set.

    `connection` leads to a database of the shape `after`: its ledger says what is parked and which ids are free. The
    first revision has none (nothing is before it): its plan is empty. Raises what `planner.plan` raises.
    """
    first = ledger.next_id(connection)
    if follows is None:
        return Plan(source=after.fingerprint(), target=before.fingerprint(), next_id=first)
    parked: Sequence[Entry] = ledger.entries(connection)
    at = after
    steps: list[Step] = []
    # What was brought back has to lie again where it lay, since the plans of earlier revisions look for it there: so
    # that part of the way is the exact reverse of what was done.
    for move in reversed(moves):
        if at != move.after:
            some = hints_between(hints, at, move.after, data=at is after)
            plan = planner.plan(at, move.after, hints=some, parked=parked, first_id=first)
            steps.extend(plan.steps)
            first = plan.next_id
        steps.extend(move.plan.reverse().steps)
        at, parked = move.before, move.parked
    if at != before or not moves:
        some = hints_between(hints, at, before, data=at is after) if moves else hints
        plan = planner.plan(at, before, hints=some, parked=parked, first_id=first)
        steps.extend(plan.steps)
        first = plan.next_id
    whole = Plan(source=after.fingerprint(), target=before.fingerprint(), steps=tuple(steps), next_id=first)
    return with_revision(whole, revision, follows)


def hints_between(hints: Hints, source: Snapshot, target: Snapshot, *, data: bool) -> Hints:
    """The hints that hold between these two shapes, of which at least one lies in the middle of an `upgrade()`.

    `data` says whether the revision's own SQL runs on this part of the way.
    """
    tables = {old: new for old, new in hints.tables.items() if old in source.tables and new in target.tables}
    columns = {}
    for old, new in hints.columns.items():
        table, _, column = old.rpartition(".")
        here = next((one for one, other in tables.items() if other == table), table)
        if (
            here in source.tables
            and table in target.tables
            and column in source.tables[here].columns
            and new in target.tables[table].columns
        ):
            columns[old] = new
    kept = Hints(tables=tables, columns=columns, fill=hints.fill, place=hints.place, refresh=hints.refresh)
    return replace(kept, before=hints.before, after=hints.after) if data else kept


def with_revision(plan: Plan, revision: str, follows: str) -> Plan:
    """The plan with the step at its end that sets the revision."""
    return Plan(
        source=plan.source,
        target=plan.target,
        steps=(*plan.steps, stored.set_revision(revision, follows)),
        next_id=plan.next_id,
        format=plan.format,
    )


def linear(revision: str, down_revision: Any) -> str | None:
    """The one revision that this one follows. Raises `NotReversibleError` for a merge, which has no one way back."""
    if down_revision is None or isinstance(down_revision, str):
        return down_revision
    if isinstance(down_revision, Collection) and len(down_revision) == 1:
        return str(next(iter(down_revision)))
    raise NotReversibleError(
        f"Revision {revision} follows {' and '.join(map(str, down_revision))}, and a plan leads back to one revision:"
        " put the revisions in one line."
    )


# -- running --------------------------------------------------------------------------------------------------------


def run_between(
    connection: Connection,
    plan: Plan,
    revision: str,
    source: Snapshot,
    target: Snapshot,
    *,
    schemas: Collection[str] = SCHEMAS,
) -> None:
    """Runs a stored plan in the caller's transaction, all but the row of Alembic's table, which Alembic itself writes.

    Raises `SchemaDriftError` when the schema is not `source` before, or not `target` after; the caller rolls back then.
    """
    drift = differences(snapshot.read(connection, schemas), source)
    if drift:
        raise SchemaDriftError(revision, drift)
    sqltext.run(connection, sqltext.in_one_transaction(plan))
    left = differences(snapshot.read(connection, schemas), target)
    if left:
        raise SchemaDriftError(revision, left)


def _go_to(operations: Operations, change: Callable[[Snapshot], Snapshot]) -> Move:
    """Goes to another shape in the middle of an `upgrade()`."""
    context = operations.migration_context
    connection = _shapes(context)
    have, parked = snapshot.read(connection, _schemas(context)), tuple(ledger.entries(connection))
    plan = planner.plan(have, change(have), parked=parked, first_id=ledger.next_id(connection))
    statements = [f"SELECT setval('parked.id', {plan.next_id}, false)", *sqltext.in_one_transaction(plan)]
    if context.as_sql:
        for statement in statements:
            context.impl.static_output(statement + ";")
    else:
        sqltext.run(connection, statements)
    return Move(have, plan, snapshot.read(connection, _schemas(context)), parked)


def _connection(context: MigrationContext) -> Connection:
    if context.as_sql or context.connection is None:
        raise CommandError("This can't be printed with --sql: it depends on what the database holds.")
    return context.connection


def _shapes(context: MigrationContext) -> Connection:
    """Where the shape is read: the database itself, or one like it when SQL is only being printed."""
    if not context.as_sql:
        return _connection(context)
    found = context.opts.get("shape_connection")
    if not isinstance(found, Connection):
        raise CommandError("Parking reads the schema it is to change, so that --sql can't print it without a database.")
    return found


def _schemas(context: MigrationContext) -> tuple[str, ...]:
    return tuple(context.opts.get("schemas") or SCHEMAS)


def _key(context: MigrationContext, *, make: bool = False) -> Any:
    key = context.opts.get("plan_key")
    if callable(key):
        key = key()
    if make and not isinstance(key, PlanKey):
        raise NotReversibleError("No key signs the way back: give context.configure a plan_key.")
    return key


def _accepted(context: MigrationContext) -> frozenset[str]:
    return frozenset(context.opts.get("accept_plans") or ())


def _check_follows(row: Stored) -> None:
    if row.follows is None:
        raise NotReversibleError(
            f"Revision {row.revision} is the first one: before it there is no install, and nothing to go back to;"
            " drop the database to be rid of it."
        )

"""Acting on the queue: turns between organisations, pauses, drained runners, and only the steps that a task may take.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from kattegat.schema.hints import Hints
from kattegat.schema.operations import way_back

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# An older release knows no pause: it runs what was paused.
hints = Hints(place={"public.task.state": {"paused": "queued"}})

# Fixed here for good: what a later release allows comes with a revision of its own.
STATES = "'queued', 'leased', 'paused', 'done', 'failed', 'dead', 'cancelled'"
STEPS = (
    "queued>leased",
    "queued>paused",
    "queued>cancelled",
    "paused>queued",
    "paused>cancelled",
    "leased>queued",
    "leased>done",
    "leased>failed",
    "leased>dead",
    "leased>cancelled",
    "failed>queued",
    "dead>queued",
    "cancelled>queued",
)
TURN = 1 << 40


def upgrade() -> None:
    """Forward."""
    _pauses()
    _turns()
    _states()
    op.add_column("runner", sa.Column("drained_at", sa.DateTime(timezone=True)))
    for name in ("drained_by", "drained_reason"):
        op.add_column("runner", sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False))


def _pauses() -> None:
    op.create_table(
        "pause",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("group_id", sa.BigInteger()),
        sa.Column("organisation_id", sa.BigInteger()),
        sa.Column("scanner", sa.Text()),
        sa.Column("asset_id", sa.BigInteger()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pause")),
        sa.UniqueConstraint(
            "level",
            "group_id",
            "organisation_id",
            "scanner",
            "asset_id",
            name="uq_pause_place",
            postgresql_nulls_not_distinct=True,
        ),
        sa.ForeignKeyConstraint(
            ["group_id"], ["organisation_group.id"], name=op.f("fk_pause_group_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("fk_pause_organisation_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id", "asset_id"],
            ["asset.organisation_id", "asset.id"],
            name=op.f("fk_pause_organisation_id_asset_id"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "level = ANY (ARRAY['install', 'group', 'organisation', 'scanner', 'asset'])", name=op.f("ck_pause_level")
        ),
    )
    op.create_table(
        "pulse",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pulse")),
    )


def _turns() -> None:
    op.add_column("task", sa.Column("turn", sa.BigInteger()))
    # Each organisation's tasks take one turn after another, in the order in which they would have been claimed.
    op.execute(
        f"""
        UPDATE task t SET turn = r.turn
        FROM (
          SELECT id, CASE WHEN priority <= 0 THEN -{TURN} WHEN priority >= 200 THEN {TURN} ELSE 0 END
            + row_number() OVER (
                PARTITION BY organisation_id, kind, priority <= 0, priority >= 200, state = 'queued'
                ORDER BY priority, run_after, id) AS turn
          FROM task
        ) AS r
        WHERE t.id = r.id
        """  # noqa: S608 - a constant
    )
    op.alter_column("task", "turn", nullable=False, server_default=sa.text("0"))
    op.drop_index("ix_task_queue", table_name="task")
    op.create_index(
        "ix_task_queue",
        "task",
        ["kind", "turn", "priority", "run_after", "id"],
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_task_turn", "task", ["organisation_id", "kind", "turn"], postgresql_where=sa.text("state = 'queued'")
    )
    op.create_index(
        "ix_schedule_turn",
        "schedule",
        ["organisation_id", "priority", "every", "due_at"],
        postgresql_where=sa.text("hold = ''"),
    )


def _states() -> None:
    op.drop_constraint(op.f("ck_task_state"), "task", type_="check")
    op.create_check_constraint(op.f("ck_task_state"), "task", f"state = ANY (ARRAY[{STATES}])")
    op.create_check_constraint(
        op.f("ck_task_lease"),
        "task",
        "state <> 'leased' OR (lease_until IS NOT NULL AND lease_token IS NOT NULL)",
    )
    # A paused task is open as well: its source gets no second one.
    op.drop_index("uq_task_open_source", table_name="task")
    op.create_index(
        "uq_task_open_source",
        "task",
        ["organisation_id", "source_id", "kind"],
        unique=True,
        postgresql_where=sa.text("state = ANY (ARRAY['queued', 'leased', 'paused'])"),
    )
    listed = ", ".join(f"'{step}'" for step in STEPS)
    op.execute(
        f"""
        CREATE FUNCTION kat_task_step() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF (OLD.state || '>' || NEW.state) <> ALL (ARRAY[{listed}]) THEN
            RAISE EXCEPTION 'task % is %, and can not become %', OLD.id, OLD.state, NEW.state
              USING ERRCODE = 'check_violation', TABLE = 'task', COLUMN = 'state', CONSTRAINT = 'kat_task_step';
          END IF;
          RETURN NEW;
        END
        $$
        """
    )
    op.execute(
        "CREATE TRIGGER kat_task_step BEFORE UPDATE OF state ON task FOR EACH ROW"
        " WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION kat_task_step()"
    )


def downgrade() -> None:
    """Back, by the plan that was stored when this revision was applied."""
    way_back(revision)

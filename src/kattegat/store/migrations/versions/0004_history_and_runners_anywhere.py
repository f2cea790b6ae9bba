"""Finished tasks in a history of their own, counted by the hour; runners with labels and a scope.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from kattegat.schema.hints import Hints
from kattegat.schema.operations import way_back

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

hints = Hints(
    tables={"public.blocklist": "public.blocked"},
    fill={"public.runner.labels": "jsonb_build_array({vantage})"},
)


def upgrade() -> None:
    """Forward."""
    # First, since what follows is one transaction: without this index the history would be found by reading all tasks.
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_task_ended",
            "task",
            ["ended_at", "id"],
            postgresql_where=sa.text("ended_at IS NOT NULL"),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
    _history()
    # Whoever writes tasks has to know which form of a payload may be written.
    op.execute(
        "DO $$ BEGIN IF to_regclass('lifecycle.fact') IS NOT NULL THEN"
        " GRANT SELECT ON lifecycle.fact TO kat_system; END IF; END $$"
    )
    op.rename_table("blocked", "blocklist")
    for was, became in (("pk_blocked", "pk_blocklist"), ("uq_blocked_what", "uq_blocklist_what")):
        op.execute(f"ALTER TABLE blocklist RENAME CONSTRAINT {was} TO {became}")
    op.execute("ALTER TABLE blocklist RENAME CONSTRAINT fk_blocked_organisation_id TO fk_blocklist_organisation_id")
    op.add_column("runner", sa.Column("labels", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb")))
    # Where it scans from is the first of a runner's labels.
    op.execute("UPDATE runner SET labels = jsonb_build_array(vantage)")
    op.alter_column("runner", "labels", nullable=False)
    op.add_column(
        "runner", sa.Column("scope", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)
    )
    op.add_column("runner", sa.Column("release", sa.Text(), server_default=sa.text("''"), nullable=False))


def _history() -> None:
    op.create_table(
        "task_history",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("organisation_id", sa.BigInteger()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source_id", sa.BigInteger()),
        sa.Column("scanner", sa.Text(), nullable=False),
        sa.Column("vantage", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("lease_token", sa.BigInteger()),
        sa.Column("leased_by", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("max_tries", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("ended_at", "id", name=op.f("pk_task_history")),
        postgresql_partition_by="RANGE (ended_at)",
    )
    op.create_index("ix_task_history_id", "task_history", ["id"])
    op.create_index("ix_task_history_organisation", "task_history", ["organisation_id", "id"])
    op.create_index("ix_task_history_state", "task_history", ["state", "id"])
    op.create_table(
        "task_tally",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("organisation_id", sa.BigInteger(), nullable=False, comment="0 for tasks of no organisation"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scanner", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False, comment="from the claim to the end, of all together"),
        sa.PrimaryKeyConstraint("hour", "organisation_id", "kind", "scanner", "state", name=op.f("pk_task_tally")),
    )


def downgrade() -> None:
    """Back, by the plan that was stored when this revision was applied."""
    way_back(revision)

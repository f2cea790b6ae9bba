"""When and how much: cron and windows, the blocklist, permits for connections; a request says who and by what way.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kattegat.schema.hints import Hints, Refresh
from kattegat.schema.operations import park_column, way_back

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# `piet (command line)` becomes `piet` and `command line`, and is put together again on the way back.
WHOLE = "{request_actor} || CASE {request_way} WHEN '' THEN '' ELSE ' (' || {request_way} || ')' END"
WAY = r"^(.*) \(([^()]*)\)$"
ACTOR_OF = "CASE WHEN {column} ~ '" + WAY + "' THEN substring({column} FROM '" + WAY + "') ELSE {column} END"
WAY_OF = r"coalesce(substring({column} FROM ' \(([^()]*)\)$'), '')"
hints = Hints(
    fill={
        "public.schedule.requested_by": WHOLE,
        "public.schedule.request_actor": ACTOR_OF.replace("{column}", "{requested_by}"),
        "public.schedule.request_way": WAY_OF.replace("{column}", "{requested_by}"),
    },
    refresh={
        "public.schedule.requested_by": Refresh(WHOLE, ("request_actor", "request_way")),
        "public.schedule.request_actor": Refresh(ACTOR_OF.replace("{column}", "{requested_by}"), ("requested_by",)),
        "public.schedule.request_way": Refresh(WAY_OF.replace("{column}", "{requested_by}"), ("requested_by",)),
    },
)


def upgrade() -> None:
    """Forward."""
    _tables()
    for name in ("request_actor", "request_way", "cron", "wait"):
        op.add_column("schedule", sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False))
    op.execute(
        f"""
        UPDATE schedule SET request_actor = {ACTOR_OF.replace("{column}", "requested_by")},
            request_way = {WAY_OF.replace("{column}", "requested_by")}
        WHERE requested_by <> ''
        """  # noqa: S608 - constants
    )
    park_column("schedule", "requested_by")
    # A level is one of five words. A minute of an organisation may hold more leaves than four bytes count.
    op.alter_column("pause", "level", type_=sa.String(12))
    op.alter_column("evidence_root", "leaves", type_=sa.BigInteger())


def _tables() -> None:
    op.create_table(
        "blocked",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("organisation_id", sa.BigInteger()),
        sa.Column("zone", sa.Text(), server_default=sa.text("'internet'"), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blocked")),
        sa.UniqueConstraint(
            "organisation_id", "zone", "what", name="uq_blocked_what", postgresql_nulls_not_distinct=True
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("fk_blocked_organisation_id"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "permit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("runner", sa.Text(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_permit")),
    )
    op.create_index("ix_permit_until", "permit", ["until"])
    op.create_table(
        "permit_place",
        sa.Column("permit_id", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Text(collation="C"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("permit_id", "place", name=op.f("pk_permit_place")),
        sa.ForeignKeyConstraint(
            ["permit_id"], ["permit.id"], name=op.f("fk_permit_place_permit_id"), ondelete="CASCADE"
        ),
    )
    op.create_index("ix_permit_place_place", "permit_place", ["place", "until"])
    op.create_table(
        "pace",
        sa.Column("place", sa.Text(collation="C"), nullable=False),
        sa.Column("free_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_pace")),
    )


def downgrade() -> None:
    """Back, by the plan that was stored when this revision was applied."""
    way_back(revision)

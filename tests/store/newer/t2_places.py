"""Places of assets, with a label that every asset has.

Revision ID: t2
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kattegat.schema.hints import Hints
from kattegat.schema.operations import park_column, way_back
from kattegat.store import migrate

revision = "t2"
# A release after the one under test, whichever that is.
down_revision = migrate.head()
branch_labels = None
depends_on = None

hints = Hints(fill={"public.asset.label": "'made by the older release: 100%'"})


def upgrade() -> None:
    """A column with a backfill, a table, a column taken away, an index built concurrently."""
    op.create_table(
        "place",
        sa.Column("organisation_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("'room'"), nullable=False),
        sa.CheckConstraint("kind = ANY (ARRAY['room', 'rack'])", name=op.f("ck_place_kind")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("fk_place_organisation_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("organisation_id", "id", name=op.f("pk_place")),
    )
    op.add_column("asset", sa.Column("label", sa.Text(), nullable=True))
    op.execute("UPDATE asset SET label = key || ' 100%'")
    op.alter_column("asset", "label", nullable=False)
    park_column("organisation_group", "position")
    with op.get_context().autocommit_block():
        op.create_index("ix_asset_label", "asset", ["organisation_id", "label"], postgresql_concurrently=True)
    op.execute("COMMENT ON TABLE place IS 'what; and %'")


def downgrade() -> None:
    """Back."""
    way_back(revision)

"""Own networks are called networks.

Revision ID: t3
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kattegat.schema.hints import Hints
from kattegat.schema.operations import way_back

revision = "t3"
down_revision = "t2"
branch_labels = None
depends_on = None

hints = Hints(
    tables={"public.network": "public.own_network"},
    columns={"public.own_network.place": "zone"},
    place={"public.scan.outcome": {"paused": "open"}},
)


def upgrade() -> None:
    """A table and a column renamed, a value more that is allowed, a wider type."""
    op.rename_table("own_network", "network")
    op.alter_column("network", "zone", new_column_name="place")
    op.drop_constraint(op.f("ck_scan_outcome"), "scan")
    op.create_check_constraint(
        op.f("ck_scan_outcome"), "scan", "outcome = ANY (ARRAY['open', 'complete', 'incomplete', 'stopped', 'paused'])"
    )
    op.alter_column("fact", "form", type_=sa.Integer())


def downgrade() -> None:
    """Back."""
    way_back(revision)

"""${message}.

Revision ID: ${up_revision}

`upgrade()` is plain Alembic, or SQL; what it takes away it parks (`park_column`, `park_table`), and what only rows can
tell stands in `hints`. The way back is planned from the shapes before and after, and stored with the revision: see
docs/reference/reversible-operations.md.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kattegat.schema.hints import Hints
from kattegat.schema.operations import way_back

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None

# For the way back: renames (`tables`, `columns`), SQL for values that are missing (`fill`), what to put in the place of
# a value that the older schema can't hold (`place`), SQL of your own (`before`, `after`).
hints = Hints()


def upgrade() -> None:
    """Forward."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Back, by the plan that was stored when this revision was applied."""
    way_back(revision)

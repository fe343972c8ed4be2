"""A source may have many frames.

What version 0002 of the code writes stays valid, so both may run side by side.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("source_frames", sa.Integer(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("job", "source_frames")

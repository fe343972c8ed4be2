"""A source may have many frames, and further files may come beside it.

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
    op.create_table(
        "part",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.TEXT(), nullable=False),
        sa.Column("blob_key", sa.TEXT(collation="C"), nullable=False),
        sa.Column("media_type", sa.TEXT(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.TEXT(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.create_index("part_blob", "part", ["blob_key"])


def downgrade() -> None:
    op.drop_table("part")
    op.drop_column("job", "source_frames")

"""A source may have many frames, and further files may come beside it.

What version 0002 of the code writes stays valid, so both may run side by side, with these exceptions.

- Lossless WebP with a quality is no valid step any more. Stored steps lose the quality here; all that it decided was
  how hard the encoder tries. What version 0002 writes after this upgrade fails as an invalid plan. A request that was
  accepted with it and is sent again by its Idempotency-Key is refused and not replayed: what tells that it is the
  same request is a digest of its plan, and it has none.
- Version 0002 knows nothing of parts: it deletes their files as orphans once they are older than `orphan_age`. Do not
  let its sweeper run beside this version, or after going back to it, for longer than that, while a job with parts is
  waiting or may be redriven.
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
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.TEXT(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.create_index("part_blob", "part", ["blob_key"])
    op.execute("""UPDATE step SET params = params - 'quality' WHERE op = 'webp' AND params @> '{"lossless": true}'""")


def downgrade() -> None:
    op.drop_table("part")
    op.drop_column("job", "source_frames")

"""A source may have many frames, and a request may have parts beside the source.

Records that version 0002 of the code writes stay valid, so both versions may run at the same time, with two exceptions.

- Lossless WebP with a quality is no longer a valid step. The upgrade removes the quality from stored steps. The
  quality decided only the effort of the encoder. If version 0002 stores a lossless step with a quality after the
  upgrade, the step fails with `invalid_plan`. If a client repeats the request of this step with its Idempotency-Key,
  the request is refused and not replayed. The fingerprint is a digest of the plan, and the request has no valid plan.
- Version 0002 does not know parts. It deletes the blobs of parts as orphans when they are older than `orphan_age`.
  While a job with parts is waiting or may be redriven, the sweeper of version 0002 must not run longer than
  `orphan_age`. This applies beside this version and after a downgrade.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add frames and parts, and remove the quality of lossless WebP steps."""
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
    """Drop frames and parts."""
    op.drop_table("part")
    op.drop_column("job", "source_frames")

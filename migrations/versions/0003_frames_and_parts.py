"""A source may have many frames, and a request may have parts in addition to the source.

Records that the code of version 0002 writes are still valid, with one exception. The code of both versions may run at
the same time, with one restriction.

- Exception: a `webp` step that is lossless must not have a quality any more. In version 0002, this quality decided only
  the effort of the encoder. The upgrade removes it from stored steps. If version 0002 stores such a step after the
  upgrade, the step fails with `invalid_plan`. If a client repeats the request with its Idempotency-Key, the request is
  refused. The stored response is not returned, because requests are compared by their plans, and this plan is
  not valid.
- Restriction: version 0002 does not know parts. Its sweeper deletes the blobs of parts as orphans when they are older
  than `orphan_age`. So this sweeper must not run longer than `orphan_age` while a job with parts has not ended or may
  be redriven. The same applies after a downgrade.
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

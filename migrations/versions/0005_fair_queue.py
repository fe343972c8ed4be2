"""A job has the pixels of its work, and the index of the queue begins with the owner.

The code of version 0004 runs on this schema too: the pixels of the jobs that it stores are 0. Its claims sort the whole
queue, because the index that they used is gone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    """Add the pixels, and replace the index of the queue."""
    op.add_column("job", sa.Column("pixels", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("job_queue_by_owner", "job", ["owner", "available_at"], postgresql_where=_QUEUED)
    op.drop_index("job_queue", "job")


def downgrade() -> None:
    """Drop the pixels, and restore the index."""
    op.create_index("job_queue", "job", ["available_at"], postgresql_where=_QUEUED)
    op.drop_index("job_queue_by_owner", "job")
    op.drop_column("job", "pixels")

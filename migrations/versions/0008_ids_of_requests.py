"""The id and the trace of the request that submitted a job.

The code of version 0007 runs on this schema too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns that may be NULL. The size of the table does not matter."""
    op.add_column("job", sa.Column("request_id", sa.TEXT()))
    op.add_column("job", sa.Column("traceparent", sa.TEXT()))


def downgrade() -> None:
    """Remove them."""
    op.drop_column("job", "traceparent")
    op.drop_column("job", "request_id")

"""Indexes for deliveries: the queue by destination, open deliveries of an endpoint, states, retention, dead letters.

The code of version 0006 runs on this schema too. Its claims sort the whole queue, because the index that they used is
gone.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    """Replace the indexes of the queue and of the retention, and add two."""
    op.drop_index("delivery_queue", "delivery")
    op.create_index("delivery_queue", "delivery", ["destination", "next_at"], postgresql_where=_WAITING)
    op.create_index(
        "delivery_open", "delivery", ["endpoint_id", "state"],
        postgresql_where=sa.text("state IN ('waiting', 'sending', 'held')"),
    )  # fmt: skip
    op.create_index(
        "delivery_states", "delivery", ["owner", "state", sa.text("id DESC")],
        postgresql_where=sa.text("state <> 'delivered'"),
    )  # fmt: skip
    op.drop_index("delivery_expiry", "delivery")
    op.create_index("delivery_expiry", "delivery", ["finished_at"], postgresql_where=sa.text("finished_at IS NOT NULL"))
    op.create_index(
        "dead_letter_of_delivery", "dead_letter", ["delivery_id"], postgresql_where=sa.text("delivery_id IS NOT NULL")
    )


def downgrade() -> None:
    """Restore the indexes of version 0006."""
    op.drop_index("dead_letter_of_delivery", "dead_letter")
    for name in ("delivery_expiry", "delivery_states", "delivery_open", "delivery_queue"):
        op.drop_index(name, "delivery")
    op.create_index("delivery_expiry", "delivery", ["created_at"])
    op.create_index("delivery_queue", "delivery", ["next_at"], postgresql_where=_WAITING)

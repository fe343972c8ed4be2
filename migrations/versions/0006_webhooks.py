"""Webhooks: receivers, their secrets, deliveries with their attempts, and dead letters of deliveries.

The code of version 0005 runs on this schema too. It writes no deliveries, and it does not show dead letters of
deliveries.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_OPEN = "state IN ('waiting', 'redriving')"


def upgrade() -> None:
    """Add the tables of webhooks, the receiver of a job, and the delivery of a dead letter."""
    op.add_column("job", sa.Column("webhook_url", sa.TEXT(), nullable=True))
    op.add_column("job", sa.Column("is_process", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "webhook_secret",
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("url", sa.TEXT(), nullable=False),
        sa.Column("description", sa.TEXT(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.TEXT()), nullable=False),
        sa.Column("include_urls", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.TEXT(), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhook_endpoint_owner", "webhook_endpoint", ["owner", sa.text("id DESC")])
    _create_deliveries()
    op.alter_column("dead_letter", "step", nullable=True)
    op.add_column(
        "dead_letter",
        sa.Column("delivery_id", sa.Uuid(), sa.ForeignKey("delivery.id", ondelete="CASCADE"), nullable=True),
    )
    op.create_check_constraint("step_or_delivery", "dead_letter", "(step IS NULL) <> (delivery_id IS NULL)")
    op.create_index(
        "dead_letter_delivery", "dead_letter", ["delivery_id"], unique=True, postgresql_where=sa.text(_OPEN)
    )


def _create_deliveries() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("event", sa.TEXT(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("endpoint_id", sa.Uuid(), nullable=True),
        sa.Column("url", sa.TEXT(), nullable=False),
        sa.Column("destination", sa.TEXT(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("state", sa.TEXT(), server_default="waiting", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("courier", sa.TEXT(), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'sending', 'delivered', 'failed', 'held', 'discarded')", name="known_state"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoint.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("delivery_queue", "delivery", ["next_at"], postgresql_where=sa.text("state = 'waiting'"))
    op.create_index("delivery_leases", "delivery", ["lease_until"], postgresql_where=sa.text("state = 'sending'"))
    op.create_index("delivery_history", "delivery", ["owner", sa.text("id DESC")])
    op.create_index("delivery_job", "delivery", ["job_id"])
    op.create_index("delivery_endpoint", "delivery", ["endpoint_id", sa.text("id DESC")])
    op.create_index("delivery_expiry", "delivery", ["created_at"])
    op.create_table(
        "delivery_attempt",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("ms", sa.Integer(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.TEXT(), nullable=True),
        sa.Column("answer", sa.TEXT(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("delivery_id", "number"),
    )


def downgrade() -> None:
    """Drop everything about webhooks, including the dead letters of deliveries."""
    op.execute("DELETE FROM dead_letter WHERE step IS NULL")
    op.drop_index("dead_letter_delivery", table_name="dead_letter")
    op.drop_constraint("step_or_delivery", "dead_letter")
    op.drop_column("dead_letter", "delivery_id")
    op.alter_column("dead_letter", "step", nullable=False)
    for table in ("delivery_attempt", "delivery", "webhook_endpoint", "webhook_secret"):
        op.drop_table(table)
    op.drop_column("job", "is_process")
    op.drop_column("job", "webhook_url")

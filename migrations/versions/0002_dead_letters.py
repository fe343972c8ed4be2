"""Dead letters have states, steps have a history, and records can be found by blob keys.

Records that the code of version 0001 writes are still valid, so the code of both versions may run at the same time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPEN = "state IN ('waiting', 'redriving')"
_NOW = sa.text("now()")


def upgrade() -> None:
    """Add states of dead letters, histories of steps, numbers of outcome batches, and indexes on keys and times."""
    op.add_column("job", sa.Column("written", sa.Integer(), server_default="0", nullable=False))
    op.create_index("job_expiry", "job", ["expires_at"])
    op.alter_column("job", "source_key", type_=sa.TEXT(collation="C"))
    op.create_index("job_source", "job", ["source_key"])

    op.add_column("artifact", sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True))
    op.alter_column("artifact", "blob_key", type_=sa.TEXT(collation="C"))
    op.create_index("artifact_blob", "artifact", ["blob_key"])

    op.add_column("dead_letter", sa.Column("state", sa.TEXT(), server_default="waiting", nullable=False))
    op.add_column("dead_letter", sa.Column("moved_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False))
    op.add_column("dead_letter", sa.Column("noted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        "known_state", "dead_letter", "state IN ('waiting', 'redriving', 'redriven', 'discarded')",
    )  # fmt: skip
    op.drop_constraint("dead_letter_once", "dead_letter")  # because a step can fail permanently twice in one attempt
    op.create_index("dead_letter_open", "dead_letter", ["job_id", "step"], unique=True, postgresql_where=sa.text(_OPEN))
    op.create_index(
        "dead_letter_redriving", "dead_letter", ["moved_at"], postgresql_where=sa.text("state = 'redriving'")
    )
    op.create_index("dead_letter_new", "dead_letter", ["id"], postgresql_where=sa.text("noted_at IS NULL"))
    op.create_index("dead_letter_expiry", "dead_letter", ["created_at"])

    op.create_index("dead_letter_job", "dead_letter", ["job_id"])
    op.create_index("idempotency_job", "idempotency", ["job_id"])

    op.create_table(
        "installation",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO installation DEFAULT VALUES")
    op.execute(
        "UPDATE job SET expires_at = coalesce(finished_at, created_at) + interval '7 days' WHERE expires_at IS NULL"
    )

    op.create_table(
        "step_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.TEXT(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("what", sa.TEXT(), nullable=False),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "what IN ('failed', 'crashed', 'lost', 'buried', 'redriven', 'discarded')", name="known_what"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("step_history", "step_event", ["job_id", "step", "id"])


def downgrade() -> None:
    """Drop what `upgrade` added. If a step has several dead letters in one attempt, only the last one stays."""
    op.drop_table("step_event")
    op.drop_table("installation")
    op.drop_index("idempotency_job", table_name="idempotency")
    for index in (
        "dead_letter_job",
        "dead_letter_expiry",
        "dead_letter_new",
        "dead_letter_redriving",
        "dead_letter_open",
    ):
        op.drop_index(index, table_name="dead_letter")
    op.execute(
        "DELETE FROM dead_letter WHERE id NOT IN (SELECT DISTINCT ON (job_id, step, attempt) id FROM dead_letter"
        " ORDER BY job_id, step, attempt, id DESC)"
    )
    op.create_unique_constraint("dead_letter_once", "dead_letter", ["job_id", "step", "attempt"])
    op.drop_constraint("known_state", "dead_letter")
    for column in ("noted_at", "moved_at", "state"):
        op.drop_column("dead_letter", column)
    op.drop_index("artifact_blob", table_name="artifact")
    op.alter_column("artifact", "blob_key", type_=sa.TEXT())
    op.drop_column("artifact", "lost_at")
    op.drop_index("job_source", table_name="job")
    op.alter_column("job", "source_key", type_=sa.TEXT())
    op.drop_index("job_expiry", table_name="job")
    op.drop_column("job", "written")

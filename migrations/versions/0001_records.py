"""The first tables: jobs, steps, artifacts, dead letters and stored responses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # This function is long because it is a plain list of DDL statements. The list must never change.
    """Create all tables."""
    op.create_table(
        "artifact",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("step_key", sa.TEXT(), nullable=False),
        sa.Column("blob_key", sa.TEXT(), nullable=False),
        sa.Column("media_type", sa.TEXT(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.TEXT(), nullable=False),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner", "step_key", name="artifact_step_key"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("batch", sa.Uuid(), nullable=True),
        sa.Column("state", sa.TEXT(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("dispatcher", sa.TEXT(), nullable=True),
        sa.Column("available_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source_key", sa.TEXT(), nullable=False),
        sa.Column("source_name", sa.TEXT(), nullable=False),
        sa.Column("source_media_type", sa.TEXT(), nullable=False),
        sa.Column("source_width", sa.Integer(), nullable=False),
        sa.Column("source_height", sa.Integer(), nullable=False),
        sa.Column("source_bytes", sa.Integer(), nullable=False),
        sa.Column("source_sha256", sa.TEXT(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled', 'expired')",
            name="known_state",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("job_batch", "job", ["batch"], unique=False, postgresql_where=sa.text("batch IS NOT NULL"))
    op.create_index("job_history", "job", ["owner", sa.literal_column("id DESC")], unique=False)
    op.create_index("job_leases", "job", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'running'"))
    op.create_index("job_queue", "job", ["available_at"], unique=False, postgresql_where=sa.text("state = 'queued'"))
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.TEXT(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "step", "attempt", name="dead_letter_once"),
    )
    op.create_index("dead_letter_history", "dead_letter", ["owner", sa.literal_column("id DESC")], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.TEXT(), nullable=False),
        sa.Column("route", sa.TEXT(), nullable=False),
        sa.Column("key", sa.TEXT(), nullable=False),
        sa.Column("fingerprint", sa.TEXT(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner", "route", "key"),
    )
    op.create_index("idempotency_expiry", "idempotency", ["expires_at"], unique=False)
    op.create_table(
        "step",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.TEXT(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("op", sa.TEXT(), nullable=False),
        sa.Column("inputs", postgresql.ARRAY(sa.TEXT()), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("key", sa.TEXT(), nullable=False),
        sa.Column("state", sa.TEXT(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("error", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("artifact_id", sa.Uuid(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_ms", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'cached', 'failed', 'skipped', 'cancelled')",
            name="known_state",
        ),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["artifact.id"],
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.create_index(
        "step_artifact",
        "step",
        ["artifact_id"],
        unique=False,
        postgresql_where=sa.text("artifact_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop all tables."""
    op.drop_index("step_artifact", table_name="step", postgresql_where=sa.text("artifact_id IS NOT NULL"))
    op.drop_table("step")
    op.drop_index("idempotency_expiry", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index("dead_letter_history", table_name="dead_letter")
    op.drop_table("dead_letter")
    op.drop_index("job_queue", table_name="job", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index("job_leases", table_name="job", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("job_history", table_name="job")
    op.drop_index("job_batch", table_name="job", postgresql_where=sa.text("batch IS NOT NULL"))
    op.drop_table("job")
    op.drop_table("artifact")

"""Every AVIF is written with the encoder `aom`. Stored steps no longer contain an encoder.

If an older version stores a step with another encoder after the upgrade, the step fails with `invalid_plan`. If a
client repeats the request of this step with its Idempotency-Key, the request is refused, because its steps are not
valid any more. The stored response is not returned.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Remove the parameter `encoder` from stored AVIF steps."""
    op.execute("UPDATE step SET params = params - 'encoder' WHERE op = 'avif' AND params ? 'encoder'")


def downgrade() -> None:
    """Change nothing, because the default of older versions is also `aom`."""

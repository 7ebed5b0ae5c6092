"""The registry of workers, and what operators look for among jobs"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.schema_changes import create_index

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("queues", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("device", sa.String(200)),
        sa.Column("gpu_memory_bytes", sa.BigInteger()),
        sa.Column("gpu_memory_free_bytes", sa.BigInteger()),
        sa.Column("order", sa.String(12)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        if_not_exists=True,
    )
    create_index("ix_jobs_newest", "jobs", [sa.text("created_at DESC"), sa.text("id DESC")])
    create_index("ix_jobs_ended", "jobs", ["ended_at"], where=sa.text("ended_at IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_jobs_ended", "jobs")
    op.drop_index("ix_jobs_newest", "jobs")
    op.drop_table("workers")

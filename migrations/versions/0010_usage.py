"""Usage by day, and quotas of an account's own"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.schema_changes import commit, outside_a_transaction

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "accounts",
        sa.Column(
            "limits",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        if_not_exists=True,
    )
    commit()
    op.create_table(
        "usage_days",
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["accounts.id"],
            name=op.f("fk_usage_days_account_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("account_id", "day", "kind", name=op.f("pk_usage_days")),
        if_not_exists=True,
    )
    with outside_a_transaction():
        op.execute("""
            INSERT INTO usage_days (account_id, day, kind, jobs, gpu_seconds, images)
            SELECT account_id, (ended_at AT TIME ZONE 'UTC')::date, kind, count(*),
                sum(gpu_seconds),
                sum(CASE WHEN kind = 'generation' AND status = 'succeeded' THEN batch_size
                    ELSE 0 END)
            FROM jobs WHERE ended_at IS NOT NULL GROUP BY 1, 2, 3
            ON CONFLICT DO NOTHING
        """)


def downgrade() -> None:
    op.drop_table("usage_days")
    op.drop_column("accounts", "limits")

"""Keys that expire and rotate, roles, suspended accounts, the audit log"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.schema_changes import create_unique_constraint, outside_a_transaction

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "accounts",
        sa.Column("role", sa.String(20), server_default=sa.text("'customer'"), nullable=False),
        if_not_exists=True,
    )
    for column in (
        sa.Column("suspended_at", sa.DateTime(timezone=True)),
        sa.Column("suspended_reason", sa.String(500)),
    ):
        op.add_column("accounts", column, if_not_exists=True)
    with outside_a_transaction():
        op.execute("""
            UPDATE accounts SET role = 'admin' WHERE id IN (
                SELECT account_id FROM api_keys WHERE scopes ? 'admin' AND revoked_at IS NULL
            )
        """)
    for column in (
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("previous_sha256", sa.String(64)),
        sa.Column("previous_until", sa.DateTime(timezone=True)),
    ):
        op.add_column("api_keys", column, if_not_exists=True)
    create_unique_constraint("uq_api_keys_previous_sha256", "api_keys", ["previous_sha256"])
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("account_id", sa.String(40)),
        sa.Column("actor", sa.String(20), nullable=False),
        sa.Column("actor_account_id", sa.String(40)),
        sa.Column("actor_key_id", sa.String(40)),
        sa.Column("request_id", sa.String(100)),
        sa.Column("action", sa.String(60), nullable=False),
        sa.Column("object_id", sa.String(80)),
        sa.Column("changes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index("ix_audit_entries_created", "audit_entries", ["created_at"])
    for column in ("account", "action", "object"):
        name = column if column == "action" else f"{column}_id"
        op.create_index(f"ix_audit_entries_{column}", "audit_entries", [name, sa.text("id DESC")])


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.drop_constraint(op.f("uq_api_keys_previous_sha256"), "api_keys")
    for column in ("previous_until", "previous_sha256", "expires_at"):
        op.drop_column("api_keys", column)
    for column in ("suspended_reason", "suspended_at", "role"):
        op.drop_column("accounts", column)

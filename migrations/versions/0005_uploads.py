"""Archives that come straight to storage; datasets that are deleted"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.schema_changes import (
    commit,
    create_index,
    outside_a_transaction,
    replace_foreign_key,
    set_not_null,
    validate,
)

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("dataset_id", sa.String(40), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(300), nullable=False),
        sa.Column("store_upload_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("object_gone", sa.Boolean(), nullable=False),
        sa.Column("report", JSON, nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_uploads_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_uploads_dataset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        if_not_exists=True,
    )
    for name, columns in (
        ("ix_uploads_account", ["account_id", sa.text("id DESC")]),
        ("ix_uploads_dataset_id", ["dataset_id"]),
        ("ix_uploads_object_key", ["object_key"]),
    ):
        op.create_index(name, "uploads", columns, if_not_exists=True)
    op.create_index(
        "ix_uploads_unsettled",
        "uploads",
        ["expires_at"],
        postgresql_where=sa.text("NOT object_gone"),
        if_not_exists=True,
    )
    commit()
    op.add_column(
        "ingests", sa.Column("upload_id", sa.String(40), nullable=True), if_not_exists=True
    )
    replace_foreign_key(
        "fk_ingests_upload_id", "ingests", "uploads", "upload_id", ondelete="CASCADE"
    )
    validate("fk_ingests_upload_id", "ingests")
    create_index("ix_ingests_upload_id", "ingests", ["upload_id"])
    # A captioning that has ended outlives its dataset.
    op.alter_column("captionings", "dataset_id", nullable=True)
    _captionings_when_a_dataset_goes("SET NULL")


def downgrade() -> None:
    with outside_a_transaction():
        op.execute("DELETE FROM captionings WHERE dataset_id IS NULL")
    _captionings_when_a_dataset_goes("CASCADE")
    set_not_null("captionings", "dataset_id")
    op.drop_index(op.f("ix_ingests_upload_id"), "ingests")
    op.drop_constraint(op.f("fk_ingests_upload_id"), "ingests")
    op.drop_column("ingests", "upload_id")
    op.drop_table("uploads")


def _captionings_when_a_dataset_goes(then: str) -> None:
    name = "fk_captionings_dataset_id"
    replace_foreign_key(name, "captionings", "datasets", "dataset_id", ondelete=then)
    validate(name, "captionings")

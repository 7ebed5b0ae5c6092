"""LoRAs from elsewhere, tools that make LoRAs, pictures to start from, comparisons, batches"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.schema_changes import commit, create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.add_column("jobs", sa.Column("batch_key", sa.String(64), nullable=True), if_not_exists=True)
    op.add_column(
        "jobs",
        sa.Column("batch_size", sa.SmallInteger(), nullable=False, server_default="1"),
        if_not_exists=True,
    )
    op.alter_column("jobs", "batch_size", server_default=None)
    create_index(
        "ix_jobs_batch",
        "jobs",
        ["queue", "batch_key"],
        where=sa.text("status = 'queued' AND batch_key IS NOT NULL"),
    )
    # Every LoRA so far came from a training here, whose files are kohya's.
    op.add_column(
        "loras",
        sa.Column("layout", sa.String(10), nullable=False, server_default="kohya"),
        if_not_exists=True,
    )
    op.alter_column("loras", "layout", server_default=None)
    op.add_column(
        "loras",
        sa.Column("report", JSON, nullable=False, server_default="{}"),
        if_not_exists=True,
    )
    op.alter_column("loras", "report", server_default=None)
    commit()
    op.create_table(
        "lora_files",
        sa.Column("lora_id", sa.String(40), nullable=False),
        sa.Column("layout", sa.String(10), nullable=False),
        sa.Column("object_key", sa.String(300), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        _created_at(),
        sa.ForeignKeyConstraint(
            ["lora_id"], ["loras.id"], name=op.f("fk_lora_files_lora_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("lora_id", "layout", name=op.f("pk_lora_files")),
        if_not_exists=True,
    )
    op.create_table(
        "input_images",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("object_key", sa.String(300), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        _created_at(),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_input_images_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_input_images")),
        if_not_exists=True,
    )
    op.create_index(
        "ix_input_images_account",
        "input_images",
        ["account_id", sa.text("id DESC")],
        if_not_exists=True,
    )
    commit()
    # A new table that points to jobs keeps writers away from them until the transaction ends.
    op.create_table(
        "lora_tools",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("operation", sa.String(10), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("report", JSON, nullable=True),
        sa.Column("lora_id", sa.String(40), nullable=True),
        sa.ForeignKeyConstraint(
            ["id"], ["jobs.id"], name=op.f("fk_lora_tools_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["lora_id"], ["loras.id"], name=op.f("fk_lora_tools_lora_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lora_tools")),
        if_not_exists=True,
    )
    op.create_index(op.f("ix_lora_tools_lora_id"), "lora_tools", ["lora_id"], if_not_exists=True)
    commit()
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("base_model", sa.String(64), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("axes", JSON, nullable=False),
        sa.Column("cells", JSON, nullable=False),
        sa.Column("images", JSON, nullable=False),
        sa.Column("sheet_key", sa.String(300), nullable=True),
        sa.ForeignKeyConstraint(
            ["id"], ["jobs.id"], name=op.f("fk_comparisons_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("comparisons")
    op.drop_table("input_images")
    op.drop_table("lora_tools")
    op.drop_table("lora_files")
    op.drop_column("loras", "report")
    op.drop_column("loras", "layout")
    op.drop_index("ix_jobs_batch", "jobs")
    op.drop_column("jobs", "batch_size")
    op.drop_column("jobs", "batch_key")


def _created_at() -> sa.Column:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )

"""Lines of waiting jobs, what workers have at hand, and objects to be removed"""

import sqlalchemy as sa
from alembic import op

from app.schema_changes import (
    commit,
    create_index,
    create_successor,
    outside_a_transaction,
    succeed,
)

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")


BATCHED = sa.text("status = 'queued' AND batch_key IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "job_lines",
        sa.Column("queue", sa.String(20), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("priority", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["accounts.id"],
            name=op.f("fk_job_lines_account_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("queue", "account_id", "priority", name=op.f("pk_job_lines")),
        postgresql_with={"fillfactor": "50"},
        if_not_exists=True,
    )
    op.create_table(
        "doomed_objects",
        sa.Column("object_key", sa.String(300), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column(
            "look_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_doomed_objects")),
        if_not_exists=True,
    )
    op.create_index("ix_doomed_objects_due", "doomed_objects", ["look_at"], if_not_exists=True)
    commit()
    op.add_column("jobs", sa.Column("base_model", sa.String(64), nullable=True), if_not_exists=True)
    op.add_column("jobs", sa.Column("recipe", sa.String(64), nullable=True), if_not_exists=True)
    op.add_column(
        "jobs",
        sa.Column("passed_over", sa.SmallInteger(), nullable=False, server_default="0"),
        if_not_exists=True,
    )
    op.alter_column("jobs", "passed_over", server_default=None)
    with outside_a_transaction():
        op.execute("""
            INSERT INTO job_lines (queue, account_id, priority, waiting, opened_at)
            SELECT queue, account_id, priority, true, min(created_at) FROM jobs
            WHERE status IN ('queued', 'running') GROUP BY 1, 2, 3
            ON CONFLICT DO NOTHING
        """)
    create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline_at"],
        where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
    )
    create_index("ix_trainings_state", "trainings", ["id"], where=sa.text("state IS NOT NULL"))
    # By which the sweeper finds whether an object is still shown.
    for table, column in SHOWN:
        create_index(f"ix_{table}_{column}", table, [column])
    create_successor(
        "ix_jobs_waiting",
        "jobs",
        ["queue", "account_id", "priority", "created_at", "id"],
        where=QUEUED,
    )
    create_successor(
        "ix_jobs_account", "jobs", ["account_id", sa.text("created_at DESC"), sa.text("id DESC")]
    )
    create_successor("ix_jobs_batch", "jobs", ["queue", "batch_key", "created_at"], where=BATCHED)
    succeed("jobs", *REPLACED)


def downgrade() -> None:
    create_successor(
        "ix_jobs_waiting",
        "jobs",
        ["queue", sa.text("priority DESC"), "created_at", "id"],
        where=QUEUED,
    )
    create_successor("ix_jobs_account", "jobs", ["account_id", sa.text("id DESC")])
    create_successor("ix_jobs_batch", "jobs", ["queue", "batch_key"], where=BATCHED)
    succeed("jobs", *REPLACED)
    for table, column in SHOWN:
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
    op.drop_index("ix_trainings_state", "trainings")
    op.drop_table("doomed_objects")
    op.drop_index("ix_jobs_deadline", "jobs")
    for column in ("passed_over", "recipe", "base_model"):
        op.drop_column("jobs", column)
    op.drop_table("job_lines")


REPLACED = ("ix_jobs_waiting", "ix_jobs_account", "ix_jobs_batch")
SHOWN = (
    ("images", "object_key"),
    ("images", "thumbnail_key"),
    ("input_images", "object_key"),
    ("loras", "object_key"),
    ("lora_files", "object_key"),
)

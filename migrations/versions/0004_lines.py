"""Lines of waiting jobs, what workers have at hand, and objects to be removed"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")


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
    )
    op.execute("""
        INSERT INTO job_lines (queue, account_id, priority, waiting, opened_at)
        SELECT queue, account_id, priority, true, min(created_at) FROM jobs
        WHERE status IN ('queued', 'running') GROUP BY 1, 2, 3
    """)
    op.add_column("jobs", sa.Column("base_model", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("recipe", sa.String(64), nullable=True))
    op.add_column(
        "jobs", sa.Column("passed_over", sa.SmallInteger(), nullable=False, server_default="0")
    )
    op.alter_column("jobs", "passed_over", server_default=None)
    op.drop_index("ix_jobs_waiting", "jobs")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["queue", "account_id", "priority", "created_at", "id"],
        postgresql_where=QUEUED,
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline_at"],
        postgresql_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
    )
    op.drop_index("ix_jobs_account", "jobs")
    op.create_index(
        "ix_jobs_account",
        "jobs",
        ["account_id", sa.text("created_at DESC"), sa.text("id DESC")],
    )
    op.drop_index("ix_jobs_batch", "jobs")
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["queue", "batch_key", "created_at"],
        postgresql_where=sa.text("status = 'queued' AND batch_key IS NOT NULL"),
    )
    op.create_table(
        "doomed_objects",
        sa.Column("object_key", sa.String(300), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column(
            "look_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_doomed_objects")),
    )
    op.create_index("ix_doomed_objects_due", "doomed_objects", ["look_at"])
    op.create_index(
        "ix_trainings_state",
        "trainings",
        ["id"],
        postgresql_where=sa.text("state IS NOT NULL"),
    )
    # By which the sweeper finds whether an object is still shown.
    for table, column in SHOWN:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


def downgrade() -> None:
    for table, column in SHOWN:
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
    op.drop_index("ix_trainings_state", "trainings")
    op.drop_table("doomed_objects")
    op.drop_index("ix_jobs_batch", "jobs")
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["queue", "batch_key"],
        postgresql_where=sa.text("status = 'queued' AND batch_key IS NOT NULL"),
    )
    op.drop_index("ix_jobs_account", "jobs")
    op.create_index("ix_jobs_account", "jobs", ["account_id", sa.text("id DESC")])
    op.drop_index("ix_jobs_deadline", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["queue", sa.text("priority DESC"), "created_at", "id"],
        postgresql_where=QUEUED,
    )
    for column in ("passed_over", "recipe", "base_model"):
        op.drop_column("jobs", column)
    op.drop_table("job_lines")


SHOWN = (
    ("images", "object_key"),
    ("images", "thumbnail_key"),
    ("input_images", "object_key"),
    ("loras", "object_key"),
    ("lora_files", "object_key"),
)

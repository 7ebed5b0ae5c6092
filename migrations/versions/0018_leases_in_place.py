"""Heartbeats that change a job's row in place"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace_index(["account_id"])
    # Of pages that are written from now on.
    op.execute("ALTER TABLE jobs SET (fillfactor = 80)")


def downgrade() -> None:
    op.execute("ALTER TABLE jobs RESET (fillfactor)")
    _replace_index(["account_id", "lease_expires_at"])


def _replace_index(columns: list[str]) -> None:
    # The old one goes last: from then on nobody reads the table until the transaction ends.
    op.create_index(
        "ix_jobs_running_anew",
        "jobs",
        columns,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.drop_index("ix_jobs_running", "jobs")
    op.execute("ALTER INDEX ix_jobs_running_anew RENAME TO ix_jobs_running")

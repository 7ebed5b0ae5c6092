"""Heartbeats that change a job's row in place"""

from alembic import op
from sqlalchemy import text

from app.schema_changes import create_successor, succeed

revision = "0017"
down_revision = "0016"
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
    create_successor("ix_jobs_running", "jobs", columns, where=text("status = 'running'"))
    succeed("jobs", "ix_jobs_running")

"""Pictures and inputs that are kept for a while only"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pictures_expire_at", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("pictures_gone_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_jobs_pictures_expire",
        "jobs",
        ["pictures_expire_at"],
        postgresql_where=sa.text("pictures_expire_at IS NOT NULL AND pictures_gone_at IS NULL"),
    )
    op.add_column("input_images", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.add_column("input_images", sa.Column("gone_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_input_images_expires",
        "input_images",
        ["expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL AND gone_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_input_images_expires", "input_images")
    op.drop_column("input_images", "gone_at")
    op.drop_column("input_images", "expires_at")
    op.drop_index("ix_jobs_pictures_expire", "jobs")
    op.drop_column("jobs", "pictures_gone_at")
    op.drop_column("jobs", "pictures_expire_at")

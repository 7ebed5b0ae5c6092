"""Pictures and inputs that are kept for a while only"""

import sqlalchemy as sa
from alembic import op

from app.schema_changes import commit, create_index

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, names in (
        ("jobs", ("pictures_expire_at", "pictures_gone_at")),
        ("input_images", ("expires_at", "gone_at")),
    ):
        for name in names:
            column = sa.Column(name, sa.DateTime(timezone=True))
            op.add_column(table, column, if_not_exists=True)
        commit()
    create_index(
        "ix_jobs_pictures_expire",
        "jobs",
        ["pictures_expire_at"],
        where=sa.text("pictures_expire_at IS NOT NULL AND pictures_gone_at IS NULL"),
    )
    create_index(
        "ix_input_images_expires",
        "input_images",
        ["expires_at"],
        where=sa.text("expires_at IS NOT NULL AND gone_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_input_images_expires", "input_images")
    op.drop_column("input_images", "gone_at")
    op.drop_column("input_images", "expires_at")
    op.drop_index("ix_jobs_pictures_expire", "jobs")
    op.drop_column("jobs", "pictures_gone_at")
    op.drop_column("jobs", "pictures_expire_at")

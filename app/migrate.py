"""Bring the database to the newest schema, without an alembic.ini."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from app.settings import REPOSITORY


def alembic_config(database_url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config()
    config.set_main_option("script_location", str(Path(REPOSITORY) / "migrations"))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def upgrade(database_url: str) -> None:
    """Run every migration that is missing; two at once wait for one another."""
    command.upgrade(alembic_config(database_url), "head")

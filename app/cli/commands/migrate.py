"""`lorawright migrate`: bring the database to the newest schema."""

from rich.console import Console


def migrate() -> None:
    """Run every migration that the database in LORAWRIGHT_DATABASE_URL lacks."""
    from app.migrate import upgrade
    from app.settings import get_settings

    upgrade(get_settings().database_url)
    Console().print("The database has the newest schema.")

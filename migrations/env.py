"""Alembic's entry: one connection, one transaction, one lock."""

from alembic import context
from sqlalchemy import create_engine, text

from app.tables import metadata

# Any constant: it makes two processes that migrate at once take turns.
MIGRATION_LOCK = 7_310_550

engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()
engine.dispose()

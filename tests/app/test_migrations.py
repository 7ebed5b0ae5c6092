"""The migrations make the schema that the models describe, and can be undone."""

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from app.cli.embedded import EmbeddedServers
from app.database import get_engine
from app.migrate import alembic_config, upgrade
from app.settings import get_settings
from app.tables import metadata


@pytest.fixture
def empty_database(servers: EmbeddedServers) -> Iterator[str]:  # noqa: ARG001 (order)
    """The URL of a database of its own."""
    url = make_url(get_settings().database_url).set(database="migrated")
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE migrated"))
        yield url.render_as_string(hide_password=False)
        connection.execute(text("DROP DATABASE migrated"))


def test_the_schema_is_the_models_and_can_be_undone_and_made_again(empty_database: str) -> None:
    upgrade(empty_database)
    engine = create_engine(empty_database)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    command.downgrade(alembic_config(empty_database), "base")
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    upgrade(empty_database)
    engine.dispose()

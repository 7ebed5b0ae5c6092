"""The database's password is changed by a second role, as docs/operations.md says."""

import re
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

from app.cli.embedded import EmbeddedServers
from app.database import get_engine
from app.migrate import alembic_config, upgrade
from app.settings import REPOSITORY, get_settings

FIRST, SECOND, DATABASE = "rotated_1", "rotated_2", "rotated"


def run(*statements: str) -> None:
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(text(statement))


def documented() -> list[str]:
    """The statements of the page, for our roles."""
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    [block] = re.findall(r"```text\n(CREATE ROLE.*?)```", page, re.S)
    lines = [line for line in block.splitlines() if not line.startswith("--")]
    told = "\n".join(lines).replace("lorawright_2", SECOND)
    return [
        statement.strip().replace("lorawright", FIRST)
        for statement in told.split(";")
        if statement.strip()
    ]


@pytest.fixture
def database(servers: EmbeddedServers) -> Iterator[URL]:  # noqa: ARG001 (order)
    """A migrated database of a role that owns nothing else."""
    run(
        f"CREATE ROLE {FIRST} LOGIN PASSWORD 'the old one'",
        f"CREATE DATABASE {DATABASE} OWNER {FIRST}",
    )
    url = make_url(get_settings().database_url).set(
        database=DATABASE, username=FIRST, password="the old one"
    )
    try:
        upgrade(url.render_as_string(hide_password=False))
        yield url
    finally:
        run(
            f"DROP DATABASE {DATABASE} WITH (FORCE)",
            f"DROP ROLE IF EXISTS {SECOND}",
            f"DROP ROLE {FIRST}",
        )


def test_a_second_role_does_all_that_the_first_did_and_the_first_is_shut_out(
    database: URL,
) -> None:
    create, act, shut_out = documented()
    run(create, act)
    second = database.set(username=SECOND, password="the new one")
    address = second.render_as_string(hide_password=False)
    command.downgrade(alembic_config(address), "-1")
    upgrade(address)
    run(shut_out)
    engine = create_engine(second)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts (id, name) VALUES ('acct_1', 'x')"))
        owners = connection.scalars(
            text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        ).all()
    engine.dispose()
    assert owners == [FIRST], "whatever the second makes is the first's, and the third's later"
    old = create_engine(database)
    with pytest.raises(OperationalError, match="not permitted to log in"):
        old.connect()
    old.dispose()

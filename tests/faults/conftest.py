"""One stack for all tests of this folder: the service with two GPU workers, to be broken."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app import broker
from app.cli.embedded import EmbeddedServers
from app.database import get_engine
from app.tables import metadata
from tests.faults.harness.stack import MAX_ATTEMPTS
from tests.faults.harness.work import Work
from tests.faults.session import at_work


@pytest.fixture(scope="package")
def work(servers: EmbeddedServers) -> Iterator[Work]:
    """Over empty tables; one kind of training and four of generations."""
    from app.settings import get_settings

    with get_engine().begin() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
    broker.get_redis().flushdb()
    with pytest.MonkeyPatch.context() as patch:
        # A job's row gets it from the process that takes the request.
        patch.setenv("LORAWRIGHT_MAX_ATTEMPTS", str(MAX_ATTEMPTS))
        get_settings.cache_clear()
        with at_work(servers, training_kinds=1, generation_kinds=4) as ready:
            yield ready
    get_settings.cache_clear()

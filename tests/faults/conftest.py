"""One stack for all tests of this folder: the service with two GPU workers, to be broken."""

from collections.abc import Iterator

import pytest

from app.cli.embedded import EmbeddedServers
from tests import servers as servers_for_tests
from tests.faults.harness.stack import MAX_ATTEMPTS
from tests.faults.harness.work import Work
from tests.faults.session import at_work


@pytest.fixture(scope="package")
def work(embedded_servers: EmbeddedServers) -> Iterator[Work]:
    """Over empty tables; one kind of training and four of generations.

    Its servers are killed, cut off and emptied, so they are embedded ones, wherever the others are.
    """
    from app.settings import get_settings

    with servers_for_tests.using(embedded_servers), pytest.MonkeyPatch.context() as patch:
        servers_for_tests.empty()
        # A job's row gets it from the process that takes the request.
        patch.setenv("LORAWRIGHT_MAX_ATTEMPTS", str(MAX_ATTEMPTS))
        get_settings.cache_clear()
        with at_work(embedded_servers, training_kinds=1, generation_kinds=4) as ready:
            yield ready
    get_settings.cache_clear()

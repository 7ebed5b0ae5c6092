"""From servers that are up and migrated to a stack with work that was once done in peace."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import transaction
from tests.faults.harness.history import witness
from tests.faults.harness.stack import running_stack
from tests.faults.harness.work import Work


@contextmanager
def at_work(
    servers: EmbeddedServers, *, training_kinds: int, generation_kinds: int
) -> Iterator[Work]:
    """The service for a block, as a customer of its own sees it; undisturbed runs are done."""
    from app.main import create_app

    with transaction() as session:
        account = accounts.create_account(session, "faults")
        _, secret = keys.create_key(session, account.id, "faults")
    with (
        witness(),
        running_stack(servers) as stack,
        TestClient(
            create_app(),
            headers={"Authorization": f"Bearer {secret}"},
            raise_server_exceptions=False,
        ) as client,
    ):
        work = Work(client, stack, training_kinds, generation_kinds)
        work.prepare()
        yield work

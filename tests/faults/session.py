"""A run from its beginning to its end over servers that are up and migrated."""

from collections.abc import Callable

from starlette.testclient import TestClient

from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import transaction
from tests.faults.campaign import Findings, Plan, run
from tests.faults.harness.history import witness
from tests.faults.harness.stack import running_stack
from tests.faults.harness.work import Work


def disturbed(servers: EmbeddedServers, plan: Plan, say: Callable[[str], None]) -> Findings:
    """Start the service as a customer of its own sees it, run the plan, and stop the service."""
    from app.main import create_app

    with transaction() as session:
        account = accounts.create_account(session, "faults")
        _, secret = accounts.create_key(session, account.id, "faults")
    with (
        witness(),
        running_stack(servers) as stack,
        TestClient(
            create_app(),
            headers={"Authorization": f"Bearer {secret}"},
            raise_server_exceptions=False,
        ) as client,
    ):
        work = Work(client, stack, plan.training_kinds, plan.generation_kinds)
        return run(plan, stack, work, say)

"""An operator beside the customers."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import transaction
from tests.api import api


@pytest.fixture
def operator(clean: EmbeddedServers) -> Iterator[TestClient]:  # noqa: ARG001 (order)
    """The API with the key of an account of the role admin."""
    with transaction() as session:
        account = accounts.create_account(session, "operator", role="admin")
        _, secret = keys.create_key(session, account.id, "console", keys.ALL_SCOPES)
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(api(), headers=headers, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def customer_id(client: TestClient) -> str:
    """The account of `client`."""
    account_id: str = client.get("/v1/account").json()["id"]
    return account_id

"""Browsers that have signed in, and objects whose every text is a trap."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts import service as accounts
from app.database import transaction
from app.loras.models import Lora
from tests.app.loras.test_lora_tools import make_lora
from tests.pictures import picture

SCRIPT = "<script>alert('x\")</script>"
Objects = dict[str, str]


@dataclass
class Browser:
    """One browser with its session."""

    client: TestClient
    account_id: str
    key_id: str

    @property
    def token(self) -> str:
        """The token that every page carries for its scripts."""
        return token_of(self.client.get("/playground").text)


SignIn = Callable[..., Browser]


def token_of(html: str) -> str:
    """The token of a page."""
    [found] = re.findall(r'<meta name="csrf-token" content="([^"]*)">', html)
    return str(found)


@pytest.fixture
def app_client(client: TestClient) -> Iterator[TestClient]:
    """The same service for somebody without a key."""
    with TestClient(client.app, follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def secret(client: TestClient) -> str:
    """The customer's key."""
    return str(client.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture
def sign_in_as(client: TestClient) -> Iterator[SignIn]:
    """Sign in to a new account, or with a key."""
    opened = ExitStack()

    def sign_in(name: str, secret: str | None = None, *, admin: bool = False) -> Browser:
        with transaction() as session:
            if secret is None:
                account = accounts.create_account(session, name, "admin" if admin else "customer")
                scopes = keys.ALL_SCOPES if admin else keys.CUSTOMER_SCOPES
                _, secret = keys.create_key(session, account.id, name, scopes)
            key = keys.authenticate(session, secret)
            account_id, key_id = key.account_id, key.id
        browser = opened.enter_context(TestClient(client.app, follow_redirects=False))
        token = token_of(browser.get("/sign-in").text)
        done = browser.post("/sign-in", data={"api_key": secret, "csrf_token": token})
        assert done.status_code == 303, done.text
        return Browser(browser, account_id, key_id)

    with opened:
        yield sign_in


@pytest.fixture
def customer(sign_in_as: SignIn, secret: str) -> Browser:
    """The customer of `client`, in a browser."""
    return sign_in_as("customer", secret)


@pytest.fixture
def operator(sign_in_as: SignIn) -> Browser:
    """An operator in a browser."""
    return sign_in_as("operator", admin=True)


@pytest.fixture
def objects(client: TestClient, customer: Browser) -> Objects:
    """One of everything, each of its texts a script."""

    def post(path: str, body: Any) -> str:
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    trap = SCRIPT.replace(",", "")
    dataset = post("datasets", {"name": trap, "task": "style", "trigger_word": trap})
    files = [("files", (f"{SCRIPT.replace('/', '')}.png", picture(1), "image/png"))]
    assert client.post(f"/v1/datasets/{dataset}/images", files=files).status_code == 201
    image = client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"]
    client.patch(f"/v1/datasets/{dataset}/images/{image}", json={"caption": SCRIPT})
    lora = make_lora()
    with transaction() as session:
        row = session.get_one(Lora, lora)
        row.trigger_word, row.description, row.file_metadata = SCRIPT, SCRIPT, {SCRIPT: SCRIPT}
    client.patch(f"/v1/loras/{lora}", json={"name": SCRIPT})
    webhook = post("webhooks", {"url": "https://93.184.215.14/", "events": ["*"]})
    body = {"dataset": dataset, "name": SCRIPT, "base_model": "emoji-64", "sample_prompts": [trap]}
    grid = {"prompt": SCRIPT, "axes": [{"name": "prompt", "values": [SCRIPT, "b"]}]}
    return {
        "account": customer.account_id,
        "dataset": dataset,
        "lora": lora,
        "training": post("trainings", body),
        "generation": post("generations", {"prompt": SCRIPT, "negative_prompt": SCRIPT}),
        "comparison": post("comparisons", grid),
        "webhook": webhook,
        "delivery": post(f"webhooks/{webhook}/test", None),
    }

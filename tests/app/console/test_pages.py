"""What pages show, to whom, and what they let in."""

import re
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import update

from app.accounts import keys
from app.accounts import service as accounts
from app.accounts.models import Account
from app.console import account, control, playground, sign_in, studio
from app.database import transaction
from tests.app.console.conftest import Browser, Objects, SignIn

ADDRESSES = [
    "/",
    "/datasets",
    "/datasets/{dataset}",
    "/trainings",
    "/trainings/new",
    "/trainings/new?dataset={dataset}",
    "/trainings/{training}",
    "/loras",
    "/loras/{lora}",
    "/playground",
    "/playground?lora={lora}",
    "/playground?again={generation}",
    "/comparisons",
    "/comparisons/{comparison}",
    "/account",
    "/account/webhooks/{webhook}",
    "/account/webhooks/{webhook}/deliveries/{delivery}",
]
CONTROL = [
    "/control",
    "/control/jobs",
    "/control/jobs?status=queued&kind=training&since=2026-01-01T00%3A00",
    "/control/jobs/{training}",
    "/control/accounts",
    "/control/accounts/{account}",
    "/control/audit",
    "/control/audit?action=api_key.",
]


def test_every_page_is_among_those_that_are_tested() -> None:
    modules = (studio, playground, account, control, sign_in)
    routes = {
        route.path for m in modules for route in m.router.routes if isinstance(route, APIRoute)
    }
    tested = {re.sub(r"\{.*?\}", "{}", each.partition("?")[0]) for each in ADDRESSES + CONTROL}
    assert {re.sub(r"\{.*?\}", "{}", path) for path in routes} - {"/sign-in", "/sign-out"} == tested


def test_what_people_wrote_shows_as_text(
    customer: Browser, objects: Objects, subtests: pytest.Subtests
) -> None:
    for address in ADDRESSES:
        with subtests.test(address):
            page = customer.client.get(address.format(**objects))
            assert page.status_code == 200, page.text
            assert "<script>alert" not in page.text
            for script in re.findall(r"<script\b[^>]*>", page.text):
                assert 'src="/static/' in script, "no script stands in a page itself"
            quoted = re.sub(r'"[^"]*"|\'[^\']*\'', '""', page.text)
            assert not re.search(r"\s(on\w+|style)=", quoted)


def test_operators_see_what_people_wrote_as_text(
    operator: Browser, objects: Objects, subtests: pytest.Subtests
) -> None:
    for address in CONTROL:
        with subtests.test(address):
            page = operator.client.get(address.format(**objects))
            assert page.status_code == 200, page.text
            assert "<script>alert" not in page.text


def test_the_name_is_there_at_all(customer: Browser, objects: Objects) -> None:
    page = customer.client.get(f"/datasets/{objects['dataset']}").text
    assert page.count("&lt;script&gt;alert") >= 3, "name, trigger word, caption"


def test_anothers_object_is_not_there(
    sign_in_as: SignIn, objects: Objects, subtests: pytest.Subtests
) -> None:
    other = sign_in_as("other")
    for address in (each for each in ADDRESSES if "{" in each):
        with subtests.test(address):
            page = other.client.get(address.format(**objects))
            assert page.status_code == 404, page.text
            assert "script&gt;" not in page.text


def test_anothers_object_is_not_there_for_the_pages_scripts_either(
    sign_in_as: SignIn, objects: Objects
) -> None:
    other = sign_in_as("other")
    told = {"X-CSRF-Token": other.token}
    for method, path in [
        ("GET", f"/v1/datasets/{objects['dataset']}"),
        ("PATCH", f"/v1/datasets/{objects['dataset']}"),
        ("DELETE", f"/v1/loras/{objects['lora']}"),
        ("POST", f"/v1/trainings/{objects['training']}/cancel"),
    ]:
        body = {"json": {"name": "mine"}} if method == "PATCH" else {}
        assert other.client.request(method, path, headers=told, **body).status_code == 404


def test_the_control_room_is_closed_to_customers(
    customer: Browser, objects: Objects, subtests: pytest.Subtests
) -> None:
    for address in CONTROL:
        with subtests.test(address):
            page = customer.client.get(address.format(**objects))
            assert page.status_code == 403
            assert "the scope admin and the role admin are needed" in page.text


def test_customers_are_not_shown_the_way_there(customer: Browser, operator: Browser) -> None:
    assert 'href="/control"' not in customer.client.get("/").text
    assert 'href="/control"' in operator.client.get("/").text


def test_pages_have_a_strict_policy(customer: Browser) -> None:
    policy = customer.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.usefixtures("objects")
def test_first_page_is_small(customer: Browser) -> None:
    page = customer.client.get("/")
    seen = {"/"}
    size = len(page.content)
    waiting = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        found = customer.client.get(address, headers={"Accept-Encoding": "identity"})
        assert found.status_code == 200, address
        assert "immutable" in found.headers["cache-control"]
        size += len(found.content)
        folder = address.rpartition("/")[0]
        if "/vendor/" not in address:
            waiting += [f"{folder}/{name}" for name in re.findall(r'"\./(\w+\.js)"', found.text)]
    assert len(seen) > 7
    assert size < 100_000, "even unpacked"


def test_an_address_that_nothing_is_at_is_a_page_for_people(customer: Browser) -> None:
    page = customer.client.get("/nowhere", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "There is nothing at /nowhere" in page.text
    answer = customer.client.get("/nowhere", headers={"Accept": "application/json"})
    assert answer.json()["code"] == "not_found"
    answer = customer.client.get("/v1/nowhere", headers={"Accept": "text/html"})
    assert answer.json()["code"] == "not_found"


def test_a_wrong_query_is_a_page_too(customer: Browser) -> None:
    page = customer.client.get("/datasets?after=<script>")
    assert page.status_code == 422
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text.replace("<script src", "")


@pytest.fixture
def suspended(customer: Browser) -> Iterator[Browser]:
    with transaction() as session:
        row = session.get_one(Account, customer.account_id)
        accounts.suspend(session, row, "unpaid <script>")
    yield customer
    with transaction() as session:
        session.execute(update(Account).values(suspended_at=None))


def test_a_suspended_account_is_told_why(suspended: Browser) -> None:
    page = suspended.client.get("/")
    assert page.status_code == 403
    assert "unpaid &lt;script&gt;" in page.text


def test_a_key_that_may_do_little_sees_little(sign_in_as: SignIn) -> None:
    with transaction() as session:
        row = accounts.create_account(session, "narrow")
        _, secret = keys.create_key(session, row.id, "narrow", ("generations",))
    browser = sign_in_as("narrow", secret)
    assert browser.client.get("/playground").status_code == 200
    page = browser.client.get("/datasets")
    assert page.status_code == 403
    assert "datasets is needed" in page.text

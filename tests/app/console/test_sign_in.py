"""Sessions: who gets one, what ends it, and what it may not be used for."""

import re
from datetime import timedelta

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts.models import ApiKey
from app.database import transaction
from app.settings import get_settings
from app.web import browser as sessions
from tests.app.console.conftest import Browser, SignIn, token_of


def test_who_has_not_signed_in_is_asked_to_and_brought_back(
    app_client: TestClient, secret: str
) -> None:
    asked = app_client.get("/datasets?after=ds_" + "0" * 32)
    assert asked.status_code == 303
    form = app_client.get(asked.headers["location"])
    [next_page] = re.findall(r'name="next" value="([^"]*)"', form.text)
    done = app_client.post(
        "/sign-in", data={"api_key": secret, "csrf_token": token_of(form.text), "next": next_page}
    )
    assert done.status_code == 303
    assert done.headers["location"] == "/datasets?after=ds_" + "0" * 32


def test_a_part_that_is_asked_for_anew_takes_the_whole_page_to_sign_in(
    app_client: TestClient,
) -> None:
    answer = app_client.get("/control", headers={"HX-Request": "true"})
    assert answer.status_code == 204
    assert answer.headers["hx-redirect"].startswith("/sign-in")


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example"]
)
def test_signing_in_leads_to_no_other_host(
    app_client: TestClient, secret: str, elsewhere: str
) -> None:
    token = token_of(app_client.get("/sign-in").text)
    done = app_client.post(
        "/sign-in", data={"api_key": secret, "csrf_token": token, "next": elsewhere}
    )
    assert done.headers["location"] == "/"


def test_a_wrong_key_is_told_of_and_gives_nothing(app_client: TestClient) -> None:
    token = token_of(app_client.get("/sign-in").text)
    answer = app_client.post("/sign-in", data={"api_key": "lw_live_wrong", "csrf_token": token})
    assert answer.status_code == 401
    assert "unknown or has been revoked" in answer.text
    assert app_client.get("/").status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    app_client: TestClient, secret: str
) -> None:
    token = token_of(app_client.get("/sign-in").text)
    done = app_client.post("/sign-in", data={"api_key": secret, "csrf_token": token})
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert secret.lower() not in cookie
    with TestClient(app_client.app, base_url="https://testserver") as safe:
        assert "secure" in safe.get("/sign-in").headers["set-cookie"].lower()


def test_signing_in_needs_the_forms_token(app_client: TestClient, secret: str) -> None:
    app_client.get("/sign-in")
    for told in ({}, {"csrf_token": "guessed"}):
        answer = app_client.post("/sign-in", data={"api_key": secret} | told)
        assert answer.status_code == 403
    assert app_client.get("/").status_code == 303


def test_a_change_without_the_sessions_token_is_refused(customer: Browser) -> None:
    body = {"name": "ink", "task": "style", "trigger_word": "ink"}
    for headers in ({}, {"X-CSRF-Token": "guessed"}, {"X-CSRF-Token": "ü".encode()}):
        answer = customer.client.post("/v1/datasets", json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["code"] == "csrf_token_missing"
    told = {"X-CSRF-Token": customer.token}
    assert customer.client.post("/v1/datasets", json=body, headers=told).status_code == 201


def test_another_sessions_token_is_refused(customer: Browser, sign_in_as: SignIn) -> None:
    other = sign_in_as("other")
    body = {"name": "ink", "task": "style", "trigger_word": "ink"}
    told = {"X-CSRF-Token": other.token}
    assert customer.client.post("/v1/datasets", json=body, headers=told).status_code == 403


def test_an_upload_without_the_token_is_refused(customer: Browser) -> None:
    answer = customer.client.post("/v1/loras", files={"file": ("a.safetensors", b"x")})
    assert answer.status_code == 403


def test_a_cookie_that_was_changed_is_none(customer: Browser) -> None:
    cookie = customer.client.cookies[sessions.COOKIE]
    customer.client.cookies.clear()
    customer.client.cookies.set(
        sessions.COOKIE, cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB")
    )
    assert customer.client.get("/").status_code == 303
    assert customer.client.get("/v1/datasets").status_code == 401


def test_a_session_ends_with_its_time(customer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert customer.client.get("/").status_code == 200
    older = get_settings().model_copy(update={"console_session_seconds": -1})
    monkeypatch.setattr(sessions, "get_settings", lambda: older)
    assert customer.client.get("/").status_code == 303


def test_signing_out_needs_the_token_and_ends_the_session(customer: Browser) -> None:
    assert customer.client.post("/sign-out").status_code == 403
    assert customer.client.get("/").status_code == 200
    done = customer.client.post("/sign-out", data={"csrf_token": customer.token})
    assert done.status_code == 303
    assert customer.client.get("/").status_code == 303


def test_a_revoked_key_ends_its_sessions(customer: Browser) -> None:
    with transaction() as session:
        keys.revoke(session, session.get_one(ApiKey, customer.key_id))
    assert customer.client.get("/").status_code == 303
    assert customer.client.get("/v1/datasets").status_code == 401


@pytest.mark.parametrize("overlap", [timedelta(0), timedelta(hours=1)])
def test_a_rotated_key_ends_sessions_of_the_secret_before(
    customer: Browser, overlap: timedelta
) -> None:
    with transaction() as session:
        keys.rotate(session, session.get_one(ApiKey, customer.key_id), overlap)
    # As long as the secret itself would still be taken.
    assert customer.client.get("/v1/datasets").status_code == (200 if overlap else 401)
    with transaction() as session:
        keys.rotate(session, session.get_one(ApiKey, customer.key_id), timedelta(hours=1))
    assert customer.client.get("/v1/datasets").status_code == 401


def test_a_session_counts_among_its_accounts_requests(customer: Browser) -> None:
    headers = customer.client.get("/v1/datasets").headers
    assert headers["ratelimit-policy"].startswith('"requests";q=')


OLD, NEW = "o" * 32, "n" * 32


def test_a_secret_is_changed_in_two_steps_that_end_no_session(
    app_client: TestClient, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(signs: str, also: str | None) -> None:
        told = {"session_secret": SecretStr(signs)}
        told["session_secret_also_accepted"] = SecretStr(also) if also else None
        settings = get_settings().model_copy(update=told)
        monkeypatch.setattr(sessions, "get_settings", lambda: settings)
        sessions._secrets.cache_clear()

    def sign_in() -> None:
        app_client.cookies.clear()
        token = token_of(app_client.get("/sign-in").text)
        done = app_client.post("/sign-in", data={"api_key": secret, "csrf_token": token})
        assert done.status_code == 303, done.text

    def is_signed_in(token: str | None = None) -> bool:
        page = app_client.get("/account")
        if page.status_code != 200:
            return False
        made = app_client.post(
            "/v1/datasets",
            json={"name": "x", "task": "style", "trigger_word": "x"},
            headers={"X-CSRF-Token": token or token_of(page.text)},
        )
        return made.status_code == 201

    try:
        step(OLD, None)
        sign_in()
        form = token_of(app_client.get("/account").text)
        # Everywhere the new one is accepted, before anything is signed with it.
        step(OLD, NEW)
        assert is_signed_in(form)
        step(NEW, OLD)
        assert is_signed_in(form), "a page that was open all the time"
        assert is_signed_in()
        sign_in()
        # A process that is still at the step before takes what the others sign.
        step(OLD, NEW)
        assert is_signed_in()
        step(NEW, None)
        assert is_signed_in()
        step(OLD, None)
        assert not is_signed_in()
    finally:
        sessions._secrets.cache_clear()

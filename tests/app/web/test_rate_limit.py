"""An account that asks too often is told so, and when it may ask again."""

import re

import pytest
from starlette.testclient import TestClient

from app import main
from app.broker import get_redis
from app.cli.embedded import EmbeddedServers
from app.main import create_app
from app.settings import get_settings


@pytest.fixture
def limited(client, monkeypatch):
    """The same customer at an API that allows five requests a minute."""
    settings = get_settings().model_copy(update={"requests_per_minute": 5})
    monkeypatch.setattr(main, "get_settings", lambda: settings)
    told = {"Authorization": client.headers["Authorization"]}
    with TestClient(create_app(), headers=told, raise_server_exceptions=False) as opened:
        yield opened


def test_every_answer_tells_what_is_left(limited):
    left = []
    for _ in range(5):
        answer = limited.get("/v1/jobs")
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"requests";q=5;w=60'
        found = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
        assert found is not None
        left.append(int(found[1]))
        assert 0 < int(found[2]) <= 60
    assert left == [4, 3, 2, 1, 0]


def test_one_request_too_many_is_refused_with_the_limit(limited, other_client):
    for _ in range(5):
        limited.get("/v1/jobs")
    answer = limited.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.json()["retryable"] is True
    assert "LORAWRIGHT_REQUESTS_PER_MINUTE) is 5" in answer.json()["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["RateLimit"].startswith('"requests";r=0;')
    # It is of one account; health and strangers are not counted.
    stranger = {"Authorization": "Bearer lw_live_unknown"}
    assert limited.get("/livez").status_code == 200
    assert limited.get("/v1/jobs", headers=stranger).status_code == 401
    theirs = {"Authorization": other_client.headers["Authorization"]}
    assert limited.get("/v1/jobs", headers=theirs).status_code == 200


def test_when_the_count_has_gone_there_is_room_again(limited):
    for _ in range(6):
        limited.get("/v1/jobs")
    for key in get_redis().scan_iter("lorawright:rate:*"):
        # As Redis itself does two minutes later.
        get_redis().delete(key)
    assert limited.get("/v1/jobs").status_code == 200


@pytest.mark.own_servers
def test_nobody_is_refused_while_redis_is_away(limited, clean: EmbeddedServers):
    assert clean.redis is not None
    clean.redis.stop()
    try:
        for _ in range(8):
            answer = limited.get("/v1/jobs")
            assert answer.status_code == 200
            assert "RateLimit" not in answer.headers
    finally:
        clean.redis.start()
        clean.redis.wait_ready()

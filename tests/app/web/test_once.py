"""A request sent again under its Idempotency-Key has no second effect."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from app.broker import get_redis
from app.database import transaction
from app.idempotency import service as idempotency
from app.idempotency.models import IdempotencyRecord
from app.jobs.models import Job
from tests.pictures import picture

GENERATION = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2}
DATASET = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}


def jobs() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def records() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(IdempotencyRecord)) or 0


def post(client, key="k1", path="/v1/generations", body=None, **options):
    return client.post(path, json=body or GENERATION, headers={"Idempotency-Key": key}, **options)


def test_the_same_request_gets_the_first_answer_again(client):
    first = post(client)
    again = post(client)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert jobs() == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/generations", GENERATION | {"steps": 3}),
        ("/v1/generations?x=1", GENERATION),
        ("/v1/datasets", DATASET),
    ],
)
def test_the_key_of_another_request_is_refused(client, path, body):
    post(client)
    answer = post(client, path=path, body=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert jobs() == 1


def test_a_hundred_at_once_make_one_job(client):
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: post(client), range(100)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert answer.status_code == 409
            assert answer.json()["code"] == "idempotency_key_in_flight"
            assert answer.json()["retryable"] is True
            assert "Retry-After" in answer.headers
    assert jobs() == 1


def test_keys_are_each_accounts_own(client, other_client):
    first, second = post(client).json()["id"], post(other_client).json()["id"]
    assert first != second


def test_an_error_leaves_the_key_free(client):
    wrong = post(client, body=GENERATION | {"steps": 0})
    assert wrong.status_code == 422
    assert records() == 0
    assert post(client).status_code == 201


def test_nothing_is_kept_of_a_request_whose_transaction_fails(client, monkeypatch):
    """The record and what it tells of are one transaction: without the one there is no other."""

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("killed between the two")

    monkeypatch.setattr(idempotency, "keep", failing)
    assert post(client).status_code == 500
    assert (jobs(), records()) == (0, 0)
    monkeypatch.undo()
    assert post(client).status_code == 201
    assert (jobs(), records()) == (1, 1)


def test_an_upload_is_compared_by_its_bytes(client):
    dataset = client.post("/v1/datasets", json=DATASET).json()["id"]
    path = f"/v1/datasets/{dataset}/images"
    headers = {"Idempotency-Key": "u1", "Content-Type": "multipart/form-data; boundary=b"}

    def body(seed: int) -> bytes:
        head = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        return head.encode() + picture(seed) + b"\r\n--b--\r\n"

    first = client.post(path, content=body(1), headers=headers)
    assert first.status_code == 201, first.text
    again = client.post(path, content=body(1), headers=headers)
    assert again.content == first.content
    other = client.post(path, content=body(2), headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("key", ["", "x" * 256, "ключ".encode()])
def test_a_key_that_cannot_be_one_is_refused(client, key):
    assert post(client, key=key).json()["code"] == "invalid_request"
    assert jobs() == 0


def test_an_old_answer_is_forgotten(client):
    first = post(client).json()["id"]
    with transaction() as session:
        aged = IdempotencyRecord.created_at - idempotency._promised()
        session.execute(update(IdempotencyRecord).values(created_at=aged))
    assert post(client).json()["id"] != first
    with transaction() as session:
        aged = IdempotencyRecord.created_at - idempotency._promised()
        session.execute(update(IdempotencyRecord).values(created_at=aged))
    with transaction() as session:
        assert idempotency.prune(session) == 1
    assert records() == 0


def test_a_request_that_waits_for_pictures_makes_one_job(client, monkeypatch):
    """Its client has gone before the job ended; the retry finds that job, not another."""
    from app.openai_images import routes

    settings = routes.get_settings().model_copy(update={"openai_wait_seconds": 0.05})
    monkeypatch.setattr(routes, "get_settings", lambda: settings)
    asked = {"path": "/v1/images/generations", "body": {"prompt": "a red apple"}}
    with pytest.MonkeyPatch.context() as patch:
        # As if the process had been killed while it waited.
        patch.setattr(routes.service, "give_up", _killed)
        assert post(client, **asked).status_code == 500
    assert (jobs(), records()) == (1, 1)
    late = post(client, **asked)
    assert late.json()["error"]["code"] == "picture_late"
    assert jobs() == 1
    # It was given up and canceled: the next one begins anew.
    post(client, **asked)
    assert jobs() == 2
    get_redis().flushdb()


def _killed(*_: object) -> None:
    raise RuntimeError("killed")

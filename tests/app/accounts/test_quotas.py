"""Quotas hold, whoever asks at once, and say what is used and what may be."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from app.accounts import quotas
from app.accounts.models import Account
from app.database import transaction
from app.jobs import claiming
from tests.pictures import picture

GENERATION = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2}
DATASET = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}


def limit(**limits: float | None) -> str:
    """Give the first account limits of its own; its id."""
    with transaction() as session:
        account = session.scalars(select(Account).order_by(Account.id).limit(1)).one()
        account.limits = limits
        return account.id


def refused(answer) -> str:
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded"), answer.text
    detail: str = answer.json()["detail"]
    return detail


def test_so_many_datasets_and_no_more(client):
    limit(datasets=2)
    for _ in range(2):
        assert client.post("/v1/datasets", json=DATASET).status_code == 201
    detail = refused(client.post("/v1/datasets", json=DATASET))
    assert "has 2 datasets, and may have 2" in detail
    assert "LORAWRIGHT_MAX_DATASETS_PER_ACCOUNT" in detail


def test_twenty_submissions_at_once_stay_under_the_limit(client):
    limit(queued_jobs=5)
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/generations", json=GENERATION), "x" * 20)
        )
    assert sum(answer.status_code == 201 for answer in answers) == 5
    assert sum(answer.status_code == 403 for answer in answers) == 15


def test_a_claimed_job_waits_no_more(client):
    limit(queued_jobs=1)
    assert client.post("/v1/generations", json=GENERATION).status_code == 201
    refused(client.post("/v1/generations", json=GENERATION))
    with transaction() as session:
        assert claiming.claim(session, "generate", "w") is not None
    assert client.post("/v1/generations", json=GENERATION).status_code == 201


def test_no_job_is_taken_when_the_months_gpu_seconds_are_used_up(client):
    account_id = limit(gpu_seconds_per_month=10)
    from app.accounts import usage

    with transaction() as session:
        usage.meter(session, account_id, "training", gpu_seconds=9.5, jobs=1, images=0)
    assert client.post("/v1/generations", json=GENERATION).status_code == 201
    with transaction() as session:
        usage.meter(session, account_id, "training", gpu_seconds=1, jobs=1, images=0)
    assert "10.5 gpu seconds per month" in refused(client.post("/v1/generations", json=GENERATION))


def test_an_upload_that_would_pass_the_limit_is_refused_and_nothing_is_kept(client):
    dataset = client.post("/v1/datasets", json=DATASET).json()["id"]
    limit(stored_bytes=100)
    answer = client.post(
        f"/v1/datasets/{dataset}/images", files={"files": ("a.png", picture(1), "image/png")}
    )
    assert "stored bytes" in refused(answer)
    assert client.get(f"/v1/datasets/{dataset}").json()["image_count"] == 0


def test_an_account_of_its_own_limit_runs_as_many_jobs(client):
    limit(running_jobs=1)
    for _ in range(3):
        client.post("/v1/generations", json=GENERATION)

    def claim() -> object:
        with transaction() as session:
            return claiming.claim(session, "generate", "w")

    assert claim() is not None
    assert claim() is None
    limit(running_jobs=None)
    assert claim() is not None
    assert claim() is not None


def test_the_account_tells_its_quotas(client):
    limit(datasets=None, loras=7)
    client.post("/v1/datasets", json=DATASET)
    told = client.get("/v1/account").json()
    assert told["name"] == "customer"
    assert set(told["quotas"]) == set(quotas.QUOTAS)
    assert told["quotas"]["datasets"] == {"used": 1, "limit": None}
    assert told["quotas"]["loras"] == {"used": 0, "limit": 7}
    assert told["quotas"]["gpu_seconds_per_month"]["limit"] is None


def test_one_accounts_use_is_not_anothers(client, other_client):
    limit(datasets=1)
    assert client.post("/v1/datasets", json=DATASET).status_code == 201
    assert other_client.post("/v1/datasets", json=DATASET).status_code == 201


@pytest.mark.parametrize("name", quotas.QUOTAS)
def test_every_quota_can_be_asked_for(client, name):  # noqa: ARG001 (an account)
    with transaction() as session:
        account = session.scalars(select(Account).limit(1)).one()
        # The key that asks is one.
        assert quotas.used(session, account.id, name) == (1 if name == "api_keys" else 0)
        assert quotas.limit_of(account, name) is None or quotas.limit_of(account, name) > 0

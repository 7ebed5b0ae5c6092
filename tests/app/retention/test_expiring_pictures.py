"""Pictures that are kept for a while say until when, and are gone afterwards; the job stays."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.comparisons.models import Comparison
from app.database import transaction, utc_now
from app.generations import inputs
from app.generations.models import GeneratedImage, InputImage
from app.jobs import claiming, lifecycle
from app.jobs.models import Job
from app.retention import expiry
from app.retention import service as retention
from app.settings import get_settings
from app.storage import get_store
from tests.pictures import picture

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64", "width": 64, "height": 64}


@pytest.fixture
def kept_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    get_store().delete(get_store().list_keys(""))

    def change(seconds: float | None) -> None:
        changed = get_settings().model_copy(
            update={"picture_keep_seconds": seconds, "input_keep_seconds": seconds}
        )
        for module in (lifecycle, inputs):
            monkeypatch.setattr(module, "get_settings", lambda: changed)

    return change


def done(client: TestClient, path: str = "generations", **fields: Any) -> str:
    """A job that has ended with one picture in storage."""
    made = client.post(f"/v1/{path}", json={**GENERATION, **fields}).json()
    with transaction() as session:
        claim = claiming.claim(session, "generate", "w")
        assert claim is not None
        key = f"accounts/{claim.account_id}/jobs/{claim.job_id}/1/0.png"
        get_store().put_bytes(key, b"picture", "image/png")
        stored = {"seed": 1, "width": 64, "height": 64, "object_key": key, "sha256": "0" * 64}
        stored |= {"index": 0, "format": "png", "bytes": 7}
        if path == "generations":
            session.add(GeneratedImage(generation_id=claim.job_id, **stored))
        else:
            detail = session.get_one(Comparison, claim.job_id)
            detail.images = [{**stored, "receipt": {}}]
            detail.sheet_key = key.replace("0.png", "sheet.png")
            get_store().put_bytes(detail.sheet_key, b"sheet", "image/png")
        lifecycle.finish(session, claim, "succeeded", gpu_seconds=1.0)
    job_id: str = made["id"]
    return job_id


def pass_time() -> None:
    past = utc_now() - timedelta(seconds=1)
    with transaction() as session:
        for column in (Job.pictures_expire_at, InputImage.expires_at):
            change = update(column.class_).where(column.is_not(None))
            session.execute(change.values({column.key: past}))


def sweep() -> None:
    with transaction() as session:
        expiry.let_go_of_pictures(session)
        expiry.let_go_of_inputs(session)
    left = 1
    while left:
        with transaction() as session:
            left = retention.sweep_doomed(session, get_store())


def test_expired_pictures_are_gone_and_their_job_can_make_them_again(
    client: TestClient, kept_for: Callable[[float | None], None]
) -> None:
    kept_for(None)
    forever = done(client)
    kept_for(3600)
    job = done(client)
    shown = client.get(f"/v1/generations/{job}").json()
    until = datetime.fromisoformat(shown["expires_at"])
    assert 3500 < (until - utc_now()).total_seconds() <= 3600
    sweep()
    assert len(list(get_store().list_keys(""))) == 2
    pass_time()
    sweep()
    assert [key for key in get_store().list_keys("") if forever not in key] == []
    shown = client.get(f"/v1/generations/{job}").json()
    assert shown["status"] == "succeeded"
    assert [image["url"] for image in shown["images"]] == [None]
    again = client.post("/v1/generations", json=shown["images"][0]["request"])
    assert again.status_code == 201
    started = client.post("/v1/generations", json={**GENERATION, "init_image": f"{job}/0"})
    assert (started.status_code, started.json()["code"]) == (410, "output_expired")
    still = client.get(f"/v1/generations/{forever}").json()
    assert still["expires_at"] is None
    assert still["images"][0]["url"]


def test_a_comparison_goes_with_its_sheet(
    client: TestClient, kept_for: Callable[[float | None], None]
) -> None:
    kept_for(3600)
    job = done(client, "comparisons", axes=[{"name": "seed", "values": [1]}])
    assert client.get(f"/v1/comparisons/{job}").json()["sheet_url"]
    pass_time()
    sweep()
    assert list(get_store().list_keys("")) == []
    shown = client.get(f"/v1/comparisons/{job}").json()
    assert (shown["sheet_url"], shown["images"][0]["url"]) == (None, None)


def test_an_expired_input_answers_410(
    client: TestClient, kept_for: Callable[[float | None], None]
) -> None:
    kept_for(3600)
    sent = client.post("/v1/inputs", files={"file": ("a.png", picture(1), "image/png")}).json()
    assert sent["expires_at"] is not None
    waiting = client.post("/v1/generations", json={**GENERATION, "init_image": sent["id"]})
    assert waiting.status_code == 201
    pass_time()
    sweep()
    # A job that waits still reads it.
    assert len(list(get_store().list_keys(""))) == 1
    for answer in (
        client.get(f"/v1/inputs/{sent['id']}"),
        client.post("/v1/generations", json={**GENERATION, "init_image": sent["id"]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "output_expired")
    # The same picture sent again is kept again.
    again = client.post("/v1/inputs", files={"file": ("a.png", picture(1), "image/png")}).json()
    client.post(f"/v1/generations/{waiting.json()['id']}/cancel")
    with transaction() as session:
        retention.sweep_orphans(session, get_store(), 0)
    sweep()
    assert client.get(f"/v1/inputs/{again['id']}").status_code == 200
    with transaction() as session:
        key = session.scalars(
            select(InputImage.object_key).where(InputImage.id == again["id"])
        ).one()
    assert get_store().exists(key)

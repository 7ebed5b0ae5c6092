"""Objects are removed when nothing needs them, and not a moment earlier."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from app.accounts import service as accounts
from app.database import new_id, transaction
from app.generations.models import GeneratedImage, Generation
from app.jobs import claiming, lifecycle
from app.jobs import service as jobs
from app.jobs.models import Job
from app.loras.models import Lora
from app.retention import expiry
from app.retention import service as retention
from app.retention.models import DoomedObject
from app.settings import get_settings
from app.storage import get_store
from app.trainings.models import Training

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def owner(clean: object) -> str:  # noqa: ARG001 (order)
    get_store().delete(get_store().list_keys("accounts/"))
    with transaction() as session:
        return accounts.create_account(session, "customer").id


def put(owner: str, name: str) -> str:
    key = f"accounts/{owner}/{name}"
    get_store().put_bytes(key, b"bytes", "application/octet-stream")
    return key


def doom(owner: str, *keys: str) -> None:
    with transaction() as session:
        retention.doom(session, owner, keys)


def sweep() -> int:
    with transaction() as session:
        return retention.sweep_doomed(session, get_store())


def stored() -> list[str]:
    return get_store().list_keys("accounts/")


def doomed() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(DoomedObject.object_key)))


def publish(owner: str, key: str) -> None:
    with transaction() as session:
        session.add(
            Lora(
                id=new_id("lora"),
                account_id=owner,
                name="x",
                base_model="emoji-64",
                architecture="emoji-64",
                source="upload",
                rank=1,
                alpha=1,
                object_key=key,
                sha256="0" * 64,
                bytes=5,
                file_metadata={},
            )
        )


def queue_generation(owner: str, loras: list[dict[str, str]]) -> str:
    job_id = new_id("gen")
    with transaction() as session:
        jobs.submit(session, job_id=job_id, kind="generation", queue="generate", account_id=owner)
        session.add(Generation(id=job_id, base_model="b", request={}, loras=loras, lora_reports=[]))
    return job_id


def run_next() -> str:
    with transaction() as session:
        claim = claiming.claim(session, "generate", "w")
        assert claim is not None
        lifecycle.finish(session, claim, "succeeded", gpu_seconds=0)
    return claim.job_id


def test_a_doomed_object_is_removed_and_forgotten(owner: str) -> None:
    doom(owner, put(owner, "loras/a.safetensors"))
    assert sweep() == 1
    assert (stored(), doomed()) == ([], [])
    assert sweep() == 0


def test_an_object_that_another_row_shows_is_kept(owner: str) -> None:
    key = put(owner, "loras/a.safetensors")
    publish(owner, key)
    doom(owner, key)
    sweep()
    assert (stored(), doomed()) == ([key], [])


def test_an_object_that_a_waiting_job_will_read_stays_until_it_has_ended(owner: str) -> None:
    key = put(owner, "loras/a.safetensors")
    queue_generation(owner, [{"lora": "lora_x", "object_key": key}])
    doom(owner, key)
    sweep()
    assert (stored(), doomed()) == ([key], [key])
    run_next()
    assert sweep() == 0, "it is looked at again later, not at every sweep"
    with transaction() as session:
        session.execute(
            update(DoomedObject).values(look_at=DoomedObject.look_at - retention.LOOK_AGAIN)
        )
    sweep()
    assert (stored(), doomed()) == ([], [])


def test_orphans_are_found_and_what_rows_name_is_not(owner: str) -> None:
    job_id = queue_generation(owner, [])
    shown = put(owner, f"jobs/{job_id}/2/0.png")
    lost = put(owner, f"jobs/{job_id}/1/0.png")
    stray = put(owner, "images/none.png")
    foreign = "base-models/x"
    get_store().put_bytes(foreign, b"bytes", "application/octet-stream")
    with transaction() as session:
        # Its attempts may have stored files that no row names yet.
        assert retention.sweep_orphans(session, get_store(), 0) == [stray]
    run_next()
    with transaction() as session:
        session.add(
            GeneratedImage(
                generation_id=job_id,
                index=0,
                seed=1,
                width=8,
                height=8,
                format="png",
                object_key=shown,
                sha256="0" * 64,
                bytes=5,
            )
        )
    with transaction() as session:
        assert retention.sweep_orphans(session, get_store(), 3600) == []
    with transaction() as session:
        assert set(retention.sweep_orphans(session, get_store(), 0)) == {lost, stray}
    sweep()
    assert stored() == [shown]
    get_store().delete([foreign])


def test_the_state_of_a_training_is_kept_for_itself_and_its_retry(owner: str) -> None:
    key = put(owner, "jobs/trn_gone/3/state/optimizer.safetensors")
    job_id = new_id("trn")
    with transaction() as session:
        jobs.submit(session, job_id=job_id, kind="training", queue="train", account_id=owner)
        session.add(
            Training(
                id=job_id,
                name="x",
                base_model="b",
                preset="style",
                spec={},
                warnings=[],
                state={"step": 1, "files": {"optimizer.safetensors": key}},
            )
        )
    doom(owner, key)
    sweep()
    assert stored() == [key]


def test_nothing_of_an_account_is_removed_while_an_upload_holds_it(owner: str) -> None:
    key = put(owner, "loras/a.safetensors")
    doom(owner, key)
    with transaction() as session:
        retention.hold(session, owner)
        assert sweep() == 0
    assert sweep() == 1


def test_an_upload_that_waited_for_a_removal_stores_its_bytes_again(owner: str) -> None:
    key = put(owner, "loras/a.safetensors")
    doom(owner, key)

    def upload() -> None:
        with transaction() as session:
            retention.hold(session, owner)
            put(owner, "loras/a.safetensors")

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            retention.sweep_doomed(session, get_store())
            uploading = pool.submit(upload)
        uploading.result(timeout=30)
    assert stored() == [key]


def test_states_are_let_go_some_time_after_the_end(owner: str) -> None:
    kept = put(owner, "jobs/trn_a/1/state/0.safetensors")
    old = put(owner, "jobs/trn_b/1/state/0.safetensors")
    for key, ended in ((kept, "1 day"), (old, "15 days")):
        job_id = new_id("trn")
        with transaction() as session:
            jobs.submit(session, job_id=job_id, kind="training", queue="train", account_id=owner)
            session.add(
                Training(
                    id=job_id,
                    name="x",
                    base_model="b",
                    preset="style",
                    spec={},
                    warnings=[],
                    state={"step": 1, "files": {"0.safetensors": key}},
                )
            )
            session.execute(
                update(Job)
                .where(Job.id == job_id)
                .values(status="failed", ended_at=func.now() - text(f"interval '{ended}'"))
            )
    with transaction() as session:
        assert expiry.let_go_of_states(session) == 1
    sweep()
    assert stored() == [kept]


@pytest.fixture
def delayed(monkeypatch: pytest.MonkeyPatch) -> float:
    """What is doomed stays for an hour."""
    hour = 3600.0
    settings = get_settings().model_copy(update={"removal_delay_seconds": hour})
    monkeypatch.setattr(retention, "get_settings", lambda: settings)
    return hour


def later(seconds: float) -> None:
    """Let so much time pass for what is doomed."""
    with transaction() as session:
        session.execute(
            update(DoomedObject).values(look_at=DoomedObject.look_at - timedelta(seconds=seconds))
        )


def test_what_is_doomed_stays_for_the_delay_of_the_setting(owner: str, delayed: float) -> None:
    key = put(owner, "loras/a.safetensors")
    doom(owner, key)
    assert sweep() == 0
    later(delayed - 60)
    assert sweep() == 0
    assert stored() == [key]
    later(60)
    assert sweep() == 1
    assert stored() == []


def test_what_is_doomed_again_waits_anew_but_an_orphan_is_not_put_off(
    owner: str, delayed: float
) -> None:
    key = put(owner, "loras/a.safetensors")
    doom(owner, key)
    later(delayed)
    # A row had it again, and was deleted: a backup of that moment names it.
    doom(owner, key)
    assert sweep() == 0
    later(delayed)
    with transaction() as session:
        retention.sweep_orphans(session, get_store(), older_than_seconds=0)
    assert sweep() == 1

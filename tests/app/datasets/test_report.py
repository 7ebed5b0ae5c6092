"""The dataset report: each finding on images made to cause it, and on no others."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.catalog import load_catalog
from app.database import transaction
from app.datasets.models import Image
from app.datasets.report import Case, Picture, estimated_tokens, findings
from app.settings import get_settings
from app.trainings.arithmetic import BucketPlan, ImageSize, plan_steps
from app.trainings.params import TrainingParams
from app.trainings.presets import PRESETS, resolve
from tests.app.conftest import MakeDataset
from tests.pictures import picture
from worker.runner import run_next

GOOD: dict[str, Any] = {
    "transparent": False,
    "brightness": 0.5,
    "sharpness": 300.0,
    "detail": 1.0,
    "oriented": False,
    "problems": [],
}


def a_picture(number: int, **fields: Any) -> Picture:
    """A picture without fault, unless told."""
    measures = {**GOOD, "dhash": f"{(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835:033x}"[-32:]}
    values: dict[str, Any] = {
        "id": f"img_{number}",
        "filename": f"{number}.png",
        "width": 1024,
        "height": 1024,
        "sha256": f"{number:064x}",
        "repeats": None,
        "caption": f"inkstyle, thing {number}",
        "measures": measures | fields.pop("measures", {}),
    }
    return Picture(**(values | fields))


def found(pictures: list[Picture], count: int = 60) -> dict[str, list[str]]:
    """Codes and images of the findings on pictures among so many good ones."""
    every = [*pictures, *(a_picture(number) for number in range(100, 100 + count))]
    case = Case(every, [(1024, 1024)] * len(every), "style", "inkstyle", 1024)
    return {finding.code: finding.images for finding in findings(case)}


def test_pictures_without_fault_are_not_blamed() -> None:
    assert found([]) == {}


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("too_small", {"width": 700, "height": 1024}),
        ("upscaled", {"measures": {"detail": 0.5}}),
        ("blurred", {"measures": {"sharpness": 12.0}}),
        ("transparent", {"measures": {"transparent": True}}),
        ("exif_oriented", {"measures": {"oriented": True}}),
        ("decode_problem", {"measures": {"problems": ["Truncated File Read"]}}),
        ("caption_missing", {"caption": None}),
        ("caption_long", {"caption": "inkstyle, " + "a red fox, " * 30}),
        ("trigger_missing", {"caption": "an inkstyles thing"}),
    ],
)
def test_each_fault_names_its_picture(code: str, fields: dict[str, Any]) -> None:
    assert found([a_picture(1, **fields)]) == {code: ["img_1"]}


def test_a_large_picture_with_detail_enough_for_the_resolution_is_no_fault() -> None:
    large = a_picture(1, width=4096, height=4096, measures={"detail": 0.25})
    assert found([large]) == {}


def test_captions_that_differ_only_in_spaces_and_case_are_identical() -> None:
    pictures = [
        a_picture(1, caption="inkstyle, a fox"),
        a_picture(2, caption="inkstyle,  a Fox "),
        a_picture(3, caption="inkstyle, an owl"),
    ]
    assert found(pictures) == {"captions_identical": ["img_1", "img_2"]}


def test_near_duplicates_are_grouped_and_others_left_out() -> None:
    base = 0x0F1E2D3C4B5A69788796A5B4C3D2E1F0

    def like(number: int, bits: int, **more: Any) -> Picture:
        return a_picture(number, measures={"dhash": f"{base ^ bits:032x}", **more})

    pictures = [like(1, 0), like(2, 0b111), like(3, 0b111111 << 60, brightness=0.9)]
    assert found(pictures) == {"near_duplicates": ["img_1", "img_2"]}
    # The first and the last are far apart, but linked by the second.
    pictures = [like(1, 0), like(2, 0b11111), like(3, 0b1111111111)]
    assert found(pictures) == {"near_duplicates": ["img_1", "img_2", "img_3"]}


def test_pictures_that_were_not_measured_yet_are_judged_by_size_and_caption() -> None:
    bare = Picture("img_1", "1.png", 100, 100, "0" * 64, None, None, {})
    assert found([bare]) == {"too_small": ["img_1"], "caption_missing": ["img_1"]}


@pytest.mark.parametrize("task", list(PRESETS))
def test_the_number_of_images_is_held_against_the_task(task: Any) -> None:
    preset = PRESETS[task]

    def codes(count: int) -> set[str]:
        pictures = [a_picture(number) for number in range(count)]
        case = Case(pictures, [(1024, 1024)] * count, task, "inkstyle", 1024)
        return {finding.code for finding in findings(case)}

    assert "too_few_images" in codes(preset.images_from - 1)
    assert codes(preset.images_from) == set()
    if preset.images_to is not None:
        assert "too_many_images" in codes(preset.images_to + 1)


@pytest.mark.parametrize(
    ("caption", "least", "most"),
    [
        # Never fewer than the pieces that CLIP's own cut makes, nor many more.
        ("a red fox", 3, 3),
        ("a photo of an astronaut riding a horse on mars", 10, 12),
        ("inkstyle, a fox", 4, 6),
        ("don't, it's 1984!", 9, 13),
        ("", 0, 0),
    ],
)
def test_tokens_are_estimated_nearly(caption: str, least: int, most: int) -> None:
    assert least <= estimated_tokens(caption) <= most


def save(image: PillowImage.Image, format_: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def test_a_report_tells_of_what_was_uploaded(
    client: TestClient,
    make_dataset: MakeDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = get_settings().model_copy(update={"work_dir": tmp_path})
    monkeypatch.setattr("worker.workspace.get_settings", lambda: small)
    dataset_id = make_dataset()
    twin = PillowImage.open(io.BytesIO(picture(1, width=128, height=128)))
    uploads = {
        "a.png": picture(1, width=128, height=128),
        "again.jpg": save(twin.resize((100, 100)), "JPEG"),
        "tall.png": picture(2, width=64, height=128),
        "small.png": picture(3, width=40, height=40),
        "small.txt": b"inkstyle, a small thing",
    }
    files = [("files", (name, data, "")) for name, data in uploads.items()]
    client.post(f"/v1/datasets/{dataset_id}/images", files=files)
    before = client.get(f"/v1/datasets/{dataset_id}/report").json()
    assert (before["images"], before["measured"]) == (4, 0)
    assert run_next("ingest")
    answer = client.get(f"/v1/datasets/{dataset_id}/report")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert client.get(f"/v1/datasets/{dataset_id}").json()["report"] == told
    assert (told["images"], told["measured"], told["resolution"]) == (4, 4, 64)
    names = {
        image["id"]: image["filename"]
        for image in client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    }
    by_code = {f["code"]: {names[i] for i in f["images"]} for f in told["findings"]}
    assert by_code["near_duplicates"] == {"a.png", "again.jpg"}
    assert by_code["too_small"] == {"small.png"}
    assert by_code["caption_missing"] == {"a.png", "again.jpg", "tall.png"}
    assert "too_few_images" in by_code
    assert sum(bucket["images"] for bucket in told["buckets"]) == 4
    assert told["predicted"] == {"seconds": None, "memory_bytes": None, "trainings": 0}
    # An image that is left out is not spoken of.
    [small_id] = [i for i, name in names.items() if name == "small.png"]
    client.patch(f"/v1/datasets/{dataset_id}/images/{small_id}", json={"excluded": True})
    without = client.get(f"/v1/datasets/{dataset_id}/report").json()
    assert without["images"] == 3
    assert "too_small" not in {f["code"] for f in without["findings"]}


def test_buckets_and_steps_are_those_that_a_training_would_make(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset(pictures=6)
    told = client.get(f"/v1/datasets/{dataset_id}/report?preset=character").json()
    training = client.post(
        "/v1/trainings", json={"dataset": dataset_id, "name": "x", "preset": "character"}
    ).json()
    spec = client.get(f"/v1/trainings/{training['id']}/spec").json()
    assert told["steps"]["total"] == spec["total_steps"]
    assert told["steps"]["epochs"] == spec["params"]["epochs"]
    entry = load_catalog(get_settings().catalog_path).base_model("emoji-64")
    assert entry is not None
    params = resolve("character", entry, TrainingParams(), 0, images=6)
    plan = plan_steps(
        [ImageSize(64, 64, None, str(n)) for n in range(6)],
        params,
        BucketPlan.for_base(params, entry.vae_scale_factor),
    )
    [bucket] = told["buckets"]
    assert (bucket["width"], bucket["height"]) == plan.placed[0]


def test_time_and_memory_are_those_of_trainings_like_it(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    from app.jobs.models import Job
    from app.trainings.models import TrainingMetric

    dataset_id = make_dataset(pictures=6)
    job_id = client.post("/v1/trainings", json={"dataset": dataset_id, "name": "x"}).json()["id"]
    with transaction() as session:
        for step, speed in ((1, 8.0), (2, 12.0)):
            session.add(
                TrainingMetric(
                    training_id=job_id,
                    step=step,
                    epoch=0,
                    images_per_second=speed,
                    memory_bytes=step * 1000,
                )
            )
    path = f"/v1/datasets/{dataset_id}/report"
    assert client.get(path).json()["predicted"]["seconds"] is None
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status="succeeded"))
    told = client.get(path).json()
    params = client.get(f"/v1/trainings/{job_id}/spec").json()["params"]
    shown = told["steps"]["total"] * params["batch_size"]
    assert told["predicted"] == {
        "seconds": round(shown / 10, 1),
        "memory_bytes": 2000,
        "trainings": 1,
    }


def test_an_empty_dataset_has_a_report_too(client: TestClient, make_dataset: MakeDataset) -> None:
    told = client.get(f"/v1/datasets/{make_dataset()}/report").json()
    assert (told["images"], told["steps"], told["buckets"]) == (0, None, [])
    assert [finding["code"] for finding in told["findings"]] == ["too_few_images"]


def test_an_unknown_base_model_is_named(client: TestClient, make_dataset: MakeDataset) -> None:
    answer = client.get(f"/v1/datasets/{make_dataset()}/report?base_model=none")
    assert answer.status_code == 422
    assert "'none'" in answer.json()["detail"]


def test_a_report_of_five_thousand_images_is_quick(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    """No timing: as many statements as for one image, which is what could grow."""
    from sqlalchemy import event, insert

    from app.database import get_engine

    dataset_id = make_dataset(pictures=1)
    with transaction() as session:
        [row] = session.scalars(select(Image)).all()
        values = {name: getattr(row, name) for name in Image.__table__.columns.keys()}  # noqa: SIM118
        session.execute(
            insert(Image),
            [
                {
                    **values,
                    "id": f"img_{n}",
                    "sha256": f"{n:064x}",
                    "measures": a_picture(n).measures,
                }
                for n in range(4999)
            ],
        )
    statements: list[str] = []
    listener = lambda *args: statements.append(args[2])  # noqa: E731
    event.listen(get_engine(), "before_cursor_execute", listener)
    try:
        told = client.get(f"/v1/datasets/{dataset_id}/report").json()
    finally:
        event.remove(get_engine(), "before_cursor_execute", listener)
    assert told["images"] == 5000
    assert len(statements) < 10

"""Prompts and uploads that an operator's rules refuse leave nothing behind."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from app.content import rules
from app.content.rules import ContentCheck, ContentCheckInvalid
from app.settings import get_settings
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture


class House(ContentCheck):
    """Refuses shouting, and tall pictures."""

    def prompt(self, text: str) -> str | None:
        return "shouting" if text.isupper() else None

    def upload(self, image: Image.Image) -> str | None:
        return "posters" if image.height > 2 * image.width else None


@pytest.fixture
def ruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give the service rules."""

    def set_rules(**fields: Any) -> None:
        changed = get_settings().model_copy(update=fields)
        monkeypatch.setattr(rules, "get_settings", lambda: changed)
        rules._own_check.cache_clear()

    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "fruit"\nwords = ["apple"]\n')
    set_rules(deny_list=file, content_check=f"{__name__}:House")
    yield set_rules
    rules._own_check.cache_clear()


def tall() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 300)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.usefixtures("ruled")
def test_a_prompt_that_is_refused_makes_nothing(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset(pictures=1)
    training = {"dataset": dataset, "name": "x", "base_model": "emoji-64"}
    red = {"prompt": "a red Apple"}
    for path, body, pointer in (
        ("generations", red, "/prompt"),
        ("generations?dry_run=true", red, "/prompt"),
        ("comparisons", {**red, "axes": [{"name": "seed", "values": [1]}]}, "/prompt"),
        (
            "comparisons",
            {"prompt": "a pear", "axes": [{"name": "prompt", "values": ["a pear", "apple"]}]},
            None,
        ),
        ("trainings", {**training, "sample_prompts": ["a pear", "apple"]}, "/sample_prompts/1"),
    ):
        answer = client.post(f"/v1/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "prompt_refused"), answer.text
        assert "'fruit'" in answer.json()["detail"]
        if pointer is not None:
            [problem] = answer.json()["errors"]
            assert (problem["pointer"], problem["code"]) == (pointer, "prompt_refused")
    shouted = client.post("/v1/generations", json={"prompt": "A PEAR"})
    assert "'shouting'" in shouted.json()["detail"]
    openai = client.post("/v1/images/generations", json={"prompt": "an apple"})
    assert (openai.status_code, openai.json()["error"]["code"]) == (400, "prompt_refused")
    kinds = {job["object"] for job in client.get("/v1/jobs").json()["data"]}
    assert kinds <= {"ingest"}
    # What is not wanted in a picture may be named.
    allowed = {"prompt": "a pear", "negative_prompt": "apple"}
    assert client.post("/v1/generations", json=allowed).status_code == 201


@pytest.mark.usefixtures("ruled")
def test_a_picture_that_is_refused_is_rejected_with_its_reason(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset()
    before = set(get_store().list_keys(""))
    path = f"/v1/datasets/{dataset}/images"
    alone = client.post(path, files=[("files", ("a.png", tall(), "image/png"))])
    assert alone.status_code == 422
    assert alone.json()["errors"][0]["code"] == "image_refused"
    assert set(get_store().list_keys("")) == before
    packed = archive({"good.png": picture(1), "poster.png": tall()})
    answer = client.post(path, files=[("files", ("set.zip", packed, "application/zip"))])
    told = {row["filename"]: row for row in answer.json()["data"]}
    refused = next(row for name, row in told.items() if name.endswith("poster.png"))
    assert refused["status"] == "rejected"
    assert "'posters'" in str(refused)
    assert client.get(f"/v1/datasets/{dataset}").json()["image_count"] == 1
    sent = client.post("/v1/inputs", files={"file": ("a.png", tall(), "image/png")})
    assert sent.status_code == 422
    assert sent.json()["errors"][0]["code"] == "image_refused"


@pytest.mark.parametrize(
    "named", ["no_such_module:Rules", "tests.pictures:nothing", "tests.pictures", "pathlib:Path"]
)
def test_a_check_that_cannot_be_used_is_told_at_the_start(
    clean: object,  # noqa: ARG001 (the settings)
    ruled: Callable[..., None],
    named: str,
) -> None:
    ruled(content_check=named)
    with pytest.raises(ContentCheckInvalid, match="LORAWRIGHT_CONTENT_CHECK is"):
        rules.load()


def test_a_check_that_fails_lets_nothing_through(
    client: TestClient, ruled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ruled(content_check=f"{__name__}:House")

    def fails(_self: House, _text: str) -> str | None:
        raise RuntimeError("the check is broken")

    monkeypatch.setattr(House, "prompt", fails)
    assert client.post("/v1/generations", json={"prompt": "a pear"}).status_code == 500
    assert client.get("/v1/jobs").json()["data"] == []

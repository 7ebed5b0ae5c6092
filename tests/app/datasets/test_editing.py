"""Datasets and their captions edited: one by one, and many at once."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.settings import get_settings
from tests.app.conftest import MakeDataset
from tests.pictures import picture

CAPTIONS = {"a": "a red fox", "b": "a red owl, red eyes", "c": "a blue bird", "d": None}


@pytest.fixture
def dataset_id(client: TestClient, make_dataset: MakeDataset) -> str:
    """Four images; three have captions."""
    found = make_dataset()
    files = []
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        files.append(("files", (f"{name}.png", picture(number), "image/png")))
        if caption is not None:
            files.append(("files", (f"{name}.txt", caption.encode(), "text/plain")))
    assert client.post(f"/v1/datasets/{found}/images", files=files).status_code == 201
    return found


def captions(client: TestClient, dataset_id: str) -> dict[str, Any]:
    found = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    return {image["filename"][0]: image["caption"] for image in found}


def edit(client: TestClient, dataset_id: str, **request: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/datasets/{dataset_id}/captions", json=request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_words_are_replaced_wherever_they_stand(client: TestClient, dataset_id: str) -> None:
    answer = edit(client, dataset_id, find="red", replace="green")
    counted = {name: answer[name] for name in ("changed", "unchanged", "without_caption")}
    assert counted == {"changed": 2, "unchanged": 1, "without_caption": 1}
    assert captions(client, dataset_id) == {
        **CAPTIONS,
        "a": "a green fox",
        "b": "a green owl, green eyes",
    }


def test_a_prefix_and_a_suffix_are_put_once(client: TestClient, dataset_id: str) -> None:
    request = {"prefix": "ink, ", "suffix": ", on white"}
    assert edit(client, dataset_id, **request)["changed"] == 3
    assert edit(client, dataset_id, **request)["changed"] == 0
    assert captions(client, dataset_id)["c"] == "ink, a blue bird, on white"
    assert captions(client, dataset_id)["d"] is None


def test_a_dry_run_tells_and_changes_nothing(client: TestClient, dataset_id: str) -> None:
    answer = edit(client, dataset_id, find="a blue bird", replace="", dry_run=True)
    [change] = answer["changes"]
    assert (change["before"], change["after"]) == ("a blue bird", None)
    assert (answer["changed"], answer["without_caption"]) == (1, 1)
    assert captions(client, dataset_id) == CAPTIONS


def test_a_caption_of_which_nothing_is_left_is_missing(client: TestClient, dataset_id: str) -> None:
    answer = edit(client, dataset_id, find="a blue bird")
    assert (answer["changed"], answer["unchanged"], answer["without_caption"]) == (1, 2, 1)
    assert captions(client, dataset_id)["c"] is None
    assert client.get(f"/v1/datasets/{dataset_id}").json()["captioned_count"] == 2


def test_only_the_images_that_are_named_change(client: TestClient, dataset_id: str) -> None:
    found = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    [one] = [image["id"] for image in found if image["filename"] == "a.png"]
    assert edit(client, dataset_id, prefix="x ", images=[one])["changed"] == 1
    request = {"prefix": "y ", "images": [one, "img_none"]}
    answer = client.post(f"/v1/datasets/{dataset_id}/captions", json=request)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert captions(client, dataset_id) == {**CAPTIONS, "a": "x a red fox"}


def test_what_would_be_too_long_changes_nothing(
    client: TestClient, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = get_settings().model_copy(update={"max_caption_chars": 16})
    monkeypatch.setattr("app.datasets.caption_edit.get_settings", lambda: small)
    answer = client.post(f"/v1/datasets/{dataset_id}/captions", json={"prefix": "12345 "})
    assert answer.status_code == 422
    assert "LORAWRIGHT_MAX_CAPTION_CHARS) is 16" in answer.json()["detail"]
    assert captions(client, dataset_id) == CAPTIONS


def test_an_edit_without_anything_to_do_is_refused(client: TestClient, dataset_id: str) -> None:
    assert client.post(f"/v1/datasets/{dataset_id}/captions", json={}).status_code == 422


def test_edited_captions_are_hand_captions(client: TestClient, dataset_id: str) -> None:
    from sqlalchemy import update

    from app.database import transaction
    from app.datasets.models import Image

    with transaction() as session:
        session.execute(update(Image).values(caption_source="auto"))
    edit(client, dataset_id, find="blue", replace="grey")
    found = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert {image["filename"][0]: image["caption_source"] for image in found}["c"] == "hand"


def test_a_dataset_is_renamed_and_its_captions_stay(client: TestClient, dataset_id: str) -> None:
    path = f"/v1/datasets/{dataset_id}"
    changes = {"name": "new", "trigger_word": "brush", "caption_template": "{caption} {trigger}"}
    answer = client.patch(path, json=changes)
    assert answer.status_code == 200, answer.text
    told = client.get(path).json()
    assert {name: told[name] for name in changes} == changes
    assert captions(client, dataset_id) == CAPTIONS
    assert client.patch(path, json={"name": "other"}).json()["trigger_word"] == "brush"


def test_a_dataset_keeps_what_it_has_when_a_change_makes_no_sense(
    client: TestClient, dataset_id: str, subtests: pytest.Subtests
) -> None:
    path = f"/v1/datasets/{dataset_id}"
    before = client.get(path).json()["name"]
    for changes in (
        *({"name": ""}, {"name": None}, {"trigger_word": "a, b"}),
        *({"caption_template": "{x}"}, {"z": 1}),
    ):
        with subtests.test(str(changes)):
            assert client.patch(path, json=changes).status_code == 422
            assert client.get(path).json()["name"] == before


def test_one_image_is_read_by_its_id(client: TestClient, dataset_id: str) -> None:
    [first, *_] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    path = f"/v1/datasets/{dataset_id}/images/{first['id']}"
    assert client.get(path).json()["sha256"] == first["sha256"]
    assert client.get(f"/v1/datasets/{dataset_id}/images/img_none").status_code == 404


def test_another_account_s_dataset_is_not_there(
    client: TestClient, other_client: TestClient, dataset_id: str, subtests: pytest.Subtests
) -> None:
    [image, *_] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    for method, ending, body in (
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("GET", "/export", None),
        ("GET", "/report", None),
        ("POST", "/captions", {"prefix": "x"}),
        ("GET", f"/images/{image['id']}", None),
        ("DELETE", f"/images/{image['id']}", None),
    ):
        with subtests.test(f"{method} {ending}"):
            path = f"/v1/datasets/{dataset_id}{ending}"
            assert other_client.request(method, path, json=body).status_code == 404
    assert captions(client, dataset_id) == CAPTIONS

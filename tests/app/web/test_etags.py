"""What has not changed is not sent again, and what has is not overwritten unseen."""

import threading

import pytest

from app.storage import get_store
from tests.app.generations.test_submission import make_lora
from tests.app.web.test_problems import check_problem


@pytest.fixture
def image(client, make_dataset) -> str:
    """The path of a dataset's image, whose answer has presigned addresses."""
    dataset = make_dataset(pictures=1)
    found = client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"]
    return f"/v1/datasets/{dataset}/images/{found}"


@pytest.fixture
def other_signatures(monkeypatch: pytest.MonkeyPatch):
    """Addresses signed for another time, as they are a second later."""

    def sign_otherwise():
        store = get_store()
        signed = store.presign_get
        monkeypatch.setattr(
            store,
            "presign_get",
            lambda *args: signed(*args).replace("X-Amz-Signature=", "X-Amz-Signature=0"),
        )

    return sign_otherwise


def test_an_unchanged_object_is_a_304_although_its_addresses_are_signed_anew(
    client, image, other_signatures
):
    first = client.get(image)
    assert first.headers["etag"].startswith('W/"')
    other_signatures()
    assert client.get(image).json()["url"] != first.json()["url"]
    again = client.get(image, headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_a_changed_object_and_its_list_are_sent_again(client, image):
    listed = image.rpartition("/")[0]
    for path in (image, listed):
        tag = client.get(path).headers["etag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        client.patch(image, json={"caption": f"after {path}"})
        answer = client.get(path, headers={"If-None-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["etag"] != tag


def test_errors_and_streams_have_no_tag(client, make_dataset):
    make_dataset(pictures=1)
    assert "etag" not in client.get("/v1/datasets/ds_none").headers
    job = client.get("/v1/jobs").json()["data"][0]["id"]
    client.post(f"/v1/captionings/{job}/cancel")
    assert "etag" in client.get(f"/v1/jobs/{job}").headers


def check_no_lost_update(client, path: str, mine: dict, theirs: dict):
    tag = client.get(path).headers["etag"]
    changed = client.patch(path, json=theirs)
    assert changed.status_code == 200, changed.text
    check_problem(
        client.patch(path, json=mine, headers={"If-Match": tag}), 412, "precondition_failed"
    )
    now = client.get(path)
    assert now.headers["etag"] == changed.headers["etag"], "a PATCH tells the tag for the next"
    assert theirs.items() <= now.json().items()
    answer = client.patch(path, json=mine, headers={"If-Match": changed.headers["etag"]})
    assert answer.status_code == 200, answer.text
    assert mine.items() <= client.get(path).json().items()


def test_a_caption_is_not_overwritten_unseen(client, image):
    check_no_lost_update(client, image, {"caption": "a fox"}, {"caption": "a red fox"})


def test_a_dataset_is_not_overwritten_unseen(client, make_dataset):
    path = f"/v1/datasets/{make_dataset(pictures=1)}"
    check_no_lost_update(client, path, {"name": "mine"}, {"name": "theirs"})


def test_a_lora_is_not_overwritten_unseen(client):
    path = f"/v1/loras/{make_lora()}"
    check_no_lost_update(client, path, {"default_weight": 0.5}, {"name": "theirs"})


def test_of_many_edits_that_know_the_same_state_one_is_made(client, image):
    tag = client.get(image).headers["etag"]
    statuses: list[int] = []

    def edit(number: int) -> None:
        body = {"caption": f"by {number}"}
        statuses.append(client.patch(image, json=body, headers={"If-Match": tag}).status_code)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 7


def test_without_if_match_or_with_a_star_the_last_one_wins(client, image):
    assert client.patch(image, json={"caption": "one"}).status_code == 200
    answer = client.patch(image, json={"caption": "two"}, headers={"If-Match": "*"})
    assert answer.json()["caption"] == "two"

"""An export holds what the dataset has, and comes back as it was."""

import io
import tomllib
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from starlette.testclient import TestClient

from app.database import transaction
from app.datasets import service
from app.datasets.export import plan_export, stream
from app.datasets.models import Dataset
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture


def upload(client: TestClient, dataset_id: str, members: dict[str, bytes]) -> None:
    files = [("files", ("set.zip", archive(members), "application/zip"))]
    answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
    assert answer.status_code == 201, answer.text


def export(client: TestClient, dataset_id: str) -> zipfile.ZipFile:
    answer = client.get(f"/v1/datasets/{dataset_id}/export")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(answer.content))


def contents(client: TestClient, dataset_id: str) -> list[tuple[Any, ...]]:
    found = client.get(f"/v1/datasets/{dataset_id}/images?limit=100").json()["data"]
    return sorted(
        (image["sha256"], image["caption"], image["repeats"], image["filename"]) for image in found
    )


def test_an_export_comes_back_as_the_same_dataset(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    members = {
        "10_fox/fox.png": picture(1),
        "10_fox/fox.txt": "a füchslein".encode(),
        "owl.jpg": picture(2, format_="JPEG"),
        "owl.txt": b"an owl",
    }
    upload(client, dataset_id, members)
    with export(client, dataset_id) as archived:
        assert archived.testzip() is None
        assert archived.namelist() == [
            "dataset.toml",
            *("10_images/fox.png", "10_images/fox.txt", "images/owl.jpg", "images/owl.txt"),
        ]
        toml = tomllib.loads(archived.read("dataset.toml").decode())
        subsets = toml["datasets"][0]["subsets"]
        assert [subset["image_dir"] for subset in subsets] == ["images", "10_images"]
        assert subsets[1]["num_repeats"] == 10
        data = archived.fp.getvalue()  # type: ignore[union-attr]
    again = make_dataset()
    files = [("files", ("again.zip", data, "application/zip"))]
    answer = client.post(f"/v1/datasets/{again}/images", files=files).json()
    assert answer["rejected"] == 0
    assert contents(client, again) == contents(client, dataset_id)


def test_excluded_images_stay_behind_and_the_silent_are_told_of(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset(pictures=2)
    [one, _] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    client.patch(f"/v1/datasets/{dataset_id}/images/{one['id']}", json={"excluded": True})
    with export(client, dataset_id) as archived:
        assert archived.namelist() == ["dataset.toml", "images/0.png"]
        toml = tomllib.loads(archived.read("dataset.toml").decode())
    [subset] = toml["datasets"][0]["subsets"]
    assert subset["class_tokens"] == "inkstyle, in the style of inkstyle"


def test_pictures_of_one_name_keep_their_captions(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    for number, name in enumerate(("a/x.png", "b/X.jpg", "c/x.webp")):
        format_ = {"g": "PNG", "p": "WEBP"}.get(name[-1], "JPEG")
        if name.endswith(".jpg"):
            format_ = "JPEG"
        stem = name.rsplit(".", 1)[0]
        data = picture(number, format_=format_)
        upload(client, dataset_id, {name: data, f"{stem}.txt": f"caption {number}".encode()})
    with export(client, dataset_id) as archived:
        texts = {
            archived.read(name).decode().strip()
            for name in archived.namelist()
            if name.endswith(".txt")
        }
        assert texts == {"caption 0", "caption 1", "caption 2"}
        names = [name.lower() for name in archived.namelist()]
    assert len(set(names)) == len(names) == 7


@pytest.mark.parametrize("name", ["..png", "con:a?.png", " .png", "a" * 250 + ".png"])
def test_names_in_an_export_suit_every_file_system(make_dataset: MakeDataset, name: str) -> None:
    dataset_id = make_dataset(pictures=1)
    with transaction() as session:
        dataset = session.get_one(Dataset, dataset_id)
        [image] = service.list_images(session, dataset_id, limit=1, after=None)
        image.filename = name
        session.flush()
        [entry] = plan_export(session, dataset).entries
    folder, _, last = entry.path.partition("/")
    assert folder == "images"
    assert last
    assert not last.startswith(".")
    assert len(last) <= 120
    assert not set(last) & set('/\\:*?"<>|')


def test_an_export_needs_no_memory_for_all_its_pictures(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 255, (1200, 1200, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        PillowImage.fromarray(pixels).save(buffer, "BMP")
        files = [("files", (f"{number}.bmp", buffer.getvalue(), "image/bmp"))]
        client.post(f"/v1/datasets/{dataset_id}/images", files=files)
    with transaction() as session:
        planned = plan_export(session, session.get_one(Dataset, dataset_id))
    assert sum(entry.bytes for entry in planned.entries) > 25_000_000
    tracemalloc.start()
    try:
        sent = sum(len(piece) for piece in stream(get_store(), planned))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent > 25_000_000
    assert peak < 12_000_000

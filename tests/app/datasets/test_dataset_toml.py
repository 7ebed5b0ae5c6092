"""A dataset.toml of sd-scripts: what it says of pictures applies, the rest is named."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.datasets.intake.dataset_toml import DatasetFileInvalid, read_dataset_file
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture

TOML = b"""
[general]
caption_extension = ".cap"
shuffle_caption = true
resolution = 1024

[[datasets]]
batch_size = 4

  [[datasets.subsets]]
  image_dir = '/home/me/sets/fox'
  num_repeats = 7
  class_tokens = "inkfox"

  [[datasets.subsets]]
  image_dir = 'C:\\sets\\owl'
  num_repeats = 3
  is_reg = false
"""


def images_of(client: TestClient, dataset_id: str) -> dict[str, dict[str, Any]]:
    found = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    return {image["filename"]: image for image in found}


def test_repeats_class_tokens_and_the_captions_suffix_apply_to_their_folders(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    members = {
        "fox/a.png": picture(1),
        "fox/a.cap": b"a red fox",
        "fox/a.txt": b"not this one",
        "fox/b.png": picture(2),
        "5_owl/ignored.txt": b"",
        "owl/c.png": picture(3),
        "other/d.png": picture(4),
        "dataset.toml": TOML,
    }
    files = [("files", ("set.zip", archive(members), "application/zip"))]
    answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
    assert answer.status_code == 201, answer.text
    images = images_of(client, dataset_id)
    assert (images["a.png"]["caption"], images["a.png"]["repeats"]) == ("a red fox", 7)
    assert (images["b.png"]["caption"], images["b.png"]["repeats"]) == ("inkfox", 7)
    assert (images["c.png"]["caption"], images["c.png"]["repeats"]) == (None, 3)
    assert (images["d.png"]["caption"], images["d.png"]["repeats"]) == (None, None)
    [toml] = [i for i in answer.json()["data"] if i["filename"] == "set.zip/dataset.toml"]
    assert toml["status"] == "accepted"
    assert [said.split(":")[0] for said in toml["not_honoured"]] == [
        *("general.shuffle_caption", "general.resolution", "datasets.batch_size"),
        "datasets.subsets.is_reg",
    ]
    assert "`resolution`" in toml["not_honoured"][1]
    assert "prior_preservation" in toml["not_honoured"][3]


def test_a_single_subset_is_of_every_folder_and_the_nearest_file_counts(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    single = b"[[datasets]]\n[[datasets.subsets]]\nimage_dir='x'\nnum_repeats=4\n"
    members = {
        "10_a/a.png": picture(1),
        "b/b.png": picture(2),
        "b/dataset.toml": b"[general]\nnum_repeats = 9\n",
        "dataset.toml": single,
    }
    files = [("files", ("set.zip", archive(members), "application/zip"))]
    client.post(f"/v1/datasets/{dataset_id}/images", files=files)
    found = {name: image["repeats"] for name, image in images_of(client, dataset_id).items()}
    assert found == {"a.png": 4, "b.png": 9}


SENSELESS = {
    b"not toml at all": "not TOML",
    b"\xff\xfe": "not TOML",
    b"a = " + b"[" * 5000: "not TOML",
    b"[general]\nnum_repeats = 0": "1 to 1000",
    b"[general]\nnum_repeats = true": "num_repeats is True",
    b"[general]\nclass_tokens = 3": "class_tokens is 3",
    b"general = 3": "general must be a table",
    b"datasets = 3": "[[datasets]]",
    b"[[datasets]]\nsubsets = 3": "[[datasets.subsets]]",
}


def test_a_file_that_makes_no_sense_is_refused_with_its_reason(subtests: pytest.Subtests) -> None:
    for data, fact in SENSELESS.items():
        with subtests.test(fact), pytest.raises(DatasetFileInvalid) as refused:
            read_dataset_file(data)
        assert fact in str(refused.value)


def test_a_senseless_file_beside_pictures_is_named_and_they_are_kept(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    files = [
        ("files", ("dataset.toml", b"datasets = 3", "text/plain")),
        ("files", ("a.png", picture(1), "image/png")),
    ]
    answer = client.post(f"/v1/datasets/{make_dataset()}/images", files=files).json()
    refused = [item for item in answer["data"] if item["status"] == "rejected"]
    assert [item["code"] for item in refused] == ["dataset_toml_invalid"]
    assert "[[datasets]]" in refused[0]["reason"]
    assert answer["accepted"] == 1


def test_folders_are_recognised_by_their_ends() -> None:
    found = read_dataset_file(
        b"[[datasets]]\n"
        b"[[datasets.subsets]]\nimage_dir='/a/x/red'\nnum_repeats=1\n"
        b"[[datasets.subsets]]\nimage_dir='/a/y/red'\nnum_repeats=2\n"
        b"[[datasets.subsets]]\nimage_dir='./blue/'\nnum_repeats=3\n"
    )

    def repeats(folder: str) -> int | None:
        subset = found.subset_for(PurePosixPath(folder))
        return None if subset is None else subset.num_repeats

    assert repeats("set.zip/y/red") == 2
    assert repeats("set.zip/x/red") == 1
    assert repeats("set.zip/blue") == 3
    assert repeats("set.zip/green") is None

"""From a catalog's entry to a base model that draws."""

import hashlib

import numpy as np
import pytest

from app.catalog import load_catalog
from app.settings import REPOSITORY, get_settings
from app.storage import get_store
from tests.single_file_checkpoint import write_single_file
from worker.handlers.models import base_model_entry, base_model_spec
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.inference.generate import generate
from worker.ml.inference.pipelines import open_pipeline
from worker.ml.inference.spec import BaseModelSpec, GenerationSpec

EMOJI = REPOSITORY / "assets" / "emoji-64"
CATALOG = f"""
captioners = []

[[base_models]]
id = "emoji-64"
title = "Emoji"
source = "{EMOJI}"
source_kind = "folder"
architecture = "emoji-64"
native_resolution = 64
vae_scale_factor = 4
"""


@pytest.fixture
def catalog(servers, tmp_path, monkeypatch):  # noqa: ARG001 (order)
    """Write further entries to a catalog that the settings name."""
    path = tmp_path / "catalog.toml"
    monkeypatch.setenv("LORAWRIGHT_CATALOG_PATH", str(path))
    monkeypatch.setenv("LORAWRIGHT_WORK_DIR", str(tmp_path / "work"))
    get_settings.cache_clear()
    load_catalog.cache_clear()
    yield lambda entries: path.write_text(CATALOG + entries)
    monkeypatch.undo()
    get_settings.cache_clear()
    load_catalog.cache_clear()


def drawn(base_model: BaseModelSpec) -> np.ndarray:
    handle = open_pipeline(base_model, choose_policy("cpu"))
    spec = GenerationSpec(
        prompt="a red apple", width=64, height=64, steps=4, seeds=(1,), base_model=base_model
    )
    return np.asarray(generate(handle, spec, lambda *_: None, lambda: False).images[0].image)


def test_a_file_in_the_bucket_and_one_on_disk_draw_as_the_folder_they_were_made_of(
    catalog, tmp_path
):
    base = load_base_model(str(EMOJI), None, choose_policy("cpu"))
    path = write_single_file(base, tmp_path / "one.safetensors")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    get_store().put_file(f"base-models/{sha256}.safetensors", path, "application/octet-stream")
    catalog(f"""
[[base_models]]
id = "in-the-bucket"
title = "One file in the bucket"
source = "base-models/{sha256}.safetensors"
source_kind = "s3"
sha256 = "{sha256}"
bytes = {len(data)}
like = "emoji-64"

[[base_models]]
id = "on-disk"
title = "One file beside the catalog"
source = "one.safetensors"
source_kind = "file"
like = "emoji-64"
vae = {{ source = "{EMOJI}/vae", source_kind = "folder" }}
""")
    folder, bucket, disk = (
        base_model_spec(base_model_entry(name)) for name in ("emoji-64", "in-the-bucket", "on-disk")
    )
    assert bucket.location.startswith(str(tmp_path / "work"))
    assert bucket.vae_scale_factor == 4
    assert disk.vae == f"{EMOJI}/vae"
    path.rename(tmp_path / "elsewhere.safetensors")
    expected = drawn(folder)
    assert np.array_equal(drawn(bucket), expected)
    (tmp_path / "elsewhere.safetensors").rename(path)
    assert np.array_equal(drawn(disk), expected)

"""A base model is known from the catalog, or from its own files."""

import json
import shutil
from pathlib import Path

import pytest

from app.catalog import load_catalog
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.base_facts import base_model_entry

ASSETS = Path(__file__).parents[5] / "assets"
CATALOG = ASSETS / "catalog.toml"
CONFIGS = ("model_index.json", "vae/config.json", "unet/config.json")


def _entry(wanted, revision=None):
    return base_model_entry(str(wanted), revision, load_catalog(CATALOG), CATALOG)


@pytest.fixture
def elsewhere(tmp_path):
    """The emoji base's configuration, in a folder that no catalog knows."""
    for name in CONFIGS:
        path = tmp_path / "My Base" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ASSETS / "emoji-64" / name, path)
    return tmp_path / "My Base"


def _change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("emoji-64", "emoji-64"),
        (ASSETS / "emoji-64", "emoji-64"),
        (ASSETS / ".." / "assets" / "emoji-64", "emoji-64"),
        ("sdxl-1.0", "sdxl-1.0"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl-1.0"),
    ],
)
def test_what_the_catalog_lists_is_taken_from_there(wanted, found):
    assert _entry(wanted) == load_catalog(CATALOG).base_model(found)


def test_another_folder_says_itself_what_it_is(elsewhere):
    listed, found = _entry("emoji-64"), _entry(elsewhere)
    assert found.native_resolution == listed.native_resolution == 64
    assert found.vae_scale_factor == listed.vae_scale_factor == 4
    assert found.location(CATALOG) == str(elsewhere)
    assert found.id == "my-base"


def test_only_sdxls_own_shape_is_called_sdxl(elsewhere):
    other = _entry(elsewhere).architecture
    assert other.startswith("unet-")
    shape = {
        "cross_attention_dim": 2048,
        "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "sample_size": 128,
    }
    _change(elsewhere / "unet" / "config.json", **shape)
    _change(elsewhere / "vae" / "config.json", block_out_channels=[128, 256, 512, 512])
    found = _entry(elsewhere)
    assert (found.architecture, found.native_resolution, found.vae_scale_factor) == (
        "sdxl",
        1024,
        8,
    )
    _change(elsewhere / "unet" / "config.json", transformer_layers_per_block=[0, 2, 4])
    assert _entry(elsewhere).architecture not in ("sdxl", other)


def test_a_folder_of_another_kind_or_without_its_files_is_named(elsewhere, tmp_path):
    (elsewhere / "vae" / "config.json").write_text("{}")
    with pytest.raises(SpecInvalid, match="does not say what it is: 'block_out_channels'"):
        _entry(elsewhere)
    _change(elsewhere / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(SpecInvalid, match="holds a FluxPipeline, not a StableDiffusionXLPipeline"):
        _entry(elsewhere)
    with pytest.raises(SpecInvalid, match=r"lacks model_index\.json"):
        _entry(tmp_path)


def test_what_is_neither_is_told_what_there_is():
    with pytest.raises(SpecInvalid, match=r"none of the catalog's: sdxl-1\.0, emoji-64"):
        _entry("emoji")
    with pytest.raises(SpecInvalid, match="--base-revision is for hub ids"):
        _entry(ASSETS / "emoji-64", "main")

"""The lists of each base model's modules are those of its configuration, and sd-scripts' names."""

import json
from pathlib import Path

import pytest

from app.lora_format.architectures import FOLDER, architectures
from app.settings import REPOSITORY

REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "kohya_sdxl_modules.json").read_text())


def test_the_files_are_what_the_tool_writes() -> None:
    from tools.architectures import documents

    fresh = documents()
    assert set(fresh) == set(architectures())
    for name, text in fresh.items():
        same = (FOLDER / f"{name}.json").read_text() == text
        assert same, f"{name} is out of date: run `python -m tools.architectures`"


@pytest.mark.parametrize("part", ["unet", "unet_conv", "text_encoders"])
def test_every_module_that_sd_scripts_adapts_on_sdxl_is_found(part: str) -> None:
    sdxl = architectures()["sdxl"]
    for key, down, up in REFERENCE[part]:
        path = sdxl.index.find(key)
        assert path is not None, key
        assert sdxl.weights[path] == (up[0], *down[1:]), key


def test_every_base_of_the_catalog_is_known() -> None:
    from app.catalog import load_catalog

    catalog = load_catalog(REPOSITORY / "assets" / "catalog.toml")
    assert {entry.architecture for entry in catalog.base_models} <= set(architectures())
    sdxl = architectures()["sdxl"]
    assert (sdxl.text_width, sdxl.token_widths) == (
        2048,
        {"text_encoder": 768, "text_encoder_2": 1280},
    )

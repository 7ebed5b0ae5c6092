"""The catalog: what an entry may say, and what it is told when it says something else."""

from pathlib import Path

import pytest

from app.catalog import Catalog, load_catalog

HEAD = """
captioners = []

[[base_models]]
id = "sdxl"
title = "SDXL"
source = "owner/sdxl"
source_kind = "hub"
revision = "abc"
architecture = "sdxl"
native_resolution = 1024
max_side_px = 1536
[base_models.generation]
steps = 25
scheduler = "euler_a"
[base_models.training]
rank = 16
epochs = 5

[[base_models]]
id = "ink"
title = "Ink XL"
"""
FILE = """
source = "ink.safetensors"
source_kind = "file"
like = "sdxl"
"""
S3 = f"""
source = "base-models/ink.safetensors"
source_kind = "s3"
like = "sdxl"
sha256 = "{"0" * 64}"
bytes = 7000000000
"""


@pytest.fixture
def read(tmp_path: Path):
    def read(entry: str) -> Catalog:
        path = tmp_path / "catalog.toml"
        path.write_text(HEAD + entry)
        load_catalog.cache_clear()
        return load_catalog(path)

    yield read
    load_catalog.cache_clear()


def test_a_file_is_like_the_entry_it_names_where_it_says_nothing_else(read):
    told = "[base_models.generation]\nsteps = 12\n[base_models.training]\nrank = 8\n"
    entry = read(FILE + told).base_model("ink")
    assert entry.architecture == "sdxl"
    assert entry.native_resolution == 1024
    assert entry.max_side_px == 1536
    assert entry.generation.steps == 12
    assert entry.generation.scheduler == "euler_a"
    assert entry.training == {"rank": 8, "epochs": 5}


def test_a_file_lies_beside_the_catalog_and_is_configured_as_the_other(read, tmp_path):
    catalog = read(FILE)
    entry = catalog.base_model("ink")
    path = tmp_path / "catalog.toml"
    assert entry.location(path) == str(tmp_path / "ink.safetensors")
    assert catalog.variant(entry, path) == {"config": "owner/sdxl", "config_revision": "abc"}


def test_an_entry_says_what_is_otherwise_in_a_generations_and_a_trainings_words(read, tmp_path):
    from worker.ml.inference.spec import BaseModelSpec
    from worker.ml.training.spec import BaseModelSpec as TrainingBaseModelSpec

    catalog = read(
        S3 + 'prediction_type = "v_prediction"\nzero_terminal_snr = true\n'
        '[base_models.vae]\nsource = "vae"\nsource_kind = "folder"\nhalf_safe = true\n'
    )
    path = tmp_path / "catalog.toml"
    variant = catalog.variant(catalog.base_model("ink"), path)
    assert variant == {
        "config": "owner/sdxl",
        "config_revision": "abc",
        "vae": str(tmp_path / "vae"),
        "vae_half_safe": True,
        "prediction_type": "v_prediction",
        "zero_terminal_snr": True,
    }
    place = {"id": "ink", "location": "x", "architecture": "sdxl"}
    assert BaseModelSpec(**place, **variant).variant == (
        TrainingBaseModelSpec(**place, native_resolution=1024, **variant).variant
    )
    assert catalog.variant(catalog.base_model("sdxl"), path) == {}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (FILE.replace('"sdxl"', '"sd15"'), "ink is like sd15, which is none of sdxl"),
        (FILE.replace('like = "sdxl"', ""), "ink is a single file; it needs like"),
        (FILE.replace('"sdxl"', '"ink"'), "ink is like ink, which is no whole pipeline"),
        (FILE.replace(".safetensors", ".ckpt"), "only .safetensors files are read"),
        (FILE + 'revision = "abc"', "revision is for hub ids"),
        (FILE + f'sha256 = "{"0" * 64}"', "sha256 and bytes belong to s3 sources"),
        (S3.replace("sha256", "#"), "an s3 source needs its sha256"),
        (S3.replace("bytes =", "#"), "an s3 source needs its size in bytes"),
        (S3.replace("0" * 64, "abc"), "64 hex digits"),
        (FILE + '[base_models.vae]\nsource = "vae"', "source and source_kind go together"),
        (FILE + 'prediction_type = "sample"', "'epsilon' or 'v_prediction'"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_by_what_is_wrong(read, entry, words):
    with pytest.raises(ValueError, match=words):
        read(entry)


def test_an_id_stands_once(read):
    with pytest.raises(ValueError, match="sdxl stands more than once"):
        read(
            'source = "x"\nsource_kind = "folder"\narchitecture = "x"\nnative_resolution = 64\n'
            '[[base_models]]\nid = "sdxl"\ntitle = "x"\nsource = "y"\nsource_kind = "folder"\n'
            'architecture = "x"\nnative_resolution = 64\n'
        )


def test_a_catalog_that_is_wrong_stops_the_api_at_its_start(tmp_path, monkeypatch):
    from app.main import create_app
    from app.settings import get_settings

    path = tmp_path / "catalog.toml"
    path.write_text(HEAD + FILE.replace('"sdxl"', '"sd15"'))
    monkeypatch.setenv("LORAWRIGHT_CATALOG_PATH", str(path))
    get_settings.cache_clear()
    try:
        with pytest.raises(ValueError, match="ink is like sd15"):
            create_app()
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_what_is_shipped_draws_by_default_with_a_scheduler_that_can():
    from app.generations.schedulers import why_not
    from app.settings import REPOSITORY

    for entry in load_catalog(REPOSITORY / "assets" / "catalog.toml").base_models:
        pure_noise = entry.zero_terminal_snr or False
        told = why_not(
            entry.generation.scheduler, steps=entry.generation.steps, pure_noise=pure_noise
        )
        assert told is None, entry.id

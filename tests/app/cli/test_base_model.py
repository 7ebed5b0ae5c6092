"""`lorawright base-model add` brings a checkpoint to the bucket and says what to paste."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.catalog import Catalog
from app.cli.embedded import EmbeddedServers
from app.settings import REPOSITORY
from app.storage import get_store

ASSETS = REPOSITORY / "assets" / "catalog.toml"
UNET = "model.diffusion_model"
NAMES = (
    f"{UNET}.label_emb.0.0.weight",
    f"{UNET}.out.2.bias",
    "first_stage_model.decoder.conv_in.bias",
    "v_pred",
)


def add(servers: EmbeddedServers, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "base-model", "add", *arguments],
        env=servers.environment() | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


def checkpoint(path: Path, names: tuple[str, ...]) -> Path:
    """A file with a tensor of each name, and one of whole numbers as checkpoints have them."""
    entries = {
        name: {"dtype": "F16", "shape": [2], "data_offsets": [4 * n, 4 * n + 4]}
        for n, name in enumerate(names)
    }
    end = 4 * len(names)
    entries["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = {
        "dtype": "I64",
        "shape": [1],
        "data_offsets": [end, end + 8],
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(end + 8))
    return path


def test_a_checkpoint_is_stored_and_its_entry_is_one_the_catalog_takes(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "ink.safetensors", NAMES)
    made = add(servers, str(file), "--id", "ink", "--title", "Ink “XL”", "--zero-terminal-snr")
    assert made.returncode == 0, made.stderr
    assert "holds unet, vae" in made.stderr
    [entry] = tomllib.loads(made.stdout)["base_models"]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry == {
        "id": "ink",
        "title": "Ink “XL”",
        "source": f"base-models/{sha256}.safetensors",
        "source_kind": "s3",
        "sha256": sha256,
        "bytes": file.stat().st_size,
        "like": "sdxl-1.0",
        "zero_terminal_snr": True,
    }
    assert get_store().sha256(entry["source"]) == sha256
    told = tomllib.loads(ASSETS.read_text() + made.stdout)
    assert Catalog.model_validate(told).base_model("ink").architecture == "sdxl"


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (("cond_stage_model.x", *NAMES), (), "no part of SDXL has, such as cond_stage_model.x"),
        (NAMES[1:], (), "older Stable Diffusion has not"),
        (NAMES[2:], (), "nothing in it begins with model.diffusion_model."),
        (NAMES, ("--like", "sd15"), "is like sd15, which is none of sdxl-1.0, emoji-64"),
        (NAMES, ("--id", "emoji-64"), "emoji-64 stands more than once"),
        (NAMES, ("--id", "Ink!"), "pattern"),
    ],
)
def test_what_cannot_be_offered_is_refused_before_it_is_stored(
    servers: EmbeddedServers,
    tmp_path: Path,
    names: tuple[str, ...],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    # Of its own content, so that no other test has stored it.
    file = checkpoint(tmp_path / "ink.safetensors", (*names, f"model_ema.{words[:8]}"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    refused = add(servers, str(file), "--id", "ink", *arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert words in refused.stderr
    assert get_store().list_keys(f"base-models/{sha256}") == []


def test_a_file_that_is_no_safetensors_is_refused(servers: EmbeddedServers, tmp_path: Path) -> None:
    file = tmp_path / "ink.safetensors"
    file.write_bytes(b"\x80\x02 pickled" * 10)
    refused = add(servers, str(file), "--id", "ink")
    assert refused.returncode == 1
    assert "no sound safetensors file" in refused.stderr
    missing = add(servers, str(tmp_path / "none.safetensors"), "--id", "ink")
    assert missing.returncode == 1
    assert "No such file" in missing.stderr


# A folder's stack has the bucket of its own server.
@pytest.mark.own_servers
def test_the_bucket_of_a_folders_stack_is_found_without_variables(
    clean: EmbeddedServers, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "folder.safetensors", NAMES)
    told = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LORAWRIGHT_", "AWS_"))
    }
    made = subprocess.run(
        [
            *(sys.executable, "-m", "app.cli.main", "base-model", "add", str(file), "--id", "f"),
            *("--data-dir", str(clean.data_dir)),
        ],
        env=told | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    key = tomllib.loads(made.stdout)["base_models"][0]["source"]
    assert get_store().sha256(key) == hashlib.sha256(file.read_bytes()).hexdigest()

"""Written files hold what they were given, and the same content gives the same bytes anywhere."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from app.lora_format.errors import LoraNotFinite
from app.lora_format.names import UnetShape
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.write import serialise, write_lora

SDXL = UnetShape(2, (True, True, False))
PATH = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
METADATA = {"ss_steps": "7", "ss_epoch": "1", "modelspec.title": "café", "other": "x"}
WRITE = """
import hashlib, torch
from worker.ml.lora_files.write import serialise
data = serialise({"a": torch.ones(3)}, {str(number): "x" for number in range(40)})
print(hashlib.sha256(data).hexdigest())
"""


@pytest.fixture
def lora():
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(4, 640, generator=generator)
    up = torch.randn(640, 4, generator=generator)
    return Lora({PATH: LoraModule(down, up, alpha=2.0)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_come_back_under_kohyas_names(lora, dtype, tmp_path):
    write_lora(tmp_path / "a.safetensors", lora, SDXL, METADATA, dtype)
    tensors = load_file(tmp_path / "a.safetensors")
    assert set(tensors) == {f"{KEY}.lora_down.weight", f"{KEY}.lora_up.weight", f"{KEY}.alpha"}
    module = lora.modules[PATH]
    assert torch.equal(tensors[f"{KEY}.lora_down.weight"], module.down.to(dtype))
    assert torch.equal(tensors[f"{KEY}.lora_up.weight"], module.up.to(dtype))
    alpha = tensors[f"{KEY}.alpha"]
    assert alpha.shape == ()
    assert float(alpha) == 2.0


def test_metadata_comes_back_with_both_hashes(lora, tmp_path):
    written = write_lora(tmp_path / "a.safetensors", lora, SDXL, METADATA)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == written
    assert written.items() >= METADATA.items()
    data = (tmp_path / "a.safetensors").read_bytes()
    tensors_at = 8 + int.from_bytes(data[:8], "little")
    assert tensors_at % 8 == 0
    # Of the tensors alone, so that a new title leaves it be.
    assert written["sshs_model_hash"] == hashlib.sha256(data[tensors_at:]).hexdigest()
    assert len(written["sshs_legacy_hash"]) == 8
    again = write_lora(tmp_path / "b.safetensors", lora, SDXL, {**METADATA, "other": "y"})
    assert again["sshs_model_hash"] == written["sshs_model_hash"]
    assert again["sshs_legacy_hash"] == written["sshs_legacy_hash"]


def test_the_order_of_metadata_and_tensors_makes_no_difference():
    tensors = {"a": torch.ones(2, 2), "b": torch.zeros(5, dtype=torch.float16)}
    there = serialise(tensors, METADATA)
    back = serialise(dict(reversed(tensors.items())), dict(reversed(METADATA.items())))
    assert there == back
    header = json.loads(there[8 : 8 + int.from_bytes(there[:8], "little")])
    assert list(header["__metadata__"]) == sorted(METADATA)


def test_another_process_writes_the_same_bytes():
    command = [sys.executable, "-c", WRITE]
    found = {subprocess.check_output(command, text=True) for _ in range(2)}
    tensors = {"a": torch.ones(3)}
    here = serialise(tensors, {str(number): "x" for number in range(40)})
    assert found == {hashlib.sha256(here).hexdigest() + "\n"}


def test_nothing_half_written_is_left_beside_the_file(lora, tmp_path):
    write_lora(tmp_path / "a.safetensors", lora, SDXL, METADATA)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_values_that_the_format_cannot_hold_are_refused_and_nothing_written(lora, value, tmp_path):
    lora.modules[PATH].up[3, 1] = value
    with pytest.raises(LoraNotFinite, match=rf"{KEY}\.lora_up\.weight .* torch\.float16"):
        write_lora(tmp_path / "a.safetensors", lora, SDXL, METADATA, torch.float16)
    assert list(tmp_path.iterdir()) == []

"""The hashes that a file carries are recognised as its own, or as another's."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.lora_format.hashes import file_hashes
from app.lora_format.header import read_header
from app.lora_format.names import UnetShape
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.write import write_lora

TO_K = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def hashes(path):
    return file_hashes(path, read_header(path))


# Smaller than the legacy window's begin, within it, and beyond its end; a header beyond its begin.
@pytest.mark.parametrize("inputs", [64, 131_072 + 2048, 400_000])
@pytest.mark.parametrize("words", ["a cat", "ein Käfer", "x" * 0x102000])
def test_the_hashes_of_a_written_file_are_its_own(tmp_path, inputs, words):
    path = tmp_path / "lora.safetensors"
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(4, inputs, generator=generator)
    lora = Lora({TO_K: LoraModule(down, torch.ones(64, 4), 2.0)})
    metadata = {"ss_training_comment": words, "modelspec.title": "Ink"}
    write_lora(path, lora, UnetShape(2, (True, True, False)), metadata)
    found = hashes(path)
    assert found.model_hash_matches is True
    assert found.legacy_hash_matches is True
    whole = path.read_bytes()
    assert found.sha256 == hashlib.sha256(whole).hexdigest()
    data_at = 8 + int.from_bytes(whole[:8], "little")
    assert found.data_sha256 == hashlib.sha256(whole[data_at:]).hexdigest()
    assert found.autov2 == found.sha256[:10]
    assert found.autov3 == found.data_sha256[:12]


def test_hashes_of_another_content_are_told_as_such(tmp_path):
    path, other = tmp_path / "lora.safetensors", tmp_path / "other.safetensors"
    lora = Lora({TO_K: LoraModule(torch.randn(4, 400_000), torch.ones(64, 4), 2.0)})
    metadata = write_lora(path, lora, UnetShape(2, (True, True, False)), {"ss_seed": "1"})
    doubled = {name: 2 * tensor for name, tensor in load_file(path).items()}
    save_file(doubled, other, metadata)
    assert hashes(other).model_hash_matches is False
    assert hashes(other).legacy_hash_matches is False
    save_file(doubled, other, {"ss_seed": "1"})
    assert hashes(other).model_hash_matches is None
    assert hashes(other).legacy_hash_matches is None

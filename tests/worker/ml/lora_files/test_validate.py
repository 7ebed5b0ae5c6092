"""What a LoRA file tells about itself."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from worker.ml.lora_files.validate import inspect


def lora_file(path, text_width, dtype=torch.float16):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    other = "lora_unet_input_blocks_4_1_proj_in"
    save_file(
        {
            f"{name}.lora_down.weight": torch.ones(8, text_width, dtype=dtype),
            f"{name}.lora_up.weight": torch.ones(64, 8, dtype=dtype),
            f"{name}.alpha": torch.tensor(4.0),
            f"{other}.lora_down.weight": torch.ones(2, 64, dtype=dtype),
            f"{other}.lora_up.weight": torch.ones(64, 2, dtype=dtype),
            "left.over": torch.ones(1, dtype=dtype),
        },
        path,
        {"ss_network_dim": "8"},
    )
    return path


def test_the_report_describes_the_file(tmp_path):
    path = lora_file(tmp_path / "a.safetensors", 2048)
    report = inspect(path)
    assert report.layout == "kohya"
    assert report.architecture == "sdxl"
    assert report.modules == 2
    assert report.ranks == (2, 8)
    assert report.alphas == (2.0, 4.0)
    assert report.dtypes == ("F16", "F32")
    assert report.unknown == ("left.over",)
    assert report.metadata == {"ss_network_dim": "8"}
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.nbytes == path.stat().st_size


@pytest.mark.parametrize(
    ("text_width", "architecture"),
    [(768, "sd-1"), (1024, "sd-2"), (2048, "sdxl"), (256, "emoji-64"), (333, None)],
)
def test_the_architecture_is_known_by_the_text_it_attends_to(tmp_path, text_width, architecture):
    path = lora_file(tmp_path / "a.safetensors", text_width)
    assert inspect(path).architecture == architecture


def test_float8_and_bfloat16_are_read(tmp_path):
    for dtype, name in ((torch.float8_e4m3fn, "F8_E4M3"), (torch.bfloat16, "BF16")):
        assert name in inspect(lora_file(tmp_path / "a.safetensors", 768, dtype)).dtypes

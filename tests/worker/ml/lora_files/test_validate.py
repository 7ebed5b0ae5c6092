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


TO_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_input_blocks_1_0_in_layers_2"
PAIR = {f"{TO_K}.lora_down.weight": (4, 2048), f"{TO_K}.lora_up.weight": (640, 4)}
CONV_PAIR = {f"{CONV}.lora_down.weight": (2, 320, 3, 3), f"{CONV}.lora_up.weight": (320, 2, 1, 1)}
LOHA = {
    f"{TO_K}.hada_w1_a": (640, 6),
    f"{TO_K}.hada_w1_b": (6, 2048),
    f"{TO_K}.hada_w2_a": (640, 6),
    f"{TO_K}.hada_w2_b": (6, 2048),
}
LOKR = {f"{TO_K}.lokr_w1": (20, 32), f"{TO_K}.lokr_w2_a": (32, 8), f"{TO_K}.lokr_w2_b": (8, 64)}
MAGNITUDES = {f"{TO_K}.dora_scale": (640, 1)}
KINDS = {
    "lora": (PAIR, {"lora"}, (4,)),
    "locon": (PAIR | CONV_PAIR, {"lora", "locon"}, (2, 4)),
    "dora": (PAIR | MAGNITUDES, {"lora", "dora"}, (4,)),
    "loha": (LOHA, {"loha"}, (6,)),
    "lokr": (LOKR, {"lokr"}, (8,)),
    "lokr with magnitudes": (LOKR | MAGNITUDES, {"lokr", "dora"}, (8,)),
    "a mix": (LOKR | CONV_PAIR, {"lokr", "locon"}, (2, 8)),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kinds_ranks_and_architecture_of_a_file_are_told(tmp_path, case):
    shapes, kinds, ranks = KINDS[case]
    path = tmp_path / "a.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    report = inspect(path)
    assert report.kind == kinds
    assert report.ranks == ranks
    assert report.alphas == tuple(map(float, ranks))
    assert report.architecture == "sdxl"
    assert report.unknown == ()
    assert report.trigger is None

"""The GPU benchmark of inference runs end to end without a GPU, at toy size."""

import json

import pytest
import torch

from bench import gpu_inference, sdxl
from bench.random_base import make_part, write_random_base
from bench.settings import BASE

LINES = {
    "switch, five LoRAs": {
        "ours, pristine weights in host memory",
        "diffusers, loaded each time",
        "diffusers, all kept loaded",
    },
    "2 steps, batch 1": {
        "bare base",
        "ours, five merged",
        "ours, five merged, compiled",
        "diffusers, five beside the base",
        "diffusers, five fused",
    },
    "four requests, four sets": {
        "ours, in one batch",
        "ours, one after another",
        "diffusers, loaded each time",
        "diffusers, all kept loaded",
    },
}


# What torch's tracing and peft remark is not ours.
@pytest.mark.filterwarnings("ignore")
def test_a_toy_run_has_every_line_and_all_programs_draw_the_same(tmp_path, capsys, monkeypatch):
    report = tmp_path / "report.json"
    # Blocks are traced as on a GPU, and run as they are: compiling takes half a minute.
    told = ["--toy", "--steps", "2", "--rounds", "1", "--backend", "eager", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["bench.gpu_inference", *told])
    gpu_inference.main()
    found = json.loads(report.read_text())
    assert not [line for line in found["lines"] if line["error"]]
    lines: dict[str, set[str]] = {}
    for line in found["lines"]:
        lines.setdefault(line["section"], set()).add(line["program"])
        assert line["seconds"] > 0
    assert lines == {**LINES, "2 steps, batch 4": LINES["2 steps, batch 1"]}
    assert found["graphs_after_switch"] == 0
    assert len(found["differences"]) == 6
    assert max(found["differences"].values()) < 1e-3
    assert "say nothing of SDXL's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("unet", 2_567_463_684),
        ("vae", 83_653_863),
        ("text_encoder", 123_060_480),
        ("text_encoder_2", 694_659_840),
    ],
)
def test_a_part_is_as_large_as_sdxls(part, parameters):
    network = make_part(part, sdxl.PARTS[part], torch.device("meta"), torch.float32)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.filterwarnings("ignore")
def test_a_random_base_is_loaded_and_draws(tmp_path):
    parts = {name: _small(name) for name in sdxl.PARTS}
    folder = write_random_base(tmp_path / "base", torch.device("cpu"), torch.float32, parts)
    scale = gpu_inference.toy_scale(2)
    spec = scale.base.model_copy(update={"location": str(folder)})
    handle = gpu_inference.open_pipeline(spec, gpu_inference.choose_policy("cpu"))
    request = gpu_inference.GenerationSpec(
        prompt="red apple", width=64, height=64, steps=2, seeds=(1,), base_model=spec
    )
    (picture,) = gpu_inference._drawn(handle, [request])
    assert picture.size == (64, 64)


def _small(part):
    config = json.loads((BASE / part / "config.json").read_text())
    return {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in ("architectures", "dtype")
    }

"""The inference benchmark runs end to end, and both programs draw the same."""

import json

import pytest
import torch

from bench import inference
from worker.ml.inference.generate import generate

# peft remarks on a second adapter, which is what is wanted here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config` attribute:UserWarning"
)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_short_run_measures_everything_and_both_draw_the_same(tmp_path, capsys, monkeypatch):
    report = tmp_path / "report.json"
    told = ["--rounds", "1", "--steps", "2", "--rank", "4", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["bench.inference", *told])
    inference.main()
    found = json.loads(report.read_text())
    for name in ("switch, unet", "switch, unet and text encoders"):
        assert set(found[name]["seconds"]) == {
            inference.OURS,
            inference.SWITCHED,
            inference.KEPT,
        }
        assert found[name]["floor"]["bytes"] > 0
    assert found["step"]["relative_difference"] < 1e-4
    assert found["requests"]["largest_pixel_difference"] <= 3
    printed = capsys.readouterr().out
    assert "three LoRAs" in printed
    assert "aim ≥ 2 ×" in printed


def test_the_peer_draws_what_we_draw_with_and_without_loras(tmp_path):
    handle = inference.open_pipeline(inference.BASE_SPEC, inference.choose_policy("cpu"))
    peer = inference.Peer(inference.BASE_SPEC.location, handle.policy)
    loras = inference.make_files(handle, tmp_path, count=2, rank=4, encoders=True)
    peer.parse(loras)
    for chosen in ((), tuple(loras), ()):
        spec = inference.GenerationSpec(
            prompt="a red apple",
            width=64,
            height=64,
            steps=3,
            guidance_scale=4.0,
            seeds=(1,),
            base_model=inference.BASE_SPEC,
            loras=chosen,
        )
        peer.choose(chosen)
        ours = generate(handle, spec, lambda *_: None, lambda: False).images[0].image
        assert abs(_pixels(ours) - _pixels(peer.draw(spec))).max() <= 3


def _pixels(image):
    return inference.np.asarray(image, dtype=int)

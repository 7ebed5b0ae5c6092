"""Resizing: as small as wanted, as near as possible, and the error told is the error made."""

import json

import pytest
import torch

from tests.worker.random_modules import KINDS
from worker.ml.lora_files.modules import LoraModule, change
from worker.ml.lora_files.tools.files import read_whole, write_checked
from worker.ml.lora_files.tools.low_rank import RankChoice
from worker.ml.lora_files.tools.resize import resize


def measured(lora, small):
    """‖ΔW - ΔW'‖ / ‖ΔW‖ of each module, from the whole matrices."""
    return {
        path: float(
            (module.delta().double() - small.modules[path].delta().double()).norm()
            / module.delta().double().norm()
        )
        for path, module in lora.modules.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_told_is_the_error_made(kind, dtype, make_lora, architecture, tmp_path):
    lora = make_lora(kind)
    small, report = resize(lora, architecture, RankChoice(2), dtype)
    path = tmp_path / "small.safetensors"
    write_checked(path, small, architecture, small.metadata, dtype)
    stored, _ = read_whole(path, architecture)
    errors = measured(lora, stored)
    assert report.modules.keys() == errors.keys()
    for name, error in errors.items():
        assert report.modules[name].error == pytest.approx(error, rel=1e-3, abs=1e-6), name
        assert stored.modules[name].rank <= 2
    off = sum(outcome.off**2 for outcome in report.modules.values()) ** 0.5
    norm = sum(float(m.delta().double().norm()) ** 2 for m in lora.modules.values()) ** 0.5
    assert report.error == pytest.approx(off / norm, rel=1e-4)
    assert 0.01 < report.error < 1


@pytest.mark.parametrize("kind", ["lora", "tucker", "loha", "lokr"])
def test_no_rank_two_change_is_nearer(kind, make_lora, architecture):
    lora = make_lora(kind)
    _, report = resize(lora, architecture, RankChoice(2), torch.float32)
    for path, module in lora.modules.items():
        values = torch.linalg.svdvals(module.delta().double())
        best = float(values[2:].norm() / values.norm())
        assert report.modules[path].error == pytest.approx(best, rel=1e-4, abs=2e-6), path


@pytest.mark.parametrize("kind", ["lora", "loha_tucker", "lokr"])
def test_each_module_keeps_its_share_at_the_lowest_rank(kind, make_lora, architecture):
    lora = make_lora(kind)
    small, _ = resize(lora, architecture, RankChoice(keep=0.9), torch.float32)
    ranks = set()
    for path, module in small.modules.items():
        values = torch.linalg.svdvals(lora.modules[path].delta().double())
        share = (values[: module.rank].norm() / values.norm()).item()
        assert share >= 0.9 - 1e-6
        assert module.rank == 1 or (values[: module.rank - 1].norm() / values.norm()).item() < 0.9
        assert module.scale == 1.0
        ranks.add(module.rank)
    assert len(ranks) > 1


def test_a_pair_of_no_higher_rank_stays_as_it_is(make_lora, architecture):
    lora = make_lora("lora")
    small, report = resize(lora, architecture, RankChoice(4), torch.float32)
    for path, module in lora.modules.items():
        assert torch.equal(small.modules[path].down, module.down)
        assert small.modules[path].alpha == module.alpha
    assert report.error < 1e-7


def test_dora_keeps_its_magnitudes_and_with_all_ranks_its_change(make_lora, architecture):
    lora = make_lora("dora")
    whole, _ = resize(lora, architecture, RankChoice(keep=1.0), torch.float32)
    cut, _ = resize(lora, architecture, RankChoice(1), torch.float32)
    for path, module in lora.modules.items():
        weight = torch.randn(architecture.weights[path], generator=torch.Generator().manual_seed(3))
        expected = change(module, weight)
        assert torch.equal(whole.modules[path].dora_scale, module.dora_scale)
        error = (change(whole.modules[path], weight) - expected).norm() / expected.norm()
        assert float(error) < 1e-5
        # Rows keep their lengths even where their directions are off.
        moved = weight.flatten(1) + change(cut.modules[path], weight)
        assert torch.allclose(moved.norm(dim=1), module.dora_scale.flatten(), rtol=1e-4)


def test_the_same_lora_gives_the_same_bytes(make_lora, architecture, tmp_path):
    written = []
    for name in ("a", "b"):
        small, _ = resize(make_lora("loha"), architecture, RankChoice(3))
        path = tmp_path / f"{name}.safetensors"
        write_checked(path, small, architecture, small.metadata, torch.float16)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_the_file_says_what_was_done_and_keeps_what_still_holds(make_lora, architecture, tmp_path):
    before = {
        "ss_network_dim": "4",
        "ss_training_comment": "a comment",
        "ss_base_model_version": "sdxl_base_v1-0",
        "modelspec.trigger_phrase": "inkstyle",
        "sshs_model_hash": "0" * 64,
        "lora_adapter_metadata": json.dumps({"unet.lora_alpha": 7}),
    }
    lora = make_lora("lora", metadata=before)
    small, report = resize(lora, architecture, RankChoice(2))
    path = tmp_path / "small.safetensors"
    write_checked(path, small, architecture, small.metadata, torch.float16)
    found = read_whole(path, architecture)[0].metadata
    assert found["modelspec.trigger_phrase"] == "inkstyle"
    assert found["ss_network_dim"] == "2"
    assert found["ss_network_alpha"] == "Dynamic"
    assert found["ss_training_comment"] == (
        f"resized to rank 2, with an error of {report.error:.3g}; a comment"
    )
    assert found["sshs_model_hash"] not in ("", "0" * 64)
    assert "lora_adapter_metadata" not in found


def test_vectors_of_a_trigger_word_come_along(make_lora, architecture):
    vectors = {"text_encoder": torch.randn(2, 128)}
    lora = make_lora("lora", embeddings=vectors, trigger="<ink>")
    small, _ = resize(lora, architecture, RankChoice(1))
    assert small.trigger == "<ink>"
    assert torch.equal(small.embeddings["text_encoder"], vectors["text_encoder"])
    assert all(isinstance(module, LoraModule) for module in small.modules.values())

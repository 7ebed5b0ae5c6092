"""Extracting: what was added to a base comes back, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.single_file_checkpoint import single_file_tensors, write_single_file
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.targets import TARGETS, TEXT_TARGETS
from worker.ml.lora_files.tools.extract import (
    Checkpoint,
    CheckpointsDiffer,
    NothingToExtract,
    extract,
)
from worker.ml.lora_files.tools.files import read_whole, write_checked
from worker.ml.lora_files.tools.low_rank import RankChoice

EMOJI = Path(__file__).parents[5] / "assets" / "emoji-64"
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
}


@pytest.fixture
def tuned(tmp_path):
    """A copy of the small base in float32, whose tensors a test changes: (folder, edit)."""
    folder = tmp_path / "tuned"
    shutil.copytree(EMOJI, folder)
    before = tmp_path / "base"
    shutil.copytree(EMOJI, before)
    for where in (folder, before):
        for file in FILES.values():
            # Differences of half precision would be rounded themselves.
            save_file({k: v.float() for k, v in load_file(where / file).items()}, where / file)

    def edit(component, change):
        path = folder / FILES[component]
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return before, folder, edit


def run(before, after, architecture, choice, **options):
    names = {"titles": ("base", "tuned"), "dtype": torch.float32}
    return extract(
        Checkpoint(str(before)), Checkpoint(str(after)), architecture, choice, **names, **options
    )


def low_rank(shape, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], rank, generator=generator)
    down = torch.randn(rank, torch.Size(shape[1:]).numel(), generator=generator)
    return (0.01 * up @ down).view(shape)


@pytest.mark.parametrize("targets", ["attention", "full", "conv"])
def test_a_known_change_comes_back_within_rounding(targets, tuned, architecture, tmp_path):
    before, after, edit = tuned
    added = {}

    def change(tensors):
        for number, (name, tensor) in enumerate(sorted(tensors.items())):
            if name.removesuffix(".weight").endswith(TARGETS[targets]) and tensor.ndim > 1:
                old = tensor.clone()
                tensor += low_rank(tensor.shape, 3, number)
                added[f"unet.{name.removesuffix('.weight')}"] = tensor.double() - old.double()

    edit("unet", change)
    lora, report = run(before, after, architecture, RankChoice(3), targets=targets)
    assert set(lora.modules) == set(added)
    path = tmp_path / "extracted.safetensors"
    write_checked(path, lora, architecture, lora.metadata, torch.float32)
    stored, _ = read_whole(path, architecture)
    for name, delta in added.items():
        error = float((stored.modules[name].delta() - delta.flatten(1)).norm() / delta.norm())
        # The sum was rounded to float32 beside weights a hundred times as large.
        assert error < 1e-4, name
        assert report.modules[name].error == pytest.approx(error, abs=1e-6)
        assert stored.modules[name].rank == 3
    assert report.notes == ()
    assert lora.metadata["ss_base_model_version"] == "emoji-64"
    assert lora.metadata["ss_training_comment"].startswith(
        f"extracted from tuned over base, targets {targets}, with an error of"
    )


def test_text_encoders_are_extracted_when_asked_for(tuned, architecture):
    before, after, edit = tuned

    def change(tensors):
        for name, tensor in tensors.items():
            if name.removesuffix(".weight").endswith(TEXT_TARGETS) and tensor.ndim == 2:
                tensor += low_rank(tensor.shape, 2, 1)

    edit("text_encoder", change)
    edit("text_encoder_2", change)
    lora, report = run(before, after, architecture, RankChoice(2), text_encoders=True)
    encoders = {path.split(".")[0] for path in lora.modules}
    assert encoders == {"text_encoder", "text_encoder_2"}
    assert all(".text_model.encoder.layers." in path for path in lora.modules)
    assert report.error < 1e-4
    with pytest.raises(NothingToExtract):
        run(before, after, architecture, RankChoice(2), text_encoders=False)


def test_a_full_change_is_cut_to_its_share_with_the_error_told(tuned, architecture):
    before, after, edit = tuned
    generator = torch.Generator().manual_seed(4)

    def change(tensors):
        for name, tensor in tensors.items():
            if name.endswith("attn1.to_q.weight"):
                tensor += 0.01 * torch.randn(tensor.shape, generator=generator)

    edit("unet", change)
    lora, report = run(before, after, architecture, RankChoice(keep=0.8), targets="attention")
    for outcome in report.modules.values():
        assert 0.4 < outcome.error <= 0.6 + 1e-6
    assert {module.rank for module in lora.modules.values()} != {1}


def test_what_differs_beside_the_targets_is_noted(tuned, architecture):
    before, after, edit = tuned

    def change(tensors):
        tensors["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] += 0.1
        tensors["conv_in.weight"] += 0.1
        tensors["conv_in.bias"] += 0.1

    edit("unet", change)
    lora, report = run(before, after, architecture, RankChoice(4), targets="attention")
    assert len(lora.modules) == 1
    assert report.notes == ("2 other weights differ and are not in it, such as unet.conv_in.bias",)


def test_checkpoints_of_other_shapes_are_refused_by_name(tuned, architecture):
    before, after, edit = tuned

    def change(tensors):
        tensors["conv_in.weight"] = torch.ones(64, 9, 3, 3)
        del tensors["conv_out.bias"]

    edit("unet", change)
    reason = r"conv_out.bias is in one alone; conv_in.weight is \(64, 4, 3, 3\) and \(64, 9, 3, 3\)"
    with pytest.raises(CheckpointsDiffer, match=reason):
        run(before, after, architecture, RankChoice(4))


def test_a_checkpoint_without_weights_is_refused(tuned, architecture):
    before, after, _ = tuned
    (after / FILES["unet"]).unlink()
    with pytest.raises(BaseModelUnavailable, match=r"diffusion_pytorch_model\.safetensors"):
        run(before, after, architecture, RankChoice(4))


def test_weights_in_shards_are_read_as_one(tuned, architecture):
    before, after, edit = tuned

    def change(tensors):
        tensors["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"] += 0.1

    edit("unet", change)
    tensors = load_file(after / FILES["unet"])
    names = sorted(tensors)
    stem = "diffusion_pytorch_model"
    shards = {f"{stem}-1.safetensors": names[:100], f"{stem}-2.safetensors": names[100:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, after / "unet" / shard)
    (after / FILES["unet"]).unlink()
    index = {"weight_map": {name: shard for shard, of in shards.items() for name in of}}
    (after / "unet" / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    lora, report = run(before, after, architecture, RankChoice(1))
    assert len(lora.modules) == 1
    assert report.error < 1e-4


def test_single_files_and_folders_give_the_same_lora(tuned, tmp_path, architecture):
    """Fused and transposed weights of the file's second text encoder are taken apart again."""
    before, after, edit = tuned
    added = {}

    def add(component, name):
        def change(tensors):
            added[f"{component}.{name}"] = low_rank(tensors[name].shape, 2, len(added)) * 0.1
            tensors[name] = tensors[name] + added[f"{component}.{name}"]

        edit(component, change)

    add("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight")
    add("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj.weight")
    files = [
        write_single_file(
            load_base_model(str(folder), None, choose_policy("cpu")), tmp_path / f"{n}.safetensors"
        )
        for n, folder in enumerate((before, after))
    ]
    choice = RankChoice(rank=2)
    expected, _ = run(before, after, architecture, choice, text_encoders=True)
    assert len(expected.modules) == 2
    for base, fine in ((files[0], files[1]), (before, files[1]), (files[0], after)):
        found, report = run(base, fine, architecture, choice, text_encoders=True)
        assert found.modules.keys() == expected.modules.keys()
        for path, module in expected.modules.items():
            assert torch.allclose(found.modules[path].delta(), module.delta(), atol=1e-6), path
        assert report.error < 1e-3


def test_a_file_that_is_no_checkpoint_or_lacks_a_part_is_refused(tuned, tmp_path, architecture):
    before, after, _ = tuned
    base = load_base_model(str(before), None, choose_policy("cpu"))
    tensors = single_file_tensors(base)
    unet = {k: v for k, v in tensors.items() if k.startswith("model.")}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(BaseModelUnavailable, match="has no text_encoder"):
        run(
            before,
            tmp_path / "unet.safetensors",
            architecture,
            RankChoice(rank=2),
            text_encoders=True,
        )
    save_file({"odd": torch.ones(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(BaseModelUnavailable, match="nothing in it begins with"):
        run(tmp_path / "odd.safetensors", after, architecture, RankChoice(rank=2))

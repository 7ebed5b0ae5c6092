"""Converting: every layout says the same, and PEFT's two files travel as one zip."""

import zipfile

import pytest
import torch

from app.lora_format.errors import LoraKeysUnknown, LoraLayoutUnsupported
from worker.ml.lora_files.tools.convert import convert
from worker.ml.lora_files.tools.files import compare, read_whole, widest_dtype
from worker.ml.lora_files.tools.low_rank import RankChoice
from worker.ml.lora_files.tools.resize import resize


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_converted_file_is_the_same_lora(layout, make_lora, architecture, tmp_path):
    lora = make_lora("lora", metadata={"modelspec.trigger_phrase": "inkstyle"})
    target = tmp_path / "out.safetensors"
    report = convert(lora, architecture, target, layout)
    assert report.error < 1e-6
    found, unmatched = read_whole(target, architecture)
    assert unmatched == []
    assert compare(lora, found).error < 1e-6
    assert found.metadata["modelspec.trigger_phrase"] == "inkstyle"


def test_half_precision_stays_half_and_its_rounding_is_told(make_lora, architecture, tmp_path):
    lora, _ = resize(make_lora("lora"), architecture, RankChoice(4), torch.float16)
    assert widest_dtype([lora]) == torch.float16
    report = convert(lora, architecture, tmp_path / "a.safetensors", "diffusers")
    found, _ = read_whole(tmp_path / "a.safetensors", architecture)
    assert all(module.down.dtype == torch.float16 for module in found.modules.values())
    # Alphas of 1, 3 and 8 over ranks of 2, 3 and 4: most scales are no power of two.
    assert 1e-5 < report.error < 1e-3


def test_peft_comes_as_a_zip_of_its_two_files(make_lora, architecture, tmp_path):
    lora = make_lora("lora", parts=("attn2.to_k", "conv1"))
    target = tmp_path / "out.zip"
    convert(lora, architecture, target, "peft")
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["adapter_model.safetensors", "adapter_config.json"]
        archive.extractall(tmp_path / "folder")
    found, _ = read_whole(tmp_path / "folder" / "adapter_model.safetensors", architecture)
    assert compare(lora, found).error < 1e-6
    again = tmp_path / "again.zip"
    convert(lora, architecture, again, "peft")
    assert again.read_bytes() == target.read_bytes()


def test_a_layout_that_cannot_say_it_is_refused(make_lora, architecture, tmp_path):
    with pytest.raises(LoraLayoutUnsupported, match="LoHa is not written"):
        convert(make_lora("loha"), architecture, tmp_path / "a.safetensors", "diffusers")
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_base_lacks_are_an_error_unless_it_is_not_strict(
    make_lora, architecture, tmp_path
):
    from safetensors.torch import load_file, save_file

    target = tmp_path / "a.safetensors"
    convert(make_lora("lora"), architecture, target, "kohya")
    tensors = load_file(target) | {
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4),
        "lora_unet_nowhere.lora_up.weight": torch.ones(4, 2),
    }
    save_file(tensors, target)
    with pytest.raises(LoraKeysUnknown, match="lora_unet_nowhere"):
        read_whole(target, architecture)
    assert read_whole(target, architecture, strict=False)[1] == ["lora_unet_nowhere"]


@pytest.mark.parametrize("stabilised", [False, True])
def test_a_folder_as_peft_saves_it_is_read_with_its_alphas(stabilised, architecture, tmp_path):
    from pathlib import Path

    from peft import LoraConfig, get_peft_model

    from worker.ml.base_models.device import choose_policy
    from worker.ml.base_models.load import load_base_model

    emoji = Path(__file__).parents[5] / "assets" / "emoji-64"
    unet = load_base_model(str(emoji), None, choose_policy("cpu"), ["unet"]).unet
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_k", "conv1"],
        alpha_pattern={"conv1": 3},
        rank_pattern={"conv1": 2},
        init_lora_weights=False,
        use_rslora=stabilised,
    )
    adapted = get_peft_model(unet, config)
    adapted.save_pretrained(tmp_path / "peft")
    lora, _ = read_whole(tmp_path / "peft", architecture)
    assert len(lora.modules) > 20
    convert(lora, architecture, tmp_path / "a.safetensors", "kohya", dtype=torch.float32)
    found, _ = read_whole(tmp_path / "a.safetensors", architecture)
    for path, module in found.modules.items():
        layer = unet.get_submodule(path.removeprefix("unet."))
        wanted = layer.get_delta_weight("default").detach().flatten(1)
        assert float((module.delta() - wanted).norm() / wanted.norm()) < 1e-5, path

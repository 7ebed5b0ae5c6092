"""A checkpoint's file is proven by reading it back."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from app.lora_format.names import UnetShape
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of
from worker.ml.training.data.prepare import count_steps
from worker.ml.training.errors import ExportMismatch, SpecInvalid
from worker.ml.training.files import export
from worker.ml.training.files.export import export_checkpoint
from worker.ml.training.files.file_metadata import file_metadata
from worker.ml.training.parallel import Group
from worker.ml.training.spec import read_spec

PATH = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def _steps(spec):
    return count_steps(spec, Group())


@pytest.fixture(scope="module")
def unet(write_spec):
    location = read_spec(write_spec()).base_model.location
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(location, subfolder="unet")
        )


@pytest.fixture
def checkpoint(unet, write_spec, tmp_path):
    spec = read_spec(write_spec())

    def write(lora):
        return export_checkpoint(
            tmp_path / "a.safetensors",
            lora,
            spec,
            UnetShape.of(unet.config),
            index_of({"unet": unet}),
            prediction="epsilon",
            step=3,
            epoch=1,
            steps=_steps(spec),
        )

    return write


def _lora(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(4, 96, generator=generator)
    up = torch.randn(96, 4, generator=generator) * scale
    return Lora({PATH: LoraModule(down, up, alpha=4.0)})


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 100.0])
def test_rounding_to_half_precision_is_no_mismatch(checkpoint, scale):
    file = checkpoint(_lora(scale))
    assert file.bytes == file.path.stat().st_size


def test_values_beyond_half_precision_are(checkpoint):
    with pytest.raises(ValueError, match="NaN or infinity"):
        checkpoint(_lora(1e6))


def test_a_file_with_other_weights_is_refused(checkpoint, monkeypatch):
    def careless(path, lora, *rest):
        changed = {
            name: LoraModule(module.down, module.up * 1.02, module.alpha)
            for name, module in lora.modules.items()
        }
        return write(path, Lora(changed), *rest)

    write = export.write_lora
    monkeypatch.setattr(export, "write_lora", careless)
    with pytest.raises(ExportMismatch, match=PATH):
        checkpoint(_lora())


def test_metadata_is_all_strings_and_names_sdxl_where_it_is(write_spec):
    spec = read_spec(write_spec())
    sdxl = spec.model_copy(
        update={"base_model": spec.base_model.model_copy(update={"architecture": "sdxl"})}
    )
    found = file_metadata(sdxl, prediction="v_prediction", step=3, epoch=1, steps=_steps(spec))
    assert all(isinstance(value, str) for value in found.values())
    assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert found["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found["modelspec.prediction_type"] == "v"
    here = file_metadata(spec, prediction="epsilon", step=3, epoch=1, steps=_steps(spec))
    assert here["modelspec.architecture"] == "emoji-64/lora"


def test_other_layouts_hold_the_same_change_beside_the_kohya_file(checkpoint, write_spec, unet):
    spec = read_spec(write_spec(also_layouts=["diffusers", "peft"]))
    file, index = checkpoint(_lora()), index_of({"unet": unet})
    export.export_layouts(file, _lora(), spec, UnetShape.of(unet.config))
    for name in ("a.diffusers.safetensors", "a.peft/adapter_model.safetensors"):
        stored, unmatched = read_lora(file.path.parent / name, index)
        assert unmatched == ()
        wanted, found = _lora().modules[PATH], stored.modules[PATH]
        error = (found.delta() - wanted.delta()).norm() / wanted.delta().norm()
        assert float(error) < 2e-3
    assert (file.path.parent / "a.peft" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("params", "layouts"),
    [
        ({"variant": "lokr"}, ["peft"]),
        ({"variant": "loha"}, ["diffusers"]),
        ({"trigger_vectors": 1}, ["diffusers"]),
        ({"train_text_encoder": True}, ["peft"]),
    ],
)
def test_a_layout_that_cannot_say_it_is_refused_before_training(write_spec, params, layouts):
    with pytest.raises(SpecInvalid, match="also_layouts"):
        read_spec(write_spec(params, also_layouts=layouts))

"""Loading base models."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.load import Variant, load_base_model

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"


def test_parts_are_frozen_float32_and_in_evaluation_mode_on_the_cpu():
    base = load_base_model(str(EMOJI), None, choose_policy("cpu"))
    assert set(base.networks()) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    for network in base.networks().values():
        assert not network.training
        assert all(not p.requires_grad for p in network.parameters())
        assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert base.tokenizer("apple").input_ids[0] == base.tokenizer.bos_token_id
    assert base.scheduler_config["_class_name"] == "EulerDiscreteScheduler"
    assert base.force_zeros_for_empty_prompt


def test_only_the_wanted_parts_are_loaded():
    base = load_base_model(str(EMOJI), None, choose_policy("cpu"), ["vae"])
    assert set(base.networks()) == {"vae"}
    with pytest.raises(ValueError, match="unets"):
        load_base_model(str(EMOJI), None, choose_policy("cpu"), ["unets"])


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(BaseModelUnavailable, match="FluxPipeline"):
        load_base_model(str(tmp_path), None, choose_policy("cpu"))


def test_pickled_weights_are_never_read(tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(EMOJI, copy)
    (copy / "unet").chmod(0o755)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BaseModelUnavailable, match="safetensors"):
        load_base_model(str(copy), None, choose_policy("cpu"), ["unet"])


def test_only_cpu_and_cuda_are_known():
    with pytest.raises(ValueError, match="meta"):
        choose_policy("meta")


def test_a_vae_that_is_safe_in_half_precision_computes_as_the_unet_does():
    policy = DevicePolicy(torch.device("cpu"), torch.bfloat16, torch.float32)
    parts = ("vae",)
    plain = load_base_model(str(EMOJI), None, policy, parts)
    safe = load_base_model(str(EMOJI), None, policy, parts, Variant(vae_half_safe=True))
    assert plain.vae.dtype == torch.float32
    assert safe.vae.dtype == torch.bfloat16

"""Single-file checkpoints: the small base written as one, and read back to the bit."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.single_file_checkpoint import single_file_tensors, write_single_file
from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.hashing import hash_model_files, hash_networks
from worker.ml.base_models.load import Variant, load_base_model
from worker.ml.inference.generate import generate
from worker.ml.inference.pipelines import open_pipeline
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import BaseModelSpec, GenerationSpec

EMOJI = str(Path(__file__).parents[4] / "assets" / "emoji-64")
OF_EMOJI = Variant(config=EMOJI)
CPU = choose_policy("cpu")


@pytest.fixture(scope="module")
def base():
    return load_base_model(EMOJI, None, CPU)


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    return write_single_file(base, tmp_path_factory.mktemp("single") / "emoji.safetensors")


def draw(spec: BaseModelSpec, **fields) -> bytes:
    wanted = GenerationSpec(
        prompt="a red apple",
        width=64,
        height=64,
        steps=4,
        guidance_scale=4.0,
        seeds=(1,),
        base_model=spec,
        **fields,
    )
    handle = open_pipeline(spec, CPU)
    return generate(handle, wanted, lambda *_: None, lambda: False).images[0].image.tobytes()


def spec_of(location: str, **fields) -> BaseModelSpec:
    return BaseModelSpec(
        id="x", location=location, architecture="emoji-64", vae_scale_factor=4, **fields
    )


def test_the_names_are_those_diffusers_reads(base):
    """diffusers' own converters turn our file back into its weights."""
    from diffusers.loaders import single_file_utils as theirs

    tensors = single_file_tensors(base)
    unet = theirs.convert_ldm_unet_checkpoint(dict(tensors), dict(base.unet.config))
    vae = theirs.convert_ldm_vae_checkpoint(dict(tensors), dict(base.vae.config))
    for found, network in ((unet, base.unet), (vae, base.vae)):
        expected = network.state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].reshape(tensor.shape), tensor), name
    second = theirs.convert_open_clip_checkpoint(
        base.text_encoder_2, dict(tensors), prefix="conditioner.embedders.1.model."
    )
    expected = base.text_encoder_2.state_dict()
    width = base.text_encoder_2.config.hidden_size
    for name, tensor in second.items():
        # It cuts the fused matrices by the projection's width, which is the hidden one in SDXL.
        if width == base.text_encoder_2.config.projection_dim or "_proj." not in name:
            assert torch.equal(tensor, expected[name]), name


def test_every_weight_and_a_picture_are_the_same_to_the_bit(base, checkpoint):
    read = load_base_model(str(checkpoint), None, CPU, variant=OF_EMOJI)
    assert hash_networks(read.networks()) == hash_networks(base.networks())
    for network in read.networks().values():
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert read.scheduler_config == base.scheduler_config
    assert draw(spec_of(str(checkpoint), config=EMOJI)) == draw(spec_of(EMOJI))


def test_a_half_precision_file_computes_in_the_policys_format(base, tmp_path):
    half = {name: tensor.half() for name, tensor in single_file_tensors(base).items()}
    path = tmp_path / "half.safetensors"
    save_file(half, path)
    policy = DevicePolicy(torch.device("cpu"), torch.bfloat16, torch.float32)
    read = load_base_model(str(path), None, policy, variant=OF_EMOJI)
    assert {p.dtype for p in read.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in read.vae.parameters()} == {torch.float32}


def test_known_extras_are_passed_over_and_marks_are_heeded(base, tmp_path):
    path = write_single_file(
        base,
        tmp_path / "v.safetensors",
        **{
            "v_pred": torch.zeros(0),
            "ztsnr": torch.zeros(0),
            "denoiser.sigmas": torch.ones(1000),
            "conditioner.embedders.1.model.logit_scale": torch.ones(()),
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(
                77
            ),
            "model_ema.decay": torch.ones(()),
        },
    )
    config = load_base_model(str(path), None, CPU, (), OF_EMOJI).scheduler_config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"


def test_what_the_catalog_says_goes_over_the_files_marks(base, tmp_path):
    path = write_single_file(base, tmp_path / "v.safetensors", v_pred=torch.zeros(0))
    variant = Variant(config=EMOJI, prediction_type="epsilon", zero_terminal_snr=False)
    config = load_base_model(str(path), None, CPU, (), variant).scheduler_config
    assert config["prediction_type"] == "epsilon"
    assert config["rescale_betas_zero_snr"] is False


def test_a_part_the_file_leaves_out_comes_from_the_configurations_pipeline(base, tmp_path):
    tensors = single_file_tensors(base)
    unet_alone = {k: v for k, v in tensors.items() if k.startswith("model.diffusion_model.")}
    path = tmp_path / "unet.safetensors"
    save_file(unet_alone, path)
    read = load_base_model(str(path), None, CPU, variant=OF_EMOJI)
    assert hash_networks(read.networks()) == hash_networks(base.networks())
    assert read.sources["unet"] == path
    assert read.sources["vae"] == Path(EMOJI, "vae")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.diffusion_model.out.2.weight"), "unet is without 1 tensors"),
        (lambda t: t.update({"first_stage_model.odd": torch.ones(1)}), "has no use for 1"),
        (lambda t: t.update({"odd.weight": torch.ones(1)}), "no part of SDXL has, such as odd"),
        (
            lambda t: t.update({"model.diffusion_model.out.2.bias": torch.ones(9)}),
            r"out.2.bias is \(9,\)",
        ),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("model.")],
            "is no SDXL checkpoint",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(base, tmp_path, change, words):
    tensors = single_file_tensors(base)
    change(tensors)
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path)
    with pytest.raises(BaseModelUnavailable, match=words):
        load_base_model(str(path), None, CPU, variant=OF_EMOJI)


def test_what_is_no_sound_file_is_refused(checkpoint, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    lying = tmp_path / "lying.safetensors"
    lying.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps({"model.diffusion_model.x": 1}))
    for path in (cut, lying, pickled, tmp_path / "missing.safetensors"):
        with pytest.raises(BaseModelUnavailable, match=path.name):
            load_base_model(str(path), None, CPU, variant=OF_EMOJI)
    with pytest.raises(BaseModelUnavailable, match="configuration of another pipeline"):
        load_base_model(str(checkpoint), None, CPU)


def test_a_vae_can_be_replaced_and_the_hash_says_so(base, tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(EMOJI, subfolder="vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias += 0.25
    vae.save_pretrained(tmp_path / "vae")
    variant = Variant(vae=str(tmp_path / "vae"))
    read = load_base_model(EMOJI, None, CPU, variant=variant)
    assert torch.equal(read.vae.decoder.conv_out.bias, vae.decoder.conv_out.bias)
    assert hash_networks({"unet": read.unet}) == hash_networks({"unet": base.unet})
    assert hash_model_files(read.sources) != hash_model_files(base.sources)
    assert draw(spec_of(EMOJI, vae=str(tmp_path / "vae"))) != draw(spec_of(EMOJI))


def test_a_single_files_hash_follows_its_weights(base, checkpoint, tmp_path):
    read = load_base_model(str(checkpoint), None, CPU, (), OF_EMOJI)
    same = load_base_model(
        str(write_single_file(base, tmp_path / "same.safetensors")), None, CPU, (), OF_EMOJI
    )
    assert hash_model_files(read.sources) == hash_model_files(same.sources)
    tensors = load_file(checkpoint)
    tensors["model.diffusion_model.out.2.bias"] += 1e-3
    save_file(tensors, tmp_path / "other.safetensors")
    other = load_base_model(str(tmp_path / "other.safetensors"), None, CPU, (), OF_EMOJI)
    assert hash_model_files(other.sources) != hash_model_files(read.sources)


def test_schedulers_take_a_v_prediction_for_what_it_is(base):
    """A step from e, and from the v that says the same (x = αx₀ + σe, v = αe - σx₀), is one."""
    variant = Variant(prediction_type="v_prediction")
    config = load_base_model(EMOJI, None, CPU, (), variant).scheduler_config
    for name in ("ddim", "euler", "dpmpp_2m"):
        v_scheduler = make_scheduler(name, config)
        e_scheduler = make_scheduler(name, base.scheduler_config)
        sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        ended = []
        for scheduler, velocity in ((v_scheduler, True), (e_scheduler, False)):
            scheduler.set_timesteps(4)
            x = sample * scheduler.init_noise_sigma
            at = scheduler.timesteps[0]
            scaled = scheduler.scale_model_input(x, at)
            alpha_squared = e_scheduler.alphas_cumprod[at.long()].float()
            alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
            # `scaled` is αx₀ + σe whatever the scheduler carries.
            clean = (scaled - sigma * noise) / alpha
            said = alpha * noise - sigma * clean if velocity else noise
            ended.append(scheduler.step(said, at, x, return_dict=False)[0])
        assert torch.allclose(ended[0], ended[1], atol=1e-3), name

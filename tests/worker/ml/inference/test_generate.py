"""Pictures from the real small base."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.lora_format.names import UnetShape
from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.trigger_words import vectors_like
from worker.ml.inference.errors import (
    InferenceError,
    InitImageInvalid,
    SchedulerUnknown,
    Stopped,
    StrengthTooLow,
)
from worker.ml.inference.generate import generate
from worker.ml.inference.pipelines import open_pipeline
from worker.ml.inference.spec import LoraSpec
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.write import write_lora


def draw(handle, spec):
    return generate(handle, spec, lambda *_: None, lambda: False)


def pixels(image):
    return np.asarray(getattr(image, "image", image), dtype=np.int16)


def test_a_prompt_gives_what_diffusers_gives_for_the_same_seed(handle, make_spec):
    spec = make_spec(seeds=(42,))
    ours = draw(handle, spec).images[0]
    theirs = handle.pipeline(
        spec.prompt,
        width=64,
        height=64,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    assert (ours.width, ours.height, ours.seed) == (64, 64, 42)
    assert ours.image.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("scheduler", ["euler", "euler_a", "dpmpp_2m_sde"])
def test_a_picture_does_not_depend_on_its_batch_mates(handle, make_spec, scheduler):
    together = draw(handle, make_spec(seeds=(5, 6), scheduler=scheduler)).images
    alone = [
        draw(handle, make_spec(seeds=(seed,), scheduler=scheduler)).images[0] for seed in (5, 6)
    ]
    assert [image.seed for image in together] == [5, 6]
    for one, other in zip(together, alone, strict=True):
        assert abs(pixels(one) - pixels(other)).max() <= 3
    assert abs(pixels(alone[0]) - pixels(alone[1])).mean() > 3


def test_more_seeds_than_a_batch_holds_all_come_in_order(handle, make_spec):
    seen = []
    result = generate(
        handle,
        make_spec(seeds=tuple(range(6)), steps=2),
        lambda *progress: seen.append(progress),
        lambda: False,
    )
    assert [image.seed for image in result.images] == list(range(6))
    assert seen[-1] == (1.0, 12, 12)
    assert seen == sorted(seen)


def test_prompt_negative_prompt_and_guidance_change_the_picture(handle, make_spec):
    plain = pixels(draw(handle, make_spec()).images[0])
    for change in (
        {"prompt": "a blue car"},
        {"negative_prompt": "red"},
        {"guidance_scale": 1.0},
        {"prompt": "a (red:0.1) apple"},
    ):
        assert abs(pixels(draw(handle, make_spec(**change)).images[0]) - plain).max() > 3, change


def test_a_lora_changes_the_picture_and_weight_zero_does_not(
    handle, make_spec, make_lora, save_lora
):
    bare = draw(handle, make_spec()).images[0].image
    lora = save_lora(make_lora(1), 1.0)
    result = draw(handle, make_spec(loras=(lora,)))
    assert abs(pixels(result.images[0]) - pixels(bare)).mean() > 3
    assert result.loras[0].sha256 == lora.sha256
    assert result.loras[0].matched

    off = lora.model_copy(update={"weight": 0.0})
    assert draw(handle, make_spec(loras=(off,))).images[0].image.tobytes() == bare.tobytes()
    assert draw(handle, make_spec()).images[0].image.tobytes() == bare.tobytes()


def test_stop_ends_within_a_step(handle, make_spec):
    steps = []
    with pytest.raises(Stopped):
        generate(
            handle,
            make_spec(steps=20),
            lambda *progress: steps.append(progress[1]),
            lambda: len(steps) >= 3,
        )
    assert steps == [1, 2, 3]
    # The next generation is not disturbed.
    assert draw(handle, make_spec()).images


def test_an_unknown_scheduler_is_refused_with_the_names(handle, make_spec):
    with pytest.raises(SchedulerUnknown, match="euler_a"):
        draw(handle, make_spec(scheduler="plms"))


def test_an_init_image_is_kept_the_more_the_lower_the_strength(handle, make_spec, tmp_path):
    source = draw(handle, make_spec(prompt="a blue car", seeds=(9,))).images[0].image
    path = tmp_path / "init.png"
    source.save(path)
    distance = {}
    for strength in (0.2, 0.5, 1.0):
        spec = make_spec(init_image=str(path), strength=strength, steps=10)
        image = draw(handle, spec).images[0]
        assert (image.width, image.height) == (64, 64)
        distance[strength] = float(abs(pixels(image) - pixels(source)).mean())
    assert distance[0.2] < distance[0.5] < distance[1.0]
    assert distance[0.2] < 0.5 * distance[1.0]


def test_an_init_image_of_another_shape_fills_the_picture(handle, make_spec, tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGBA", (200, 90), (255, 0, 0, 128)).save(path)
    image = draw(handle, make_spec(init_image=str(path), strength=0.5, width=96)).images[0]
    assert (image.width, image.height) == (96, 64)


def test_unusable_init_images_are_refused(handle, make_spec, tmp_path):
    path = Path(tmp_path, "text.png")
    path.write_text("not a picture")
    with pytest.raises(InitImageInvalid):
        draw(handle, make_spec(init_image=str(path)))
    with pytest.raises(StrengthTooLow, match=r"0\.1 of 6 steps"):
        draw(handle, make_spec(init_image=str(path), strength=0.1))


def test_a_broken_lora_ends_the_generation_with_its_readers_code(
    handle, make_spec, make_lora, save_lora
):
    lora = make_lora(1)
    next(iter(lora.modules.values())).up[0, 0] = float("nan")
    with pytest.raises(InferenceError) as refused:
        draw(handle, make_spec(loras=(save_lora(lora),)))
    assert refused.value.code == "lora_not_finite"


@pytest.mark.parametrize("vae_dtype", [torch.float32, torch.bfloat16])
def test_the_formats_of_a_gpu_draw_nearly_the_same(
    handle, base_spec, make_spec, make_lora, save_lora, tmp_path, vae_dtype
):
    """What CUDA computes in, tried on the CPU: every hand-over from one format to another."""
    low = open_pipeline(base_spec, DevicePolicy(torch.device("cpu"), torch.bfloat16, vae_dtype))
    path = tmp_path / "init.png"
    draw(handle, make_spec(prompt="a blue car")).images[0].image.save(path)
    lora = save_lora(make_lora(1), 0.5)
    for change in (
        {"prompt": "a (red:1.3) apple", "negative_prompt": "blue"},
        {"scheduler": "euler_a", "loras": (lora,)},
        {"init_image": str(path), "strength": 0.5},
    ):
        spec = make_spec(**change)
        found, expected = (pixels(draw(h, spec).images[0]) for h in (low, handle))
        assert abs(found - expected).mean() < 4, change


def test_a_loras_vectors_stand_for_its_trigger_word_and_leave_with_it(
    handle, make_spec, make_lora, tmp_path
):
    """The vectors are those of `apple`, so `zzyzx` draws what `apple` draws."""
    base = handle.base
    encoders = {"text_encoder": base.text_encoder, "text_encoder_2": base.text_encoder_2}
    tokenizers = (base.tokenizer, base.tokenizer_2)
    vectors = {
        name: vectors_like(tokenizer, encoder, "apple", 1).cpu()
        for (name, encoder), tokenizer in zip(encoders.items(), tokenizers, strict=True)
    }
    quiet = make_lora(1, pattern="mid_block")
    path = tmp_path / "trigger.safetensors"
    shape = UnetShape.of(base.unet.config)
    write_lora(path, Lora(quiet.modules, {}, vectors, "zzyzx"), shape, {})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    lora = LoraSpec(id="l", path=str(path), sha256=sha256, weight=1e-6)

    def drawn(prompt, *loras):
        return draw(handle, make_spec(prompt=prompt, loras=loras)).images[0].image

    before, apple = drawn("a red zzyzx"), drawn("a red apple")
    assert abs(pixels(drawn("a red zzyzx", lora)) - pixels(apple)).mean() < 1
    assert abs(pixels(before) - pixels(apple)).mean() > 3
    assert drawn("a red zzyzx").tobytes() == before.tobytes()

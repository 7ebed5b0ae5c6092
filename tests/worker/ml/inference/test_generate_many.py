"""Several specs drawn together, and what a generation can ask for besides."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from app.lora_format.names import UnetShape
from tests.worker.random_modules import Maker
from worker.ml.inference import generate as drawing
from worker.ml.inference.denoise import rescaled
from worker.ml.inference.errors import InferenceError, InitImageInvalid, Stopped
from worker.ml.inference.generate import Generation, Watch, generate, generate_many
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import LoraWeights
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.write import write_lora


def draw(handle, spec, on_preview=None):
    return generate(handle, spec, lambda *_: None, lambda: False, on_preview)


def draw_many(handle, specs, watches=None):
    quiet = Watch(lambda *_: None, lambda: False)
    return dict(generate_many(handle, specs, watches or [quiet] * len(specs)))


def pixels(image):
    return np.asarray(getattr(image, "image", image), dtype=np.int16)


def difference(one, other):
    return float(abs(pixels(one) - pixels(other)).mean())


@pytest.fixture
def batches_seen(monkeypatch):
    """The sizes of the batches that were denoised, and whether each was merged."""
    seen = []
    real = drawing.denoise

    def watched(handle, batch, on_step):
        seen.append((len(batch.rows), batch.merged))
        return real(handle, batch, on_step)

    monkeypatch.setattr(drawing, "denoise", watched)
    return seen


def test_requests_with_different_loras_prompts_and_seeds_run_as_one_batch(
    handle, make_spec, make_lora, save_lora, batches_seen
):
    a, b = save_lora(make_lora(1), 0.8), save_lora(make_lora(2, ""), -0.4)
    c = save_lora(make_lora(3, "text_encoder"), 1.0)
    specs = [
        make_spec(seeds=(1,), loras=(a,)),
        make_spec(seeds=(2, 3), loras=(b, a), prompt="a blue car", negative_prompt="red"),
        make_spec(seeds=(4,), prompt="a tree"),
        make_spec(seeds=(5,), loras=(c,)),
    ]
    together = draw_many(handle, specs)
    assert batches_seen == [(5, False)]
    for number, spec in enumerate(specs):
        alone = draw(handle, spec)
        assert together[number].loras == alone.loras
        for one, other in zip(together[number].images, alone.images, strict=True):
            assert one.seed == other.seed
            assert abs(pixels(one) - pixels(other)).max() <= 3


def test_a_set_that_cannot_be_stacked_is_drawn_merged_beside_the_others(
    handle, modules, make_spec, make_lora, save_lora, tmp_path, batches_seen
):
    made = Maker(3)
    paths = [p for p in sorted(modules) if p.startswith("unet.") and p.endswith("attn1.to_q")]
    loha = Lora({path: made.loha(modules[path].weight.detach()) for path in paths})
    path = tmp_path / "loha.safetensors"
    write_lora(path, loha, UnetShape.of(handle.base.unet.config), {}, torch.float32)
    plain = save_lora(make_lora(1))
    other = plain.model_copy(update={"path": str(path), "sha256": _sha256(path)})
    specs = [make_spec(loras=(one,)) for one in (plain, other)] + [make_spec()]
    together = draw_many(handle, specs)
    assert sorted(batches_seen) == [(1, True), (2, False)]
    for number, spec in enumerate(specs):
        found, expected = together[number].images[0], draw(handle, spec).images[0]
        assert abs(pixels(found) - pixels(expected)).max() <= 3


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_prompts_of_another_length_size_or_guidance_are_apart(handle, make_spec, batches_seen):
    long = ", ".join(["a red apple"] * 40)
    specs = [
        make_spec(),
        make_spec(prompt=long),
        make_spec(width=96),
        make_spec(guidance_scale=2.0),
    ]
    together = draw_many(handle, specs)
    assert [size for size, _ in batches_seen] == [1, 1, 1, 1]
    assert all(isinstance(result, Generation) for result in together.values())


def test_one_that_cannot_be_drawn_does_not_disturb_the_others(
    handle, make_spec, make_lora, save_lora
):
    broken = make_lora(1)
    next(iter(broken.modules.values())).up[0, 0] = float("nan")
    results = draw_many(handle, [make_spec(loras=(save_lora(broken),)), make_spec()])
    assert isinstance(results[0], InferenceError)
    assert results[0].code == "lora_not_finite"
    alone = draw(handle, make_spec()).images[0].image
    assert results[1].images[0].image.tobytes() == alone.tobytes()


def test_one_that_is_stopped_leaves_the_batch_to_the_others(handle, make_spec):
    heard, steps = [], []
    watches = [
        Watch(
            lambda *step: steps.append(step),
            lambda: len(steps) >= 2,
            on_stop=lambda: heard.append(len(steps)),
        ),
        Watch(lambda *_: None, lambda: False),
    ]
    specs = [make_spec(seeds=(1,)), make_spec(seeds=(2,))]
    results = draw_many(handle, specs, watches)
    assert isinstance(results[0], Stopped)
    # Told at once, once, and nothing more is heard of it.
    assert heard == [2]
    assert len(steps) == 2
    assert abs(pixels(results[1].images[0]) - pixels(draw(handle, specs[1]).images[0])).max() <= 3


def test_the_last_to_stop_ends_the_batch(handle, make_spec):
    steps = []
    watch = Watch(lambda *step: steps.append(step), lambda: len(steps) >= 3)
    results = draw_many(handle, [make_spec(seeds=(1, 2), steps=20)] * 2, [watch, watch])
    assert all(isinstance(result, Stopped) for result in results.values())
    assert len(steps) <= 4


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpmpp_2m"])
def test_a_lora_for_part_of_the_steps_is_the_bare_base_before_and_after(
    handle, make_spec, make_lora, save_lora, scheduler
):
    lora = save_lora(make_lora(1, ""), 1.0)

    def drawn(**changes):
        ranged = lora.model_copy(update=changes)
        return draw(handle, make_spec(loras=(ranged,), steps=10, scheduler=scheduler)).images[0]

    bare = draw(handle, make_spec(steps=10, scheduler=scheduler)).images[0]
    whole = drawn()
    assert difference(bare, whole) > 3
    early, late = drawn(end=0.5), drawn(start=0.5)
    assert difference(early, whole) > 1
    assert difference(late, whole) > 1
    assert difference(early, late) > 1
    # A range that no step falls in changes nothing, to the bit.
    assert drawn(start=0.951, end=0.999).image.tobytes() == bare.image.tobytes()
    assert drawn(start=0.0, end=1.0).image.tobytes() == whole.image.tobytes()


def test_ranges_and_parts_hold_in_a_mixed_batch(handle, make_spec, make_lora, save_lora):
    lora = save_lora(make_lora(1, ""), 1.0)
    weights = LoraWeights(unet=0.7, text_encoder=0.0, blocks={"unet.mid_block": -1.0})
    specs = [
        make_spec(seeds=(1,), loras=(lora.model_copy(update={"end": 0.4}),)),
        make_spec(seeds=(2,), loras=(lora.model_copy(update={"start": 0.3, "weight": weights}),)),
        make_spec(seeds=(3,)),
    ]
    together = draw_many(handle, specs)
    for number, spec in enumerate(specs):
        found, alone = together[number].images[0], draw(handle, spec).images[0]
        assert abs(pixels(found) - pixels(alone)).max() <= 3


def test_guidance_rescale_equals_diffusers(handle, make_spec):
    spec = make_spec(seeds=(42,), guidance_rescale=0.7, guidance_scale=9.0)
    ours = draw(handle, spec).images[0]
    handle.pipeline.scheduler = make_scheduler("euler", handle.base.scheduler_config)
    theirs = handle.pipeline(
        spec.prompt,
        width=64,
        height=64,
        num_inference_steps=spec.steps,
        guidance_scale=9.0,
        guidance_rescale=0.7,
        generator=torch.Generator().manual_seed(42),
    ).images[0]
    assert abs(pixels(ours) - pixels(theirs)).max() <= 1
    assert (
        difference(ours, draw(handle, spec.model_copy(update={"guidance_rescale": 0.0})).images[0])
        > 0.5
    )
    guided, plain = torch.randn(2, 4, 8, 8) * 3, torch.randn(2, 4, 8, 8)
    whole = rescaled(guided, plain, 1.0)
    assert torch.allclose(whole.std(dim=(1, 2, 3)), plain.std(dim=(1, 2, 3)), rtol=1e-5)


@pytest.fixture
def source(handle, make_spec, tmp_path):
    picture = draw(handle, make_spec(prompt="a blue car", seeds=(9,), steps=12)).images[0].image
    path = tmp_path / "source.png"
    picture.save(path)
    return path, picture


@pytest.mark.parametrize("scheduler", ["euler", "dpmpp_2m_sde", "heun", "ddim"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_outside_of_the_mask_not_a_bit_changes(
    handle, make_spec, source, tmp_path, scheduler, strength
):
    path, picture = source
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    spec = make_spec(
        init_image=str(path),
        mask_image=str(tmp_path / "mask.png"),
        strength=strength,
        scheduler=scheduler,
        steps=10,
        prompt="a red apple",
    )
    drawn = pixels(draw(handle, spec).images[0])
    assert (drawn[:, 32:] == pixels(picture)[:, 32:]).all()
    assert abs(drawn[:, :32] - pixels(picture)[:, :32]).mean() > 3
    assert abs(drawn - pixels(draw(handle, spec).images[0])).max() == 0


def test_a_mask_of_another_size_or_without_a_picture_is_refused(
    handle, make_spec, source, tmp_path
):
    Image.new("L", (32, 64)).save(tmp_path / "mask.png")
    mask = str(tmp_path / "mask.png")
    with pytest.raises(InitImageInvalid, match="32×64 pixels and the init image 64×64"):
        draw(handle, make_spec(init_image=str(source[0]), mask_image=mask))
    with pytest.raises(ValidationError, match="needs an init_image"):
        make_spec(mask_image=mask)


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_a_hires_pass_enlarges_the_same_picture(handle, make_spec, upscaler):
    small = draw(handle, make_spec(steps=12)).images[0]
    hires = {"scale": 1.5, "strength": 0.4, "upscaler": upscaler}
    seen = []
    large = generate(
        handle,
        make_spec(steps=12, hires=hires),
        lambda *step: seen.append(step),
        lambda: False,
    ).images[0]
    assert (large.width, large.height) == (96, 96)
    shrunk = large.image.resize((64, 64), Image.Resampling.LANCZOS)
    other = draw(handle, make_spec(steps=12, seeds=(77,))).images[0]
    assert difference(shrunk, small) < difference(shrunk, other)
    # Twelve steps and the last four of twelve.
    assert seen[-1] == (1.0, 16, 16)


def test_rows_of_a_batch_start_from_pictures_of_their_own(handle, make_spec, source, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), (250, 220, 30)).save(other)
    specs = [
        make_spec(init_image=str(path), strength=0.5, steps=8, seeds=(n,))
        for n, path in enumerate((source[0], other))
    ]
    together = draw_many(handle, specs)
    for number, spec in enumerate(specs):
        found, alone = together[number].images[0], draw(handle, spec).images[0]
        assert abs(pixels(found) - pixels(alone)).max() <= 3


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpmpp_2m", "ddim", "unipc", "lcm"])
def test_previews_come_closer_to_the_picture(handle, make_spec, scheduler):
    previews = []
    spec = make_spec(steps=12, previews=3, scheduler=scheduler, seeds=(3, 4))
    result = draw(handle, spec, previews.append)
    assert [(p.number, p.step, p.total_steps) for p in previews] == [
        (number, step, 12) for step in (3, 6, 9) for number in (0, 1)
    ]
    final = pixels(result.images[0].image.resize((16, 16), Image.Resampling.BOX))
    first, _, last = (pixels(p.image) for p in previews if p.number == 0)
    assert first.shape == (16, 16, 3)
    grey = np.full_like(final, 128)
    assert abs(last - final).mean() < 0.6 * abs(grey - final).mean()
    assert abs(last - final).mean() <= abs(first - final).mean() + 2


def test_no_previews_are_made_unless_asked_for(handle, make_spec):
    draw(handle, make_spec(), lambda _: pytest.fail("a preview nobody asked for"))

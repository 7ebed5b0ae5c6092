"""Networks that wait in host memory while others work."""

import numpy as np
import pytest
import torch
from torch import nn

from worker.ml.inference.generate import generate
from worker.ml.inference.memory import MemoryPlan, Placement
from worker.ml.inference.residency import ENCODERS, Residency

DEVICE = torch.device("cuda")
NAMES = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture
def moves():
    return []


@pytest.fixture
def residency(moves):
    """Of four networks, with moves written down where there is no card to move to."""
    networks = {name: nn.Linear(2, 2) for name in NAMES}
    names = {id(network): name for name, network in networks.items()}
    return Residency(
        networks,
        DEVICE,
        move=lambda network, device: moves.append((names[id(network)], device.type)),
    )


def test_nothing_is_on_the_device_before_it_is_asked_for(residency, moves):
    assert not residency.there
    residency.bring("vae")
    residency.bring("vae")
    assert moves == [("vae", "cuda")]
    assert residency.nbytes == 6 * 4


def test_residents_stay(residency, moves):
    residency.settle("resident")
    assert residency.there == set(NAMES)
    moves.clear()
    for name in NAMES:
        residency.bring(name)
    assert moves == []


def test_parked_encoders_leave_when_the_unet_draws_and_come_back(residency, moves):
    residency.settle("resident")
    residency.settle("encoders_parked")
    moves.clear()
    residency.bring("unet")
    assert moves == [("text_encoder", "cpu"), ("text_encoder_2", "cpu")]
    residency.bring("vae")
    assert residency.there == {"unet", "vae"}
    residency.bring(*ENCODERS)
    assert residency.there == set(NAMES)


def test_one_at_a_time_leaves_before_the_next_comes(residency, moves):
    residency.settle("one_at_a_time")
    residency.bring(*ENCODERS)
    moves.clear()
    residency.bring("unet")
    assert moves == [("text_encoder", "cpu"), ("text_encoder_2", "cpu"), ("unet", "cuda")]
    residency.bring("vae")
    assert residency.there == {"vae"}


@pytest.fixture
def watched(handle, monkeypatch):
    """The real pipeline, refusing to work with a network that is not on the device."""
    placements: list[Placement] = ["resident"]

    def plan(*_: int, most: int, **__: bool) -> MemoryPlan:
        return MemoryPlan(placements[0], False, most, 0, True, "as the test says")

    monkeypatch.setattr(handle, "plan", plan)
    residency = handle.residency
    hooks = []
    for name, network in handle.base.networks().items():

        def there(*_: object, name: str = name) -> None:
            assert name in residency.there

        hooks.append(network.register_forward_pre_hook(there))
    vae = handle.base.vae
    for part in (vae.encoder, vae.decoder):

        def vae_there(*_: object) -> None:
            assert "vae" in residency.there

        hooks.append(part.register_forward_pre_hook(vae_there))
    yield handle, placements
    for hook in hooks:
        hook.remove()
    residency.settle("resident")


def test_every_placement_draws_the_same_picture_and_has_what_it_uses(
    watched, make_spec, make_lora, save_lora, tmp_path
):
    """With a LoRA that comes half-way, a picture to start from, a second pass and previews."""
    handle, placements = watched
    lora = save_lora(make_lora(1), weight=0.7).model_copy(update={"start": 0.5})
    first = generate(handle, make_spec(), lambda *_: None, lambda: False).images[0].image
    first.save(tmp_path / "source.png")
    spec = make_spec(
        loras=(lora,),
        init_image=str(tmp_path / "source.png"),
        hires={"scale": 1.5, "strength": 0.5, "upscaler": "lanczos"},
        previews=2,
    )

    def draw() -> np.ndarray:
        handle.__dict__.pop("colours", None)
        shown = []
        found = generate(handle, spec, lambda *_: None, lambda: False, shown.append)
        assert len(shown) == 2
        return np.asarray(found.images[0].image)

    expected = draw()
    for placement in ("encoders_parked", "one_at_a_time"):
        placements[0] = placement
        assert np.array_equal(draw(), expected)
        assert (
            handle.residency.there
            == {
                "encoders_parked": {"unet", "vae"},
                "one_at_a_time": {"vae"},
            }[placement]
        )


def test_a_tiled_picture_is_close_to_the_whole_one(handle, make_spec, monkeypatch):
    spec = make_spec(width=128, height=128)
    whole = generate(handle, spec, lambda *_: None, lambda: False).images[0].image
    plan = MemoryPlan("resident", True, 1, 0, True, "as the test says")
    monkeypatch.setattr(handle, "plan", lambda *_, **__: plan)
    tiled = generate(handle, spec, lambda *_: None, lambda: False).images[0].image
    monkeypatch.undo()
    difference = np.asarray(tiled, dtype=float) - np.asarray(whole, dtype=float)
    assert difference.any()
    assert np.sqrt((difference**2).mean()) < 12
    again = generate(handle, spec, lambda *_: None, lambda: False).images[0].image
    assert np.array_equal(np.asarray(again), np.asarray(whole))

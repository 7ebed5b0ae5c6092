"""Precision and attention follow the processor and the wish, and the log says why."""

from pathlib import Path

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.training.memory import plan
from worker.ml.training.memory.ladder import MemoryPlan
from worker.ml.training.memory.plan import fit, footprint_of, make_plan
from worker.ml.training.spec import BaseModelSpec

EMOJI = BaseModelSpec(
    id="emoji-64",
    location=str(Path(__file__).parents[5] / "assets" / "emoji-64"),
    architecture="emoji-64",
    native_resolution=64,
    vae_scale_factor=4,
)
GIB = 1024**3


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch):
    """The plans of a machine that has none, on whatever machine this is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def _params(**changes):
    return TrainingParams(**{"resolution": 64, "seed": 1, **changes})


def _plan(vae_scale_factor=4, **changes):
    return make_plan(_params(**changes), vae_scale_factor, lambda: footprint_of(EMOJI))


@pytest.mark.parametrize(
    ("native", "dtype", "said"),
    [
        (True, torch.bfloat16, "this CPU has instructions for it"),
        (False, torch.float32, "would only emulate bfloat16"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_has_it(native, dtype, said, monkeypatch):
    monkeypatch.setattr(plan, "cpu_computes_bfloat16", lambda: native)
    chosen = _plan()
    assert chosen.policy.dtype == dtype
    assert any(said in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    ("asked", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), ("fp16", torch.float32)]
)
def test_a_wish_is_followed_or_answered(asked, dtype, monkeypatch):
    monkeypatch.setattr(plan, "cpu_computes_bfloat16", lambda: False)
    chosen = _plan(mixed_precision=asked)
    assert chosen.policy.dtype == dtype
    assert chosen.policy.vae_dtype == torch.float32
    assert any("asked" in reason or "float16" in reason for reason in chosen.reasons)


def test_plain_attention_is_for_small_latents_alone():
    assert make_plan(
        _params(mixed_precision="bf16"), 4, lambda: footprint_of(EMOJI)
    ).plain_attention
    assert not make_plan(
        _params(mixed_precision="bf16", resolution=1024), 8, lambda: footprint_of(EMOJI)
    ).plain_attention


@pytest.mark.parametrize(
    ("free", "expected"),
    [(2 * GIB, MemoryPlan()), (GIB // 2, MemoryPlan(True, 2, "int8"))],
)
def test_a_plan_gives_up_only_what_memory_demands_and_says_why(free, expected):
    plan, reasons = fit(
        _params(batch_size=2), 4, footprint_of(EMOJI), free_bytes=free, element=2, smaller="int8"
    )
    assert plan == expected
    assert reasons
    assert all("GiB" in reason for reason in reasons)


def test_what_is_asked_for_is_kept_though_memory_may_not_do():
    asked = _params(gradient_checkpointing="off", base_storage="full")
    plan, reasons = fit(asked, 4, footprint_of(EMOJI), free_bytes=1000, element=2, smaller="fp8")
    assert (plan.checkpointing, plan.storage) == (False, "full")
    assert reasons[-1].endswith("trying with that")

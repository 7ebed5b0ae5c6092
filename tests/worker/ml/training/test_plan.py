"""Precision and attention follow the processor and the wish, and the log says why."""

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.training import plan
from worker.ml.training.plan import make_plan

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="plans of a machine without CUDA")


def _params(**changes):
    return TrainingParams(**{"resolution": 64, "seed": 1, **changes})


@pytest.mark.parametrize(
    ("native", "dtype", "said"),
    [
        (True, torch.bfloat16, "this CPU has instructions for it"),
        (False, torch.float32, "would only emulate bfloat16"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_has_it(native, dtype, said, monkeypatch):
    monkeypatch.setattr(plan, "cpu_computes_bfloat16", lambda: native)
    chosen = make_plan(_params(), 4)
    assert chosen.policy.dtype == dtype
    assert any(said in reason for reason in chosen.reasons)


@pytest.mark.parametrize(
    ("asked", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32), ("fp16", torch.float32)]
)
def test_a_wish_is_followed_or_answered(asked, dtype, monkeypatch):
    monkeypatch.setattr(plan, "cpu_computes_bfloat16", lambda: False)
    chosen = make_plan(_params(mixed_precision=asked), 4)
    assert chosen.policy.dtype == dtype
    assert chosen.policy.vae_dtype == torch.float32
    assert any("asked" in reason or "float16" in reason for reason in chosen.reasons)


def test_plain_attention_is_for_small_latents_alone():
    assert make_plan(_params(mixed_precision="bf16"), 4).plain_attention
    assert not make_plan(_params(mixed_precision="bf16", resolution=1024), 8).plain_attention

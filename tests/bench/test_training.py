"""All loops of a comparison are told the same."""

from bench.settings import Settings, example_pictures
from worker.ml.training.spec import TrainingSpec


def test_our_trainer_is_told_what_the_straight_loop_is_told():
    settings = Settings(pictures=example_pictures(4), rank=8, steps=20, precision="bf16")
    spec = TrainingSpec.model_validate(settings.spec())
    params = spec.params
    assert len(spec.images) % settings.batch_size == 0
    assert params.target == "attention"
    for name in ("rank", "alpha", "batch_size", "learning_rate", "weight_decay", "resolution"):
        assert getattr(params, name) == getattr(settings, name)
    assert params.max_grad_norm == settings.max_grad_norm
    assert params.min_snr_gamma == settings.min_snr_gamma
    assert params.max_steps == settings.steps
    assert params.mixed_precision == settings.precision
    # A straight loop measures and draws nothing either.
    assert params.validation_fraction == 0
    assert not spec.sample_prompts
    assert not spec.generic_prompts

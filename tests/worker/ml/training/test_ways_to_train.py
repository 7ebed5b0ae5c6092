"""Every adapter, loss and optimizer learns: twenty steps lower the loss on held-out pictures."""

import hashlib
import json

import pytest
import torch
from PIL import Image

from app.lora_format.check import describe
from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.modules import change
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of

STEPS = 20
SHORT = {
    "rank": 8,
    "alpha": 8.0,
    "batch_size": 4,
    "num_repeats": 8,
    "max_steps": STEPS,
    "epochs": 1,
    "validation_fraction": 0.2,
    "learning_rate": 2e-3,
    "mixed_precision": "no",
}
# Text encoders learn with the UNet; the trigger's vectors are new.
TEXT = {"train_text_encoder": True, "text_encoder_learning_rate": 1e-3}
RATES = {
    "adamw8bit": {},
    "adafactor": {},
    "lion": {"learning_rate": 5e-4},
    "prodigy": {"learning_rate": 1.0, "lr_scheduler": "constant"},
    "adamw_schedulefree": {"learning_rate": 5e-3, "lr_scheduler": "constant"},
}


@pytest.fixture
def spec_of(write_spec, many_pictures):
    """Enough pictures that the same ones are held out of every epoch."""
    return lambda params, **more: write_spec(
        params, pictures=many_pictures, **{"generic_prompts": [], **more}
    )


def _falls(run, spec):
    done = run(spec).go()
    result = done.of("result")[0]
    assert result["base_hash_unchanged"] is True
    rows = done.rows()
    before, after = rows[0]["validation_loss"], rows[STEPS]["validation_loss"]
    assert rows[STEPS]["base_validation_loss"] == rows[0]["base_validation_loss"]
    assert after < before
    print(f"validation loss {before:.4f} -> {after:.4f}")
    return done


@pytest.mark.parametrize("variant", ["lora", "dora", "loha", "lokr"])
@pytest.mark.parametrize("target", ["attention", "full", "conv"])
def test_every_variant_on_every_target_learns_and_is_written_as_it_is(
    run, spec_of, variant, target
):
    done = _falls(run, spec_of({**SHORT, "variant": variant, "target": target}))
    training = done.training
    file = training.output / "checkpoints" / f"{STEPS:08d}.safetensors"
    base = training.spec.base_model
    unet = load_base_model(base.location, None, training.plan.policy, parts=("unet",)).unet
    stored, unmatched = read_lora(file, index_of({"unet": unet}))
    assert unmatched == ()
    trained = training.trainee.lora()
    assert stored.modules.keys() == trained.modules.keys()
    for path, module in trained.modules.items():
        weight = unet.get_submodule(path.removeprefix("unet.")).weight
        wanted, found = change(module, weight), change(stored.modules[path], weight)
        error = float((wanted - found).norm() / wanted.norm().clamp(min=1e-12))
        # DoRA's is a small difference of large numbers, which half precision's rounding moves more.
        assert error < (0.05 if variant == "dora" else 5e-3), path
    kinds = {"lora": "locon" if target == "conv" else "lora"}
    assert kinds.get(variant, variant) in describe(file).contents.kinds
    assert describe(file).metadata["ss_network_module"] == (
        "networks.lora" if variant == "lora" else "lycoris.kohya"
    )


@pytest.mark.parametrize(
    "params",
    [
        {"loss": "huber"},
        {"loss": "smooth_l1"},
        {"min_snr_gamma": None},
        {"debiased_estimation": True},
        {"noise_offset": 0.05},
        {"multires_noise_iterations": 3},
        {"input_perturbation": 0.1},
        {"min_timestep": 100, "max_timestep": 900, "timestep_bias": 0.5},
        {"rank_stabilized": True},
        {"lora_plus_ratio": 4.0},
        {"ema_decay": 0.9},
        {"max_norm": 1.0},
        {"neuron_dropout": 0.1, "rank_dropout": 0.1, "module_dropout": 0.1},
        {"gradient_checkpointing": "on"},
        {"base_storage": "int8"},
        {"base_storage": "fp8", "variant": "dora"},
        {"random_crop": True, "flip_augment": True, "latent_samples": 2},
        {"tag_dropout_rate": 0.2, "wildcards": True},
        {"cache_placement": "disk"},
    ],
    ids=lambda params: "-".join(params),
)
def test_every_way_to_train_learns(run, spec_of, params):
    _falls(run, spec_of({**SHORT, **params}))


@pytest.mark.parametrize("optimizer", RATES)
def test_every_optimizer_learns(run, spec_of, optimizer):
    _falls(run, spec_of({**SHORT, "optimizer": optimizer, **RATES[optimizer]}))


@pytest.mark.parametrize(
    "scheduler", ["constant", "linear", "cosine_with_restarts", "polynomial", "rex"]
)
def test_every_schedule_learns(run, spec_of, scheduler):
    params = {"lr_scheduler": scheduler, "lr_warmup_steps": 2, "lr_cycles": 2, "lr_power": 2.0}
    _falls(run, spec_of({**SHORT, **params}))


def test_a_base_taught_to_predict_velocity_learns(run, spec_of):
    """The base predicts noise, so that its loss as velocity is large at first, and falls."""
    params = {"prediction": "v_prediction", "zero_terminal_snr": True}
    done = _falls(run, spec_of({**SHORT, **params}))
    (checkpoint,) = done.of("checkpoint")
    assert checkpoint["file_metadata"]["modelspec.prediction_type"] == "v"


def test_text_encoders_learn_with_the_unet(run, spec_of):
    done = _falls(run, spec_of({**SHORT, **TEXT, "gradient_checkpointing": "on"}))
    modules = done.training.trainee.lora().modules
    still = {path for path, module in modules.items() if not module.delta().any()}
    # SDXL reads the first encoder one layer before its end, so nothing reaches its last one.
    last = done.training.trainee.networks["text_encoder"].config.num_hidden_layers - 1
    assert still == {
        path for path in modules if f"text_encoder.text_model.encoder.layers.{last}." in path
    }
    components = {path.partition(".")[0] for path in modules}
    assert components == {"unet", "text_encoder", "text_encoder_2"}
    file = done.training.output / "checkpoints" / f"{STEPS:08d}.safetensors"
    assert describe(file).contents.unmatched == ()


def test_a_trigger_word_gets_vectors_of_its_own(run, spec_of):
    spec = spec_of({**SHORT, "trigger_vectors": 2, "trigger_learning_rate": 1e-2})
    done = _falls(run, spec)
    trainee = done.training.trainee
    file = done.training.output / "checkpoints" / f"{STEPS:08d}.safetensors"
    stored, unmatched = read_lora(file, trainee.index)
    assert (stored.trigger, unmatched) == ("inkstyle", ())
    for name, vectors in trainee.lora().embeddings.items():
        assert vectors.shape[0] == 2
        assert torch.allclose(stored.embeddings[name], vectors, atol=1e-3)
        start = trainee.tables[name].weight
        assert not any(torch.equal(vectors[0], row) for row in start)


def test_class_pictures_and_masks_take_part(run, spec_of, tmp_path):
    spec = spec_of({**SHORT, "prior_preservation": {"weight": 0.5}})
    content = json.loads(spec.read_text())
    mask = tmp_path / "mask.png"
    Image.new("L", (8, 8), 200).save(mask)
    for image in content["images"][:2]:
        image["regularization"] = True
    for image in content["images"][2:5]:
        image["mask_path"] = str(mask)
        image["mask_sha256"] = hashlib.sha256(mask.read_bytes()).hexdigest()
    spec.write_text(json.dumps(content))
    done = _falls(run, spec)
    weights = {
        float(weight)
        for numbers in done.training._epoch_batches(0)
        for weight in done.training.maker.make(numbers, 0, 0).weights
    }
    assert weights == {0.5, 1.0}


def test_a_warm_start_begins_where_the_other_ended(run, spec_of):
    first = run(spec_of(SHORT), "first").go()
    file = first.training.output / "checkpoints" / f"{STEPS:08d}.safetensors"
    second = run(spec_of({**SHORT, "max_steps": 1}, warm_start=str(file)), "second").go()
    ended = first.rows()[STEPS]["validation_loss"]
    assert second.rows()[0]["validation_loss"] == pytest.approx(ended, rel=1e-3)
    assert second.rows()[0]["base_validation_loss"] > ended


def test_early_stop_ends_when_checkpoints_grow_no_better(run, spec_of):
    params = {"learning_rate": 1e-9, "early_stop_checkpoints": 2, "save_every_n_epochs": 1}
    params |= {"epochs": 9, "num_repeats": 1, "max_steps": None}
    done = run(spec_of({**SHORT, **params, "validation_fraction": 0.2})).go()
    result = done.of("result")[0]
    assert result["ended_early"] is True
    assert len(done.of("checkpoint")) < 9
    assert any("ended early" in event["message"] for event in done.of("log"))


def test_prior_drift_grows_with_the_change_and_is_nothing_at_first(run, spec_of):
    prompts = {"generic_prompts": ["a photo of a dog", "a bowl of fruit"]}
    gentle = run(spec_of({**SHORT, "learning_rate": 1e-4}, **prompts), "gentle").go().rows()
    violent = run(spec_of({**SHORT, "learning_rate": 1e-2}, **prompts), "violent").go().rows()
    assert gentle[0]["prior_drift"] == 0
    assert 0 < gentle[STEPS]["prior_drift"] < violent[STEPS]["prior_drift"]

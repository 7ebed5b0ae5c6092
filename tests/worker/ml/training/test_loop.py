"""The loop in this process: it learns, stops where nothing is half done, and sees divergence."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of
from worker.ml.training.errors import BaseModelUnsuitable, LossNotFinite, OutOfMemory, Stopped
from worker.ml.training.step import Stepper


def test_loss_on_held_out_pictures_and_noise_falls(run, write_spec):
    params = {"rank": 16, "alpha": 16.0, "batch_size": 8, "num_repeats": 15, "max_steps": 60}
    done = run(write_spec({**params, "validation_fraction": 0.2})).go()
    result = done.of("result")[0]
    assert result["last_validation_loss"] < 0.9 * result["first_validation_loss"]
    assert result["base_hash_unchanged"] is True
    rows = done.rows()
    assert rows[0]["validation_loss"] == result["first_validation_loss"]
    assert rows[60]["validation_loss"] == result["last_validation_loss"]
    assert sorted(rows) == list(range(61))
    # Cosine from the rate to zero.
    assert rows[1]["lr"] == pytest.approx(1e-3)
    assert rows[31]["lr"] == pytest.approx(5e-4)


def test_the_file_holds_exactly_the_trained_modules(run, write_spec):
    done = run(write_spec({"target": "full", "max_steps": 2}))
    done.go()
    training = done.training
    base = training.spec.base_model
    unet = load_base_model(base.location, None, training.plan.policy, parts=("unet",)).unet
    lora, unmatched = read_lora(
        training.output / "checkpoints" / "00000002.safetensors", index_of({"unet": unet})
    )
    assert unmatched == ()
    endings = {path.split(".", 3)[-1].rpartition("blocks.0.")[2] for path in lora.modules}
    assert {"attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"} <= endings
    assert any(path.endswith("proj_in") for path in lora.modules)
    assert all(float(module.up.abs().max()) > 0 for module in lora.modules.values())


def test_accumulating_two_batches_is_one_step_on_all_their_pictures(run, write_spec):
    """Nothing is drawn by the micro-step: only the rounding may differ."""
    shared = {"caption_dropout_rate": 0.0, "shuffle_caption": False, "mixed_precision": "no"}
    shared |= {"validation_fraction": 0.0, "min_snr_gamma": None, "num_repeats": 1, "max_steps": 1}
    whole = run(write_spec({**shared, "batch_size": 1, "gradient_accumulation": 2}), "whole").go()
    batches = whole.training._epoch_batches(0)[:2]
    # Adapters have moved by one step; at the first step they changed nothing.
    with whole.training.trainee.adapters.off():
        separate = [
            float(whole.training.trainee.denoiser.errors(batch, whole.training.spec.params).sum())
            for micro_step, numbers in enumerate(batches)
            if (batch := whole.training.maker.make(numbers, micro_step, 0))
        ]
    assert whole.rows()[1]["loss"] == pytest.approx(sum(separate) / 2, rel=1e-5)


def test_a_run_stopped_inside_a_checkpoint_makes_it_when_it_goes_on(run, write_spec):
    spec = write_spec({"max_steps": 2})

    def at_the_checkpoint(running):
        return running.training.position.step == 2

    stopped = run(spec, should_stop=at_the_checkpoint)
    with pytest.raises(Stopped) as caught:
        stopped.go()
    assert caught.value.step == 2
    assert not stopped.of("checkpoint")
    resumed = run(spec).go(resume=True)
    assert [event["step"] for event in resumed.of("checkpoint")] == [2]
    assert resumed.rows()[2]["validation_loss"] is not None
    whole = run(spec, "whole").go()
    assert resumed.of("checkpoint")[0]["sha256"] == whole.of("checkpoint")[0]["sha256"]
    # Told before it was stopped, and not again.
    assert stopped.rows()[2]["loss"] == whole.rows()[2]["loss"]


def test_a_state_of_another_spec_is_not_gone_on_from(run, write_spec):
    spec = write_spec({"max_steps": 2})
    run(spec).go()
    other = run(spec)
    other.training.spec_sha256 = "other"
    other.go(resume=True)
    assert sorted(other.rows()) == [0, 1, 2]
    assert any("another spec" in event["message"] for event in other.of("log"))


def test_a_loss_that_runs_away_ends_the_run_and_keeps_earlier_checkpoints(run, write_spec):
    spec = write_spec({"save_every_n_epochs": 1, "epochs": 3})
    running = run(spec)
    training = running.training
    whole_step = training._step

    def diverging(step):
        if step == 4:
            with torch.no_grad():
                next(iter(training.trainee.parameters.values())).fill_(float("nan"))
        whole_step(step)

    training._step = diverging
    with pytest.raises(LossNotFinite, match="loss became nan at step 5; try a learning rate"):
        running.go()
    assert [event["step"] for event in running.of("checkpoint")] == [3]
    assert [path.name for path in (training.output / "checkpoints").iterdir()] == [
        "00000003.safetensors"
    ]
    assert [path.name for path in (training.output / "states").iterdir()] == ["state-00000003"]


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(run, write_spec):
    running = run(write_spec({"max_steps": 2}))
    training = running.training
    whole_step = training._step

    def poisoned(step):
        if step == 1:
            next(iter(training.trainee.parameters.values())).register_hook(
                lambda gradient: gradient * float("inf")
            )
        whole_step(step)

    training._step = poisoned
    with pytest.raises(LossNotFinite, match=r"gradient became (nan|inf) at step 2"):
        running.go()
    assert not running.of("checkpoint")


def test_a_loss_beyond_reason_ends_the_run_though_it_is_finite(run, write_spec, monkeypatch):
    running = run(write_spec({"max_steps": 3}))
    true_gradients = Stepper.gradients
    monkeypatch.setattr(Stepper, "gradients", lambda *args: 1e4 * true_gradients(*args))
    with pytest.raises(LossNotFinite, match=r"loss became \d+.* at step 1; try a learning rate"):
        running.go()


def test_a_base_of_another_kind_is_refused(run, write_spec, tmp_path):
    running = run(write_spec({"max_steps": 1}))
    base = running.training.spec.base_model
    copy = tmp_path / "base"
    copy.mkdir()
    for part in os.scandir(base.location):
        (copy / part.name).symlink_to(part.path)
    (copy / "scheduler").unlink()
    (copy / "scheduler").mkdir()
    config = json.loads(
        (tmp_path / base.location / "scheduler" / "scheduler_config.json").read_text()
    )
    (copy / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "prediction_type": "sample"})
    )
    running.training.spec = running.training.spec.model_copy(
        update={"base_model": base.model_copy(update={"location": str(copy)})}
    )
    with pytest.raises(BaseModelUnsuitable, match="emoji-64: the base predicts sample"):
        running.go()


def test_plain_attention_and_bfloat16_train_as_float32_does(run, write_spec):
    """The choices that make steps fast change the loss by rounding alone."""
    losses = []
    for precision in ("bf16", "no"):
        done = run(write_spec({"mixed_precision": precision, "max_steps": 1}), precision).go()
        assert done.training.plan.plain_attention is (precision == "bf16")
        losses.append(done.rows()[1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def _short_of_memory(monkeypatch, fits):
    """Let the device run out of memory wherever `fits` does not hold; what was tried, in order."""
    tried = []
    true_gradients = Stepper.gradients

    def gradients(stepper, batches, pictures, parts, step):
        checkpointing = stepper.denoiser.unet.is_gradient_checkpointing
        small = any("codes" in name for name, _ in stepper.denoiser.unet.named_buffers())
        tried.append((checkpointing, parts, small))
        if not fits(*tried[-1]):
            # Half of the work is done when memory ends.
            true_gradients(stepper, batches[:1], pictures, parts, step)
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
        return true_gradients(stepper, batches, pictures, parts, step)

    monkeypatch.setattr(Stepper, "gradients", gradients)
    return tried


def test_out_of_memory_gives_up_one_thing_after_another_and_says_so(run, write_spec, monkeypatch):
    spec = write_spec({"max_steps": 2, "validation_fraction": 0.0})
    tried = _short_of_memory(monkeypatch, lambda _, __, small: small)
    done = run(spec).go()
    assert tried[:5] == [
        (False, 1, False),
        (True, 1, False),
        (True, 2, False),
        (True, 4, False),
        (True, 4, True),
    ]
    told = [e["message"] for e in done.of("log") if "memory ran out at step 1" in e["message"]]
    assert [message.rpartition("from here on ")[2] for message in told] == [
        "activations are computed twice, not kept",
        "2 of 4 pictures at once",
        "1 of 4 pictures at once",
        "the frozen weights are kept in int8",
    ]
    assert done.of("result")[0]["base_hash_unchanged"] is True
    assert sorted(done.rows()) == [0, 1, 2]


def test_what_memory_forces_changes_the_result_by_rounding_alone(run, write_spec, monkeypatch):
    params = {"max_steps": 3, "mixed_precision": "no", "neuron_dropout": 0.0}
    plain = run(write_spec(params), "plain").go()
    _short_of_memory(monkeypatch, lambda checkpointing, parts, _: checkpointing and parts == 2)
    forced = run(write_spec(params), "forced").go()
    for step in (1, 2, 3):
        assert forced.rows()[step]["loss"] == pytest.approx(plain.rows()[step]["loss"], rel=1e-4)


def test_a_resumed_run_keeps_what_memory_forced(run, write_spec, monkeypatch):
    spec = write_spec({"max_steps": 4})
    _short_of_memory(monkeypatch, lambda checkpointing, *_: checkpointing)
    stopping = SimpleNamespace(at=2)
    first = run(spec, should_stop=lambda r: r.training.position.step == stopping.at)
    with pytest.raises(Stopped):
        first.go()
    resumed = run(spec).go(resume=True)
    assert resumed.training.trainee.memory.checkpointing
    assert not any("memory ran out" in event["message"] for event in resumed.of("log"))


def test_too_little_memory_whatever_is_given_up_is_an_error(run, write_spec, monkeypatch):
    _short_of_memory(monkeypatch, lambda *_: False)
    with pytest.raises(OutOfMemory, match="too little memory for 64 px, though"):
        run(write_spec({"max_steps": 2})).go()

"""The loop in this process: it learns, stops where nothing is half done, and sees divergence."""

import io
import json
import os

import pytest
import torch

from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.index import LoraIndex
from worker.ml.lora_files.read import read_lora
from worker.ml.training.errors import BaseModelUnsuitable, LossNotFinite, Stopped
from worker.ml.training.events import Events
from worker.ml.training.loop import Training
from worker.ml.training.plan import make_plan
from worker.ml.training.prepare import prepare
from worker.ml.training.spec import read_spec


class Run:
    """A training in this process and what it told."""

    def __init__(self, spec_path, output, cache, should_stop=lambda _: False):
        spec = read_spec(spec_path)
        self._told = io.StringIO()
        events = Events(self._told)
        plan = make_plan(spec.params, spec.base_model.vae_scale_factor)
        self.training = Training(
            spec=spec,
            spec_sha256="spec",
            plan=plan,
            prepared=prepare(spec, plan, cache, events, lambda: None),
            output=output,
            events=events,
            should_stop=lambda: should_stop(self),
            state_every_seconds=1e9,
        )

    def go(self, *, resume=False):
        self.training.run(resume=resume)
        return self

    def of(self, type_):
        told = [json.loads(line) for line in self._told.getvalue().splitlines()]
        return [event for event in told if event["type"] == type_]

    def rows(self):
        return {row["step"]: row for event in self.of("metrics") for row in event["rows"]}


@pytest.fixture(autouse=True)
def _one_thread():
    """As the program runs in the tests: small matrices gain nothing from a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path, cache):
    return lambda spec, **options: Run(spec, tmp_path / "run", cache, **options)


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
        training.output / "checkpoints" / "00000002.safetensors", LoraIndex({"unet": unet})
    )
    assert unmatched == ()
    endings = {path.split(".", 3)[-1].rpartition("blocks.0.")[2] for path in lora.modules}
    assert {"attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"} <= endings
    assert any(path.endswith("proj_in") for path in lora.modules)
    assert all(float(module.up.abs().max()) > 0 for module in lora.modules.values())


def test_accumulating_two_batches_is_one_step_on_both(run, write_spec):
    """One picture a batch, no chance in the captions: only the rounding may differ."""
    shared = {"caption_dropout_rate": 0.0, "shuffle_caption": False, "mixed_precision": "no"}
    shared |= {"validation_fraction": 0.0, "min_snr_gamma": None, "batch_size": 1}
    whole = run(write_spec({**shared, "gradient_accumulation": 2, "max_steps": 1})).training
    whole._load()
    with torch.no_grad():
        separate = [whole._loss([number], micro_step) for micro_step, number in enumerate((3, 5))]
    whole._step(0, 0, [[3], [5]])
    assert float(whole._waiting[0].loss) == pytest.approx(float(sum(separate)) / 2, rel=1e-5)


def test_a_run_stopped_inside_a_checkpoint_makes_it_when_it_goes_on(
    run, write_spec, tmp_path, cache
):
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
    whole = Run(spec, tmp_path / "whole", cache).go()
    assert resumed.of("checkpoint")[0]["sha256"] == whole.of("checkpoint")[0]["sha256"]
    assert resumed.rows()[2]["loss"] == whole.rows()[2]["loss"]


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

    def diverging(step, epoch, batches):
        if step == 4:
            with torch.no_grad():
                next(iter(training.parameters.values())).fill_(float("nan"))
        whole_step(step, epoch, batches)

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

    def poisoned(step, epoch, batches):
        if step == 1:
            next(iter(training.parameters.values())).register_hook(
                lambda gradient: gradient * float("inf")
            )
        whole_step(step, epoch, batches)

    training._step = poisoned
    with pytest.raises(LossNotFinite, match=r"gradient became (nan|inf) at step 2"):
        running.go()
    assert not running.of("checkpoint")


def test_a_loss_beyond_reason_ends_the_run_though_it_is_finite(run, write_spec):
    running = run(write_spec({"max_steps": 3}))
    training = running.training
    true_loss = training._loss
    training._loss = lambda numbers, micro_step: 1e4 * true_loss(numbers, micro_step)
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
        training = run(write_spec({"mixed_precision": precision})).training
        training._load()
        assert training.plan.plain_attention is (precision == "bf16")
        with torch.no_grad():
            losses.append(float(training._loss([0, 1, 2, 3], 0)))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)

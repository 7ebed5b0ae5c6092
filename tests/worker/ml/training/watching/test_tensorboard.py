"""What TensorBoard will read is what was measured, once each."""

import struct
from io import BytesIO

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from worker.ml.training.watching.tensorboard import TensorBoardListener, TensorBoardLog

ROW = {
    "step": 1,
    "epoch": 1,
    "loss": 0.5,
    "lr": 1e-4,
    "grad_norm": 0.25,
    "images_per_second": 8.5,
    "memory_bytes": 6 * 2**30,
    "validation_loss": None,
}


def events_of(path):
    """The events of a file: length and its checksum, bytes and theirs."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def shown(folder):
    """Values by tag and step, after hiding what TensorBoard hides when a run starts anew."""
    values = []
    for path in sorted(folder.iterdir()):
        for event in events_of(path):
            if event.session_log.status == SessionLog.START:
                values = [each for each in values if each[1] < event.step]
            values += [(value.tag, event.step, value) for value in event.summary.value]
    found = {(tag, step): value for tag, step, value in values}
    assert len(found) == len(values), "a step is told twice"
    return found


def losses(folder):
    return {
        step: value.simple_value for (tag, step), value in shown(folder).items() if "loss" in tag
    }


def row(step, loss):
    return {**ROW, "step": step, "loss": loss}


def test_each_number_of_a_row_is_a_curve(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.rows([ROW, {**dict.fromkeys(ROW), "step": 2, "validation_loss": 0.75}])
    log.close()
    found = shown(tmp_path / "tensorboard")
    assert {key: value.simple_value for key, value in found.items()} == {
        ("train/loss", 1): 0.5,
        ("train/learning_rate", 1): pytest.approx(1e-4),
        ("train/gradient_norm", 1): 0.25,
        ("train/images_per_second", 1): 8.5,
        ("train/memory_bytes", 1): 6 * 2**30,
        ("validation/loss", 2): 0.75,
    }


def test_the_file_is_one_that_tensorboard_looks_for(tmp_path):
    TensorBoardLog(tmp_path).close()
    (path,) = tmp_path.iterdir()
    assert ".tfevents." in path.name
    assert events_of(path)[0].file_version == "brain.Event:2"


def test_a_sample_image_comes_byte_for_byte(tmp_path):
    picture = tmp_path / "sample.png"
    Image.new("RGB", (24, 16), "teal").save(picture)
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.sample(6, "a fox, on/off", picture)
    log.close()
    image = shown(tmp_path / "tensorboard")["samples/a fox, on off", 6].image
    assert (image.width, image.height, image.colorspace) == (24, 16, 3)
    assert image.encoded_image_string == picture.read_bytes()
    assert Image.open(BytesIO(image.encoded_image_string)).getpixel((0, 0)) == (0, 128, 128)


def test_rows_can_be_read_before_the_log_is_closed(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.rows([row(1, 0.5)])
    assert losses(tmp_path) == {1: 0.5}
    log.close()


def test_a_resumed_run_shows_each_step_once(tmp_path):
    killed = TensorBoardLog(tmp_path)
    killed.rows([row(step, 0.5) for step in range(1, 6)])
    # The state was of step 3; steps 4 and 5 are taken again.
    resumed = TensorBoardLog(tmp_path, resumed_at=3)
    resumed.rows([row(step, 0.25) for step in range(4, 8)])
    for log in (killed, resumed):
        log.close()
    assert losses(tmp_path) == {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.25, 5: 0.25, 6: 0.25, 7: 0.25}


def test_a_run_that_begins_anew_shows_nothing_of_the_one_before(tmp_path):
    for loss in (0.5, 0.25):
        log = TensorBoardLog(tmp_path)
        log.rows([row(0, loss), row(1, loss)])
        log.close()
    assert losses(tmp_path) == {0: 0.25, 1: 0.25}


def test_a_trainers_events_become_curves_and_pictures(tmp_path):
    picture = tmp_path / "sample.png"
    Image.new("RGB", (8, 8)).save(picture)
    listener = TensorBoardListener(tmp_path / "log")
    empty = {**row(0, 0.0), "loss": None, "prior_drift": 0.5}
    listener("metrics", {"rows": [empty]})
    listener("metrics", {"rows": [row(1, 0.4), row(2, 0.3)]})
    listener("sample", {"step": 2, "prompt": "a fox", "path": str(picture)})
    # Killed, and gone on from step 1.
    resumed = TensorBoardListener(tmp_path / "log")
    resumed("metrics", {"rows": [row(2, 0.2)]})
    for each in (listener, resumed):
        each.close()
    assert losses(tmp_path / "log") == {1: pytest.approx(0.4), 2: pytest.approx(0.2)}
    assert shown(tmp_path / "log")["validation/prior_drift", 0].simple_value == 0.5

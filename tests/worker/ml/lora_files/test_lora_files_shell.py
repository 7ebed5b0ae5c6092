"""The tools from a shell, as programs of their own."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from app.lora_format.architectures import architectures
from tests.worker.random_modules import Maker
from worker.ml.lora_files.__main__ import main
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.tools.files import read_whole
from worker.ml.lora_files.write import write_lora

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"


@pytest.fixture(scope="module")
def architecture():
    return architectures()["emoji-64"]


@pytest.fixture
def file(architecture, tmp_path):
    """Write a LoRA file of a kind; its path."""

    def write(name, kind="lora", seed=0):
        maker = Maker(seed)
        modules = {
            path: getattr(maker, kind)(torch.ones(shape))
            for path, shape in architecture.weights.items()
            if path.endswith("attn2.to_k")
        }
        path = tmp_path / f"{name}.safetensors"
        write_lora(path, Lora(modules), architecture.shape, {"ss_seed": "1"}, torch.float32)
        return path

    return write


def run(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_tells_what_a_file_holds(file, capsys):
    path = file("ink")
    found = run(capsys, "inspect", path)[str(path)]
    assert found["kinds"] == ["lora"]
    assert found["layout"] == "kohya"
    assert found["ranks"] == [2, 3, 4]
    assert found["file_metadata"]["ss_seed"] == "1"


def test_convert_writes_the_wanted_layout(file, capsys, tmp_path):
    told = run(
        capsys, "convert", file("ink"), "--layout", "peft", "--output", tmp_path / "ink.zip",
    )  # fmt: skip
    assert told["error"] < 1e-6
    assert told["left_out"] == []
    assert len(zipfile.ZipFile(tmp_path / "ink.zip").namelist()) == 2


def test_resize_and_merge_write_what_they_tell(file, capsys, tmp_path, architecture):
    first, second = file("ink", seed=1), file("fur", seed=2)
    common = ("--output", tmp_path / "out.safetensors")
    told = run(capsys, "resize", first, "--rank", 1, *common)
    assert told["ranks"] == {"min": 1, "max": 1}
    assert 0 < told["error"] < 1
    told = run(capsys, "merge", f"{first}:0.5", second, *common)
    assert told["error"] < 1e-6
    merged, _ = read_whole(tmp_path / "out.safetensors", architecture)
    parts = [read_whole(path, architecture)[0] for path in (first, second)]
    for name, module in merged.modules.items():
        wanted = 0.5 * parts[0].modules[name].delta() + parts[1].modules[name].delta()
        assert torch.allclose(module.delta(), wanted, atol=1e-5)


def test_extract_of_a_base_and_itself_is_refused(capsys, tmp_path):
    arguments = ["extract", str(EMOJI), "emoji-64", "--rank", "4"]
    assert main([*arguments, "--output", str(tmp_path / "out.safetensors")]) == 1
    assert "nothing_to_extract" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["resize", "{file}"], "give --rank, or --keep"),
        (["resize", "{file}", "--rank", "0"], "the rank is 0; 1 to 512"),
        (["merge", "{file}:heavy"], "'heavy' is not a number"),
        (["merge", "nowhere.safetensors"], "nowhere.safetensors"),
        (["convert", "{file}.json", "--layout", "peft"], "json"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(arguments, reason, file, capsys, tmp_path):
    path = file("ink")
    given = [each.format(file=path) for each in arguments]
    output = ["--output", str(tmp_path / "out.safetensors")]
    assert main(given + output) == 1
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()

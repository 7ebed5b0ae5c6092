"""`lorawright lora`: files are looked into without torch or a server, and kept through the API."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.commands.lora import app
from app.cli.errors import CommandError
from tests.safetensors_files import SDXL_KEY, pair, peft_pair, sound, whole

runner = CliRunner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(sound(whole("emoji-64", 4), {"modelspec.trigger_phrase": "inkstyle"}))
    return path


def test_inspecting_tells_what_a_file_is(file: Path) -> None:
    done = runner.invoke(app, ["inspect", str(file)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    lines = {line[:15].strip(): line[15:].strip() for line in done.output.splitlines()}
    assert lines["made for"] == "Emoji, 64 px"
    assert lines["usable"] == "yes"
    assert lines["ranks"] == "4"
    assert lines["trigger"] == "inkstyle (modelspec)"


def test_inspecting_as_json_tells_all(file: Path) -> None:
    done = runner.invoke(app, ["inspect", str(file), "--json"])
    told = json.loads(done.output)
    assert told["architecture"] == "emoji-64"
    assert told["file_metadata"] == {"modelspec.trigger_phrase": "inkstyle"}


def test_a_file_that_cannot_be_used_is_described_and_ends_with_1(tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    path.write_bytes(sound(peft_pair("transformer.single_transformer_blocks.0.attn.to_q", 8, 8)))
    done = runner.invoke(app, ["inspect", str(path)], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "lora_incompatible" in done.output
    assert "made for Flux" in done.output


def test_keys_without_a_place_may_be_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sound(pair(SDXL_KEY, 2048, 640) | {"left.over": ("F16", (1,))}))
    assert runner.invoke(app, ["inspect", str(path)]).exit_code == 1
    done = runner.invoke(app, ["inspect", str(path), "--no-strict"])
    assert done.exit_code == 0
    assert "left.over" in done.output


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"PK\x03\x04")
    done = runner.invoke(app, ["inspect", str(path)])
    assert isinstance(done.exception, CommandError)
    assert "4 bytes" in str(done.exception)
    assert "(lora_file_invalid)" in str(done.exception)
    done = runner.invoke(app, ["inspect", str(tmp_path / "none")])
    assert isinstance(done.exception, CommandError)


def test_inspecting_needs_no_torch_and_no_server(file: Path) -> None:
    code = """
import sys
from app.cli.main import app
app(["lora", "inspect", sys.argv[1]], standalone_mode=False)
heavy = {"torch", "safetensors", "sqlalchemy", "boto3", "fastapi"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.usefixtures("connected")
def test_files_are_uploaded_and_listed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(sound(pair(SDXL_KEY, 2048, 640)))
    done = runner.invoke(app, ["upload", str(file), str(other), "--weight", "0.5"])
    assert done.exit_code == 0, (done.output, done.exception)
    first, second = done.output.splitlines()
    assert first.endswith("ink: rank 4 for emoji-64")
    assert second.endswith("other: rank 4 for sdxl-1.0")
    listed = [line.split("\t") for line in runner.invoke(app, ["list"]).output.strip().splitlines()]
    assert [row[:3] for row in listed] == [
        [second.split()[0], "other", "sdxl-1.0"],
        [first.split()[0], "ink", "emoji-64"],
    ]
    one = runner.invoke(app, ["list", "--limit", "1"]).output.splitlines()
    assert len(one) == 1


@pytest.mark.usefixtures("connected")
def test_an_upload_that_is_refused_says_why(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sound(pair(SDXL_KEY, 2048, 641)))
    done = runner.invoke(app, ["upload", str(path)])
    assert isinstance(done.exception, CommandError)
    assert "(641, 2048) for a weight of (640, 2048)" in str(done.exception)
    assert "422 lora_shape_mismatch" in str(done.exception)
    done = runner.invoke(app, ["upload", str(path), str(path), "--name", "ink"])
    assert "one name for 2 files" in str(done.exception)


@pytest.mark.usefixtures("connected")
def test_a_file_comes_back_as_it_was(file: Path, tmp_path: Path) -> None:
    runner.invoke(app, ["upload", str(file)])
    target_folder = tmp_path / "out"
    done = runner.invoke(
        app, ["download", "ink", "--format", "original", "--output", str(target_folder)]
    )
    assert done.exit_code == 0, done.exception
    assert (target_folder / "ink.original.safetensors").read_bytes() == file.read_bytes()
    done = runner.invoke(app, ["download", "nothing"])
    assert "No LoRA has the id or name nothing" in str(done.exception)

"""The command line: every command explains itself, starts fast, and refuses bad input in words."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from app.cli.commands.compare import parse_axes
from app.cli.commands.train import parse_params
from app.cli.errors import CommandError
from app.cli.lora_uses import parse_lora
from app.cli.main import app
from app.cli.stack.state import StackState, exclusive, save_state
from app.cli.steps import zip_folder
from app.cli.target import connect


def _commands(command: "click.Command", name: str) -> "Iterator[tuple[str, click.Command]]":
    yield name, command
    for child_name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{name} {child_name}")


COMMANDS = dict(_commands(typer.main.get_command(app), "lorawright"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_each_of_its_options_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_the_commands_are_those_that_were_promised() -> None:
    promised = ["up", "demo", "migrate", "key create", "train", "generate", "compare", "jobs"]
    promised += ["base-model add", "lora upload", "lora inspect", "lora list", "lora download"]
    assert {f"lorawright {name}" for name in promised} < set(COMMANDS)


def test_help_needs_nothing_heavy() -> None:
    code = """
import sys
from app.cli.main import app
app(["--help"], standalone_mode=False)
slow = {"torch", "diffusers", "numpy", "celery", "sqlalchemy", "boto3", "fastapi"}
heavy = slow & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "generate" in finished.stdout


def test_without_a_server_a_command_says_how_to_get_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli.main", "jobs", "--data-dir", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"error: No stack is running on {tmp_path}")
    assert "--url or LORAWRIGHT_URL" in finished.stderr


def test_the_stacks_key_is_not_shown_to_another_server(tmp_path: Path) -> None:
    state = StackState(url="http://localhost:8000", api_key="lw_live_ours", ready=True)
    save_state(tmp_path, state)
    with exclusive(tmp_path):
        with connect(None, None, tmp_path) as client:
            assert client.url == "http://localhost:8000"
        with pytest.raises(CommandError, match="http://elsewhere needs an API key"):
            connect("http://elsewhere", None, tmp_path)


def test_a_stack_that_is_not_ready_is_not_talked_to(tmp_path: Path) -> None:
    save_state(tmp_path, StackState(url="http://localhost:8000", api_key="lw_live_ours"))
    with (
        exclusive(tmp_path),
        pytest.raises(CommandError, match="is starting or stopping; try again"),
    ):
        connect(None, None, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ink:0.7", {"lora": "ink", "weight": 0.7}),
        ("ink", {"lora": "ink"}),
        ("ink: bold:-1", {"lora": "ink: bold", "weight": -1.0}),
    ],
)
def test_a_lora_and_its_weight_are_read(text: str, expected: dict[str, object]) -> None:
    assert parse_lora(text) == expected


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(CommandError, match="the weight 'much' is not a number"):
        parse_lora("ink:much")


def test_training_parameters_are_read_as_json_has_them() -> None:
    pairs = ["rank=16", "learning_rate=1e-3", "flip_augment=true", "lr_scheduler=cosine"]
    assert parse_params(pairs) == {
        "rank": 16,
        "learning_rate": 1e-3,
        "flip_augment": True,
        "lr_scheduler": "cosine",
    }
    with pytest.raises(CommandError, match="rnak is no parameter; rank is"):
        parse_params(["rnak=3"])
    with pytest.raises(CommandError, match="rank: Input should be less than or equal to 256"):
        parse_params(["rank=300"])
    with pytest.raises(CommandError, match="--param rank is not NAME=VALUE"):
        parse_params(["rank"])


def test_a_folder_is_packed_with_its_captions_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "10_ink").mkdir(parents=True)
    for name in ["a.PNG", "10_ink/b.jpg", "10_ink/b.txt", "LICENSE.txt", "notes.md"]:
        (folder / name).write_bytes(b"content")
    target = tmp_path / "pictures.zip"
    assert zip_folder(folder, target, captions=True) == 2
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == ["10_ink/b.jpg", "10_ink/b.txt", "a.PNG"]
    zip_folder(folder, target, captions=False)
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == ["10_ink/b.jpg", "a.PNG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CommandError, match="has no pictures"):
        zip_folder(tmp_path, tmp_path / "x.zip", captions=True)


def test_a_lora_is_named_with_weights_for_parts_and_for_part_of_the_steps() -> None:
    assert parse_lora("ink") == {"lora": "ink"}
    assert parse_lora("my ink:v2:0.7") == {"lora": "my ink:v2", "weight": 0.7}
    assert parse_lora("ink:0.7@0.2-.8") == {
        "lora": "ink",
        "weight": 0.7,
        "start": 0.2,
        "end": 0.8,
    }
    assert parse_lora("ink:unet=0.8,unet.down_blocks.1=-0.5@0-0.5") == {
        "lora": "ink",
        "weight": {"unet": 0.8, "blocks": {"unet.down_blocks.1": -0.5}},
        "start": 0.0,
        "end": 0.5,
    }
    with pytest.raises(CommandError, match="'much' is not a number"):
        parse_lora("ink:unet=much")


def test_axes_of_a_comparison_are_named_with_their_values() -> None:
    assert parse_axes(["weight=0,0.5,1", "weight:ink=1", "seed=1..4", "prompt=a fox|a, b"]) == [
        {"name": "weight", "values": [0, 0.5, 1]},
        {"name": "weight", "values": [1], "lora": "ink"},
        {"name": "seed", "values": [1, 2, 3, 4]},
        {"name": "prompt", "values": ["a fox", "a, b"]},
    ]
    assert parse_axes(["lora=ink,none"]) == [{"name": "lora", "values": ["ink", None]}]
    for wrong in ("weight", "weight=heavy", "seed=4..1", "seed=1.5"):
        with pytest.raises(CommandError, match="--axis"):
            parse_axes([wrong])

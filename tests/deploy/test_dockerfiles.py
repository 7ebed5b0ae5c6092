"""The Dockerfiles start what the embedded stack starts, as nobody's root, from locked packages."""

import re
from pathlib import Path

import pytest

from app.cli.stack.processes import api_child, worker_children
from app.settings import REPOSITORY
from tools.replay.dockerfile import Dockerfile, Stage, command, parse

FILES = ("Dockerfile.api", "Dockerfile.worker")


def read(name: str, **given: str) -> Dockerfile:
    return parse((REPOSITORY / name).read_text(), given)


def only(stage: Stage, word: str) -> str:
    """What follows the one instruction of that kind."""
    (found,) = [step.rest for step in stage.instructions if step.word == word]
    return found


@pytest.mark.parametrize("name", FILES)
def test_an_image_runs_as_a_number_that_is_not_root(name: str) -> None:
    assert only(read(name).stages[-1], "USER") == "10001:10001"


@pytest.mark.parametrize("variant", ["cuda", "cpu"])
def test_every_base_has_a_tag_or_is_a_stage(variant: str) -> None:
    for name in FILES:
        file = read(name, VARIANT=variant)
        for stage in file.stages:
            assert file.find(stage.base) or re.search(r":\d", stage.base), stage.base


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_fetched_by_pip_is_checked_by_its_hash(name: str) -> None:
    installs = [
        step.rest
        for stage in read(name).stages
        for step in stage.instructions
        if step.word == "RUN" and "pip install" in step.rest
    ]
    assert len(installs) == 2
    for line in installs:
        assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line


def test_the_api_starts_as_in_the_embedded_stack(tmp_path: Path) -> None:
    embedded = api_child("0.0.0.0", 8000, {}, tmp_path).spec.command
    stage = read("Dockerfile.api").stages[-1]
    assert command(only(stage, "CMD")) == embedded[2:]
    assert "127.0.0.1:8000/livez" in only(stage, "HEALTHCHECK")
    assert only(stage, "EXPOSE") == "8000"


def test_a_worker_starts_as_in_the_embedded_stack(tmp_path: Path) -> None:
    embedded = worker_children("redis://", {}, tmp_path)[0].spec.command[3:]
    told = command(only(read("Dockerfile.worker").stages[-1], "CMD"))
    assert told[0] == "celery"
    assert [word for word in told[1:] if "@" not in word] == [
        word for word in embedded if "@" not in word
    ]

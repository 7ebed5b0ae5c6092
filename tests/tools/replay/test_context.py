"""COPY takes what .dockerignore lets through, and nothing else."""

from pathlib import Path

import pytest

from app.settings import REPOSITORY
from tools.replay.context import copy, let_through, read_rules


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("app/main.py", True),
        ("app/console/templates/page.html", True),
        ("app/__pycache__/main.pyc", False),
        ("worker/ml/__pycache__/x.pyc", False),
        ("deploy/locks/api.txt", True),
        ("deploy/env.example", False),
        (".env", False),
        (".git/config", False),
        ("tests/conftest.py", False),
        ("application.py", False),
    ],
)
def test_the_images_are_made_of_the_source_alone(path: str, expected: bool) -> None:
    rules = read_rules((REPOSITORY / ".dockerignore").read_text())
    assert let_through(rules, path) is expected


def test_the_last_rule_that_fits_decides() -> None:
    rules = read_rules("# comment\n*.md\n!README.md\nlogs\n")
    told = {path: let_through(rules, path) for path in ("a.md", "README.md", "logs/x", "b/a.md")}
    assert told == {"a.md": False, "README.md": True, "logs/x": False, "b/a.md": True}


def test_a_folder_is_copied_by_its_content_and_a_file_by_its_name(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("app/a.py", "app/sub/b.py", "app/sub/c.txt", "one.toml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    rules = read_rules("**/*.txt")
    assert copy(source, rules, ["app"], target / "app") == 2
    (target / "etc").mkdir()
    assert copy(source, rules, ["one.toml"], target / "etc") == 1
    assert copy(source, rules, ["one.toml"], target / "other.toml") == 1
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert found == {"app/a.py", "app/sub/b.py", "etc/one.toml", "other.toml"}


def test_a_source_that_is_held_back_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"secret: there is no such file, or .dockerignore"):
        copy(tmp_path, read_rules("*\n"), ["secret"], tmp_path / "target")

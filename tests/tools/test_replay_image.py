"""A replayed image finds packages where this machine's pip does."""

from pathlib import Path

import pytest

from tools.replay_image import pip_settings


def test_pips_settings_become_variables_and_what_they_name_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "mirror" / "simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} https://wheels.example.com")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.as_uri())
    variables, places = pip_settings()
    assert variables["PIP_FIND_LINKS"] == f"{wheels} https://wheels.example.com"
    assert variables["PIP_EXTRA_INDEX_URL"] == index.as_uri()
    # Pages of an index point to files beside it.
    assert {wheels, index.parent} <= set(places)

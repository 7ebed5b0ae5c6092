"""Debian stands for an image only where its Python is the same."""

import pytest

from tools.replay.root import BaseUnknown, debian_of


def test_debian_stands_for_the_python_that_it_has() -> None:
    assert debian_of("python:3.11-slim-bookworm") == "bookworm"
    assert debian_of("python:3.13.2-slim-trixie") == "trixie"


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("python:3.12-slim-bookworm", "the Python of bookworm is 3.11"),
        ("python:3.11-slim-nosuch", "the Python of nosuch is not known"),
        ("python:3.11", "which Debian could stand for"),
        ("nvidia/cuda:13.0.2-base-ubuntu24.04", "which Debian could stand for"),
    ],
)
def test_any_other_image_is_refused(image: str, told: str) -> None:
    with pytest.raises(BaseUnknown, match=told):
        debian_of(image)

"""Settings that are lists are written as people write them, in the environment and the stack."""

import pytest
from pydantic import ValidationError

from app.settings import Settings

VARIABLE = "LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS"


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", ()),
        ("127.0.0.0/8", ("127.0.0.0/8",)),
        ("10.1.0.0/16, fd00::/8,", ("10.1.0.0/16", "fd00::/8")),
    ],
)
def test_networks_are_parted_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, networks: tuple[str, ...]
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert Settings().webhook_allowed_networks == networks
    # As the embedded stack reads its own environment.
    told = Settings.model_validate({"webhook_allowed_networks": text})
    assert told.webhook_allowed_networks == networks


@pytest.mark.parametrize("text", ["10.1.0.5/16", "everything", '["10.0.0.0/8"]'])
def test_what_is_no_network_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValidationError, match="webhook_allowed_networks"):
        Settings()

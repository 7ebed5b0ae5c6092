"""The folders of attempts: one for each, and none left of a killed worker."""

from pathlib import Path

import pytest

from app.database import new_id, transaction
from app.jobs import claiming
from app.jobs.lifecycle import Claim
from worker.workspace import attempt_key, cache_folder, remove_leftovers, workspace


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_folders_of_lost_attempts_go_and_those_of_running_ones_stay(client):
    client.post("/v1/generations", json={"prompt": "a fox"})
    with transaction() as session:
        claim = claiming.claim(session, "generate", "test")
    assert claim is not None
    with workspace(claim) as folder:
        kept = cache_folder("loras")
        left = [
            folder.with_name(f"{claim.job_id}-0"),
            folder.with_name(f"{new_id('trn')}-3-0a1b2c"),
        ]
        for path in left:
            (path / "output").mkdir(parents=True)
        assert sorted(remove_leftovers()) == sorted(path.name for path in left)
        assert not any(path.exists() for path in left)
        assert folder.is_dir()
        assert kept.is_dir()
        assert remove_leftovers() == []


def test_the_same_attempt_of_two_histories_stores_under_two_keys():
    first, second = (Claim("gen_1", "generation", "generate", "acct_1", 1, "w") for _ in range(2))
    assert attempt_key(first, "0.png") != attempt_key(second, "0.png")
    assert attempt_key(first, "0.png") == attempt_key(first, "0.png")

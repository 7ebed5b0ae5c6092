"""A job's folder on this machine: made for one attempt, gone afterwards."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.jobs.lifecycle import Claim
from app.settings import get_settings


@contextmanager
def workspace(claim: Claim) -> Iterator[Path]:
    """An empty folder for this attempt, removed with all it holds at the end."""
    folder = (get_settings().work_dir / f"{claim.job_id}-{claim.attempt}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cache_folder(name: str) -> Path:
    """A folder that outlives jobs: files under their own hash, so that any job may use them."""
    folder = (get_settings().work_dir / "cache" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def attempt_key(claim: Claim, name: str) -> str:
    """Where an attempt stores a file: under its own number, so that attempts never collide."""
    return f"accounts/{claim.account_id}/jobs/{claim.job_id}/{claim.attempt}/{name}"

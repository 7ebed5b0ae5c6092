"""A job's folder on this machine: made for one attempt, gone afterwards."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from app.database import transaction
from app.jobs.lifecycle import Claim
from app.jobs.models import Job
from app.settings import get_settings

ATTEMPT_FOLDER = re.compile(r"(?P<job>[a-z]+_[0-9a-f]{32})-(?P<attempt>\d+)(-[0-9a-f]+)?")


@contextmanager
def workspace(claim: Claim) -> Iterator[Path]:
    """An empty folder for this attempt, removed with all it holds at the end."""
    folder = (get_settings().work_dir / f"{claim.job_id}-{claim.run}").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> list[str]:
    """Remove the folders that killed workers have left on this machine; their names.

    Whether an attempt still runs, here or in another worker of this machine, its row says.
    """
    root = get_settings().work_dir
    found = [
        (path, match["job"], int(match["attempt"]))
        for path in (root.iterdir() if root.is_dir() else ())
        if (match := ATTEMPT_FOLDER.fullmatch(path.name))
    ]
    if not found:
        return []
    with transaction() as session:
        running = {
            (row.id, row.attempt)
            for row in session.execute(
                select(Job.id, Job.attempt).where(
                    Job.id.in_([job for _, job, _ in found]), Job.status == "running"
                )
            )
        }
    over = [path for path, job, attempt in found if (job, attempt) not in running]
    for path in over:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in over]


def cache_folder(name: str) -> Path:
    """A folder that outlives jobs: files under their own hash, so that any job may use them."""
    folder = (get_settings().work_dir / "cache" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def attempt_key(claim: Claim, name: str) -> str:
    """Where an attempt stores a file: under its own name, so that attempts never collide."""
    return f"accounts/{claim.account_id}/jobs/{claim.job_id}/{claim.run}/{name}"

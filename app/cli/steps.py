"""The steps of the main job, each a few calls of the public API: shared by `train` and `demo`."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.cli.client import Client, Json
from app.cli.errors import CommandError
from app.cli.parts import LARGE_BYTES, upload_in_parts
from app.cli.progress import JobProgress

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif"})
CAPTION_SUFFIX = ".txt"
DATASET_FILE = "dataset.toml"


@dataclass(frozen=True)
class Caller:
    """Whom the steps talk to, and where they show how they get on."""

    client: Client
    progress: JobProgress

    def wait(self, title: str, path: str) -> Json:
        """Show the job at `path` under `title` until it has succeeded."""
        return self.client.wait(path, lambda job: self.progress.update(title, job))


def zip_folder(folder: Path, target: Path, *, captions: bool) -> int:
    """Pack a folder's pictures (with their captions and dataset.toml, if wanted) for upload.

    Returns:
        How many pictures were packed.

    Raises:
        CommandError: there is none.
    """
    pictures = 0
    # Pictures are compressed already.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            suffix = path.suffix.lower()
            is_picture = suffix in IMAGE_SUFFIXES
            is_caption = suffix == CAPTION_SUFFIX and any(
                path.with_suffix(known).exists() for known in IMAGE_SUFFIXES
            )
            if is_picture or (captions and (is_caption or path.name == DATASET_FILE)):
                archive.write(path, path.relative_to(folder))
            pictures += is_picture
    if pictures == 0:
        raise CommandError(
            f"{folder} has no pictures; files ending in {', '.join(sorted(IMAGE_SUFFIXES))} count"
        )
    return pictures


def upload_dataset(
    caller: Caller,
    title: str,
    archive: Path,
    *,
    name: str,
    task: str,
    trigger: str,
    caption_template: str | None = None,
) -> tuple[Json, list[Json]]:
    """Create a dataset, upload an archive into it, and wait until its pictures are measured.

    Returns:
        The dataset, and what the server rejected.
    """
    client = caller.client
    request = {"name": name, "task": task, "trigger_word": trigger}
    if caption_template is not None:
        request["caption_template"] = caption_template
    dataset = client.post("/datasets", request)
    path = f"/datasets/{dataset['id']}"
    if archive.stat().st_size > LARGE_BYTES:
        upload = upload_in_parts(client, dataset["id"], archive, caller.progress.say)
        caller.wait(title, f"/jobs/{upload['ingest']}")
        files = client.get(f"{path}/uploads/{upload['id']}")["files"]
    else:
        answer = client.upload(f"{path}/images", [archive])
        if answer["ingest"] is not None:
            caller.wait(title, f"/jobs/{answer['ingest']}")
        files = answer["data"]
    rejected = [item for item in files if item["status"] == "rejected"]
    return client.get(f"/datasets/{dataset['id']}"), rejected


def caption(caller: Caller, title: str, dataset_id: str, *, overwrite: str = "missing") -> Json:
    """Caption a dataset's pictures and wait for it."""
    job = caller.client.post(f"/datasets/{dataset_id}/captionings", {"overwrite": overwrite})
    return caller.wait(title, f"/captionings/{job['id']}")


def train(caller: Caller, title: str, request: Json) -> Json:
    """Train and wait; the answer's `lora` is the LoRA that was published."""
    job = caller.client.post("/trainings", request)
    for warning in job.get("warnings") or []:
        caller.progress.say(f"{title}: {warning}")
    return caller.wait(title, f"/trainings/{job['id']}")


def losses(client: Client, training_id: str) -> dict[str, float | None]:
    """A training's loss at its start and end.

    One step's loss is mostly the luck of its noise, so the training loss is the mean over the
    first and the last tenth of the steps; the validation loss has fixed noise and stands alone.
    """
    rows = _metrics(client, training_id)
    loss = [row["loss"] for row in rows if row["loss"] is not None]
    validation = [row["validation_loss"] for row in rows if row["validation_loss"] is not None]
    tenth = max(1, len(loss) // 10)
    return {
        "loss_first": _mean(loss[:tenth]),
        "loss_last": _mean(loss[-tenth:]),
        "validation_loss_first": validation[0] if validation else None,
        "validation_loss_last": validation[-1] if validation else None,
    }


def _metrics(client: Client, training_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: dict[str, str | int] = {}
    while True:
        page = client.get(f"/trainings/{training_id}/metrics", **after)
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = {"after": page["next"]}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""From pictures to a LoRA to a picture by a client that was generated from docs/openapi.json.

    LORAWRIGHT_URL=… LORAWRIGHT_API_KEY=… python generated_client_road.py FOLDER

Runs where nothing of this project is installed but `lorawright_client`, and prints the generation.
"""

import io
import json
import os
import sys
import time
from pathlib import Path

from lorawright_client import AuthenticatedClient
from lorawright_client.api.datasets import create_dataset, get_dataset, upload_images
from lorawright_client.api.generations import create_generation, get_generation
from lorawright_client.api.trainings import create_training, get_training
from lorawright_client.models import (
    BodyUploadImages,
    DatasetCreate,
    DatasetCreateTask,
    GenerationCreate,
    LoraUse,
    Problem,
    TrainingCreate,
    TrainingParams,
)
from lorawright_client.types import File

LONGEST_SECONDS = 120.0


def ended(get, job_id, client):
    """The job when it has ended."""
    ends = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < ends:
        job = get.sync(job_id, client=client)
        if job.status not in ("queued", "running"):
            assert job.status == "succeeded", job
            return job
        time.sleep(0.2)
    raise AssertionError(f"{job_id} took over {LONGEST_SECONDS} s: {job}")


def main(folder: Path) -> None:
    """Travel the road once."""
    client = AuthenticatedClient(
        os.environ["LORAWRIGHT_URL"], os.environ["LORAWRIGHT_API_KEY"], timeout=60.0
    )
    problem = get_dataset.sync("ds_none", client=client)
    assert isinstance(problem, Problem), problem
    assert problem.code == "not_found"

    dataset = create_dataset.sync(
        client=client,
        body=DatasetCreate(
            name="riso",
            task=DatasetCreateTask.STYLE,
            trigger_word="risostyle",
            caption_template="{caption}, {trigger}",
        ),
    )
    files = [
        File(io.BytesIO(path.read_bytes()), path.name)
        for path in sorted(folder.iterdir())[:40]
        if path.suffix in (".png", ".txt")
    ]
    upload = upload_images.sync(dataset.id, client=client, body=BodyUploadImages(files=files))
    assert (upload.accepted, upload.rejected) == (len(files), 0), upload

    training = create_training.sync(
        client=client,
        body=TrainingCreate(
            dataset=dataset.id, name="riso", params=TrainingParams(seed=1, max_steps=8)
        ),
    )
    training = ended(get_training, training.id, client)

    generation = create_generation.sync(
        client=client,
        body=GenerationCreate(
            prompt="cat face, risostyle", seed=3, loras=[LoraUse(lora=training.lora, weight=0.8)]
        ),
    )
    print(json.dumps(ended(get_generation, generation.id, client).to_dict()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Generation: LoRA files down, pictures drawn, pictures up with their receipts."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.database import JsonObject, transaction
from app.errors import JobError, JobInputMissing, NotFound
from app.generations.models import GeneratedImage as ImageRow
from app.generations.models import Generation
from app.storage import get_store
from worker.handlers.context import JobContext
from worker.handlers.models import base_model_entry, base_model_spec, device_policy, pipelines
from worker.ml.base_models.load import BaseModelUnavailable
from worker.ml.inference.errors import InferenceError
from worker.ml.inference.errors import Stopped as DrawingStopped
from worker.ml.inference.generate import generate
from worker.ml.inference.provenance import encode_image, make_receipt
from worker.ml.inference.spec import GenerationSpec, LoraSpec
from worker.workspace import attempt_key, cache_folder

# Keyed by the file's hash, so a LoRA is downloaded once a machine, whoever asks for it.
LORA_CACHE = "loras"


class GenerationFailed(JobError):
    """The drawing refused the request; the code is the drawing's own."""

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


@dataclass(frozen=True)
class _Stored:
    seed: int
    width: int
    height: int
    object_key: str
    sha256: str
    bytes: int


def run(context: JobContext) -> Callable[[Session], None]:
    """Draw every image of the request, store each under this attempt, publish all together."""
    with transaction() as session:
        detail = session.get_one(Generation, context.claim.job_id)
        request, loras = dict(detail.request), list(detail.loras)
        base_model = base_model_spec(base_model_entry(detail.base_model))
    context.progress(0.0, stage="load")
    spec = GenerationSpec(
        **{name: request[name] for name in request if name in GenerationSpec.model_fields},
        seeds=tuple(request["seed"] + index for index in range(request["num_images"])),
        loras=tuple(_fetch(lora) for lora in loras),
        base_model=base_model,
    )
    context.check()
    try:
        handle = pipelines().get(base_model)
        drawn = generate(
            handle,
            spec,
            lambda fraction, step, total: context.progress(
                fraction, stage="denoise", step=step, total_steps=total
            ),
            context.lease.should_stop,
        )
    except DrawingStopped:
        context.check()
        raise
    except InferenceError as error:
        raise GenerationFailed(error.code, str(error)) from error
    except BaseModelUnavailable as error:
        # A hub may only be away for a while.
        raise GenerationFailed(error.code, str(error), retryable=True) from error
    stored: list[_Stored] = []
    policy = device_policy()
    receipt: JsonObject = {}
    for index, image in enumerate(drawn.images):
        made = make_receipt(
            spec,
            image.seed,
            base_model_sha256=handle.base_sha256,
            device=policy.device.type,
            dtype=str(policy.dtype).removeprefix("torch."),
        )
        receipt = receipt or made.model_dump(mode="json")
        data = encode_image(image.image, request["format"], made)
        key = attempt_key(context.claim, f"{index}.{request['format']}")
        get_store().put_bytes(key, data, f"image/{request['format']}")
        stored.append(_store_checked(key, data, image))
        context.check()

    reports: list[JsonObject] = [
        {
            "lora": lora["lora"],
            "matched": len(report.matched),
            "unmatched": list(report.unmatched),
        }
        for lora, report in zip(loras, drawn.loras, strict=True)
    ]

    def publish(session: Session) -> None:
        session.add_all(
            ImageRow(
                generation_id=context.claim.job_id,
                index=index,
                format=request["format"],
                **item.__dict__,
            )
            for index, item in enumerate(stored)
        )
        session.execute(
            update(Generation)
            .where(Generation.id == context.claim.job_id)
            .values(lora_reports=reports, receipt=receipt)
        )

    return publish


def _store_checked(key: str, data: bytes, image: Any) -> _Stored:
    """Read the object back: succeeded means that it is there, whole."""
    digest = hashlib.sha256(data).hexdigest()
    if get_store().sha256(key) != digest:
        raise GenerationFailed(
            "storage_corrupt", f"{key} was not stored as it was sent", retryable=True
        )
    return _Stored(image.seed, image.width, image.height, key, digest, len(data))


def _fetch(lora: JsonObject) -> LoraSpec:
    path: Path = cache_folder(LORA_CACHE) / f"{lora['sha256']}.safetensors"
    if not path.exists():
        try:
            get_store().get_file(lora["object_key"], path)
        except NotFound as error:
            raise JobInputMissing(f"The file of {lora['lora']} ({lora['name']}) is gone") from error
    return LoraSpec(
        id=lora["lora"],
        path=str(path),
        sha256=lora["sha256"],
        weight=lora["weight"],
        start=lora.get("start", 0.0),
        end=lora.get("end", 1.0),
    )

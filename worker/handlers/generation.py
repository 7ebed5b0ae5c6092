"""Generation: LoRA files down, pictures drawn, pictures up with their receipts.

Jobs that were claimed together are drawn together; each is stored and ends as soon as its own
pictures are there.
"""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.content.rules import prompt_refusal
from app.database import JsonObject
from app.errors import JobError, JobInputMissing, LeaseLost, NotFound
from app.generations.batching import recipe
from app.generations.models import GeneratedImage as ImageRow
from app.generations.models import Generation
from app.jobs.lifecycle import Claim
from app.settings import get_settings
from app.storage import get_store
from worker.handlers import understanding
from worker.handlers.at_hand import remember
from worker.handlers.context import JobContext, Publish, Stopped
from worker.handlers.lora_cache import fetch_lora
from worker.handlers.made_pictures import check_made, refusal
from worker.handlers.models import base_model_entry, base_model_spec, device_policy, pipelines
from worker.handlers.prefetch import Prefetch
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.inference.errors import InferenceError
from worker.ml.inference.errors import Stopped as DrawingStopped
from worker.ml.inference.generate import (
    GeneratedImage,
    Preview,
    Watch,
    batch_limit,
    generate_many,
)
from worker.ml.inference.generate import Generation as Drawn
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.provenance import Receipt, encode_image, make_receipt
from worker.ml.inference.spec import GenerationSpec, LoraSpec
from worker.patience import patiently
from worker.stages import stage
from worker.workspace import attempt_key

# Pictures of one job are packed and sent at the same time: packing one takes half a second.
STORE_THREADS = 4
INPUT_IMAGES = ("init_image", "mask_image")


class GenerationFailed(JobError):
    """The drawing refused the request; the code is the drawing's own."""

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


@dataclass(frozen=True)
class _Request:
    """A job and what it asks for, with every file on this machine."""

    context: JobContext
    request: JsonObject
    loras: list[JsonObject]
    spec: GenerationSpec


@dataclass(frozen=True)
class StoredImage:
    """A picture that is in storage, read back whole."""

    seed: int
    width: int
    height: int
    object_key: str
    sha256: str
    bytes: int


def run(contexts: Sequence[JobContext]) -> Iterator[tuple[JobContext, Publish | Exception]]:
    """Draw every job's pictures, store each under its attempt, publish each job's together."""
    requests: list[_Request] = []
    for context in contexts:
        try:
            with context.current():
                requests.append(_read(context))
        except Exception as error:  # of this job alone; the runner records it
            yield context, error
    if not requests:
        return
    base_model = requests[0].spec.base_model
    try:
        with stage("load"):
            handle = pipelines().get(base_model)
    except BaseModelUnavailable as error:
        for request in requests:
            yield request.context, _unavailable(error)
        return
    specs = [request.spec for request in requests]
    remember([recipe(request.loras) for request in requests])
    with Prefetch(handle.bank, base_model.id):
        watches = [watch(request.context) for request in requests]
        for number, outcome in generate_many(handle, specs, watches):
            request = requests[number]
            try:
                with request.context.current():
                    publish = _stored(request, handle, outcome)
                yield request.context, publish
            except Exception as error:  # of this job alone; the runner records it
                yield request.context, error


def places(session: Session, claim: Claim) -> int:
    """How many pictures a batch with this job may have: what this worker would draw at once.

    Jobs it could only draw one after another are left to other workers. One whose base model is
    not loaded yet comes alone, as what memory will hold beside it is not known.
    """
    detail = session.get_one(Generation, claim.job_id)
    handle = pipelines().find(detail.base_model)
    if handle is None:
        return 1
    request = detail.request
    scale = request["hires"]["scale"] if request["hires"] else 1.0
    return batch_limit(
        handle,
        round(request["width"] * scale),
        round(request["height"] * scale),
        guided=request["guidance_scale"] > 1,
        most=get_settings().max_batch_images,
    )


def watch(context: JobContext) -> Watch:
    """Progress and previews into the job's story, its stops to the drawing."""

    def on_progress(fraction: float, step: int, total: int) -> None:
        try:
            context.progress(fraction, stage="denoise", step=step, total_steps=total)
        except LeaseLost:
            # The others of the batch are drawn on.
            context.lease.lose()

    def on_preview(preview: Preview) -> None:
        if refusal(preview.image) is not None:
            return
        with suppress(LeaseLost):
            context.record("sample", _preview_payload(preview))

    return Watch(on_progress, context.lease.should_stop, on_preview, context.leave)


def _preview_payload(preview: Preview) -> JsonObject:
    buffer = io.BytesIO()
    preview.image.save(buffer, "webp", quality=60)
    packed = base64.b64encode(buffer.getvalue()).decode()
    return {
        "index": preview.number,
        "step": preview.step,
        "total_steps": preview.total_steps,
        "image": f"data:image/webp;base64,{packed}",
    }


def _read(context: JobContext) -> _Request:
    detail = patiently(lambda session: session.get_one(Generation, context.claim.job_id))
    request, loras = dict(detail.request), list(detail.loras)
    understanding.check(request)
    # The rules may be newer than the request.
    if (rule := prompt_refusal(request["prompt"])) is not None:
        raise GenerationFailed("prompt_refused", f"The prompt breaks this service's rule {rule!r}")
    # Outside the transaction: its files may first have to come to this machine.
    base_model = base_model_spec(base_model_entry(detail.base_model))
    context.progress(0.0, stage="load")
    told = {name: request[name] for name in request if name in GenerationSpec.model_fields}
    with stage("download"):
        for name in INPUT_IMAGES:
            if told.get(name) is not None:
                told[name] = str(fetch_input(context.folder / name, request[name]))
        local = tuple(lora_spec(lora) for lora in loras)
    told |= {
        "seeds": tuple(request["seed"] + index for index in range(request["num_images"])),
        "loras": local,
        "base_model": base_model,
    }
    # A newer API may tell more, which this worker may pass over.
    spec = GenerationSpec.model_validate(told, extra="ignore")
    context.check()
    return _Request(context, request, loras, spec)


def lora_spec(lora: JsonObject) -> LoraSpec:
    """A frozen LoRA of a request, its file on this machine."""
    told = {
        "id": lora["lora"],
        "path": str(fetch_lora(lora)),
        "sha256": lora["sha256"],
        "weight": lora["weight"],
        "start": lora.get("start", 0.0),
        "end": lora.get("end", 1.0),
    }
    return LoraSpec.model_validate(told, extra="ignore")


def fetch_input(path: Path, image: JsonObject) -> Path:
    """A frozen picture of a request (`ref`, `object_key`), laid at `path`."""
    try:
        get_store().get_file(image["object_key"], path)
    except NotFound as error:
        raise JobInputMissing(f"The picture {image['ref']} is gone") from error
    return path


def _stored(request: _Request, handle: PipelineHandle, outcome: Drawn | InferenceError) -> Publish:
    context = request.context
    if isinstance(outcome, DrawingStopped):
        context.check()
        raise Stopped(context.lease.stop_reason)
    if isinstance(outcome, InferenceError):
        raise GenerationFailed(outcome.code, str(outcome)) from outcome
    receipts = [
        receipt(request.spec, request.request, handle, image.seed) for image in outcome.images
    ]
    image_format = request.request["format"]

    def store(numbered: tuple[int, GeneratedImage]) -> StoredImage:
        index, image = numbered
        key = attempt_key(context.claim, f"{index}.{image_format}")
        return store_image(key, image, image_format, receipts[index])

    with stage("upload"), ThreadPoolExecutor(STORE_THREADS) as pool:
        stored = list(pool.map(store, enumerate(outcome.images)))
    context.check()
    reports: list[JsonObject] = [
        {
            "lora": lora["lora"],
            "matched": len(report.matched),
            "unmatched": list(report.unmatched),
        }
        for lora, report in zip(request.loras, outcome.loras, strict=True)
    ]

    def publish(session: Session) -> None:
        session.add_all(
            ImageRow(
                generation_id=context.claim.job_id, index=index, format=image_format, **vars(item)
            )
            for index, item in enumerate(stored)
        )
        session.execute(
            update(Generation)
            .where(Generation.id == context.claim.job_id)
            .values(lora_reports=reports, receipt=receipts[0].model_dump(mode="json"))
        )

    return publish


def receipt(
    spec: GenerationSpec, request: JsonObject, handle: PipelineHandle, seed: int
) -> Receipt:
    """What makes this picture again."""
    policy = device_policy()
    hashes: dict[str, Any] = {
        f"{name}_sha256": request[name]["sha256"] for name in INPUT_IMAGES if request.get(name)
    }
    return make_receipt(
        spec,
        seed,
        base_model_sha256=handle.base_sha256,
        device=policy.device.type,
        dtype=str(policy.dtype).removeprefix("torch."),
        **hashes,
    )


def store_image(key: str, image: GeneratedImage, image_format: Any, made: Receipt) -> StoredImage:
    """Pack a picture with its receipt, store it, and read it back: it is there, whole.

    Raises:
        ImageRefused: a rule of the operator's forbids it; nothing is stored.
    """
    check_made(image.image)
    data = encode_image(image.image, image_format, made)
    get_store().put_bytes(key, data, f"image/{image_format}")
    digest = hashlib.sha256(data).hexdigest()
    if get_store().sha256(key) != digest:
        raise GenerationFailed(
            "storage_corrupt", f"{key} was not stored as it was sent", retryable=True
        )
    return StoredImage(image.seed, image.width, image.height, key, digest, len(data))


def _unavailable(error: BaseModelUnavailable) -> GenerationFailed:
    # A hub may only be away for a while.
    return GenerationFailed(error.code, str(error), retryable=True)

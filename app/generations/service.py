"""Generations: queue what a request has frozen into, and find what became of it."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import load_catalog
from app.content.rules import check_prompt
from app.database import JsonObject, new_id
from app.errors import Conflict, NotFound
from app.generations.batching import batch_key, recipe
from app.generations.forecast import GenerationForecast, forecast
from app.generations.freeze import Frozen, freeze
from app.generations.models import GeneratedImage, Generation
from app.generations.schemas import GenerationCreate
from app.jobs import service as jobs
from app.jobs.models import Job
from app.settings import get_settings
from app.storage import ObjectStore
from app.webhooks import service as webhooks


def submit(
    session: Session,
    store: ObjectStore,
    account_id: str,
    request: GenerationCreate,
    request_id: str,
) -> Job:
    """Queue a generation with everything it needs frozen in its row.

    Raises:
        RequestError: see `freeze`.
    """
    frozen = freeze(session, store, account_id, request)
    return _queue(
        session,
        account_id,
        frozen,
        request.metadata,
        request_id,
        deadline_at=request.deadline,
        webhook_url=request.webhook,
    )


def try_out(session: Session, account_id: str, request: GenerationCreate) -> GenerationForecast:
    """What the generation would take, if it were submitted; it raises what `freeze` does."""
    if request.webhook is not None:
        webhooks.check(request.webhook, "webhook")
    return forecast(session, account_id, freeze(session, None, account_id, request))


def replay(session: Session, account_id: str, job_id: str, request_id: str) -> Job:
    """Queue the same pictures again: same seed, same files, whatever became of the LoRAs' rows.

    Raises:
        NotFound: no such generation in this account, or its base model is no longer offered.
        Conflict: it has not succeeded.
        PromptRefused: a rule of the operator's forbids the prompt by now.
    """
    job = jobs.get(session, account_id, job_id, "generation")
    if job.status != "succeeded":
        raise Conflict(f"{job_id} is {job.status}; only what has succeeded can be made again")
    return _again(session, account_id, job, request_id)


def retry(session: Session, account_id: str, job_id: str, request_id: str) -> Job:
    """Queue a failed or canceled generation again, as a new job.

    Raises:
        NotFound: no such generation in this account, or its base model is no longer offered.
        Conflict: it has not failed or been canceled.
        PromptRefused: a rule of the operator's forbids the prompt by now.
    """
    job = jobs.get(session, account_id, job_id, "generation")
    if job.status not in ("failed", "canceled"):
        raise Conflict(f"{job_id} is {job.status}; only a failed or canceled one is retried")
    return _again(session, account_id, job, request_id)


def _again(session: Session, account_id: str, job: Job, request_id: str) -> Job:
    done = session.get_one(Generation, job.id)
    base_model = load_catalog(get_settings().catalog_path).base_model(done.base_model)
    if base_model is None:
        raise NotFound(f"The base model {done.base_model} is no longer offered")
    # The rules may be newer than the request.
    check_prompt("/prompt", done.request["prompt"])
    frozen = Frozen(base_model, done.request, done.loras)
    return _queue(session, account_id, frozen, dict(job.labels), request_id)


def _queue(
    session: Session,
    account_id: str,
    frozen: Frozen,
    labels: dict[str, str],
    request_id: str,
    *,
    deadline_at: datetime | None = None,
    webhook_url: str | None = None,
) -> Job:
    job_id = new_id("gen")
    job = jobs.submit(
        session,
        job_id=job_id,
        kind="generation",
        queue="generate",
        account_id=account_id,
        labels=labels,
        request_id=request_id,
        deadline_at=deadline_at,
        webhook_url=webhook_url,
        batch_key=batch_key(frozen.base_model.id, frozen.request),
        batch_size=frozen.request["num_images"],
        base_model=frozen.base_model.id,
        recipe=recipe(frozen.loras),
    )
    generation = Generation(
        id=job_id,
        base_model=frozen.base_model.id,
        request=frozen.request,
        loras=frozen.loras,
        lora_reports=[],
    )
    session.add(generation)
    session.flush()
    return job


def images(session: Session, generation_id: str) -> list[GeneratedImage]:
    """The pictures of a generation, in order."""
    return list(
        session.scalars(
            select(GeneratedImage)
            .where(GeneratedImage.generation_id == generation_id)
            .order_by(GeneratedImage.index)
        )
    )


def request_of(generation: Generation, image: GeneratedImage) -> JsonObject:
    """The body of a request that makes one picture of a generation again, alone.

    Everything is explicit: neither the catalog's defaults nor a LoRA's weight can change it.
    """
    frozen = generation.request
    pictures = {name: frozen.get(name) for name in ("init_image", "mask_image")}
    return {
        **frozen,
        **{name: found and found["ref"] for name, found in pictures.items()},
        "base_model": generation.base_model,
        "loras": [
            {
                "lora": use["lora"],
                "weight": use["weight"],
                # Rows from before there were ranges do not say.
                "start": use.get("start", 0.0),
                "end": use.get("end", 1.0),
            }
            for use in generation.loras
        ],
        "seed": image.seed,
        "num_images": 1,
        # Pictures of the way there are not part of it.
        "previews": 0,
    }

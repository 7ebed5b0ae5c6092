"""A request in OpenAI's shape as a generation of ours, and what became of it in theirs."""

import base64

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import load_catalog
from app.errors import Conflict, FieldProblem, Invalid, JobError, NotFound
from app.generations import service as generations
from app.generations.schemas import GenerationCreate, LoraUse
from app.jobs import service as jobs
from app.loras import service as loras
from app.loras.models import Lora
from app.openai_images.schemas import ImageData, ImagesRequest, ImagesResponse, ModelList, ModelRead
from app.settings import get_settings
from app.storage import ObjectStore

# Most LoRAs that the list of models names, the newest.
LISTED_LORAS = 1000


class PictureFailed(JobError):
    """The job behind a request ended without pictures; it says why."""

    def __init__(self, code: str, detail: str, *, retryable: bool) -> None:
        super().__init__(detail)
        self.code = code
        self.retryable = retryable


def submit(
    session: Session,
    store: ObjectStore,
    account_id: str,
    request: ImagesRequest,
    request_id: str,
) -> str:
    """Queue the generation that a request asks for; the job's id.

    Raises:
        LorawrightError: as for any generation; or there is no such model.
    """
    base_model, own = _model(session, account_id, request.model)
    told = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "loras": own + request.loras,
        "base_model": base_model,
        "num_images": request.n or 1,
        "format": request.output_format or "png",
        "seed": request.seed,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": request.scheduler,
    }
    if request.size not in (None, "auto"):
        width, height = str(request.size).split("x")
        told |= {"width": _side(width), "height": _side(height)}
    wanted = GenerationCreate.model_validate(told)
    return generations.submit(session, store, account_id, wanted, request_id).id


def answer(
    session: Session, store: ObjectStore, account_id: str, job_id: str, request: ImagesRequest
) -> ImagesResponse:
    """The pictures of a job that has ended.

    Raises:
        PictureFailed: it failed.
        Conflict: it was canceled.
    """
    job = jobs.get(session, account_id, job_id, "generation")
    if job.status != "succeeded":
        if job.error_code is None:
            raise Conflict(f"{job.id} was {job.status} before its pictures were drawn")
        raise PictureFailed(
            job.error_code, job.error_message or "", retryable=bool(job.error_retryable)
        )
    images = generations.images(session, job.id)
    packed = request.response_format == "b64_json"
    return ImagesResponse(
        created=int(job.created_at.timestamp()),
        data=[
            ImageData(b64_json=base64.b64encode(store.get_bytes(image.object_key)).decode())
            if packed
            else ImageData(url=store.presign_get(image.object_key))
            for image in images
        ],
        output_format=images[0].format,
        size=f"{images[0].width}x{images[0].height}",
    )


def list_models(session: Session, account_id: str) -> ModelList:
    """Base models, then the account's LoRAs, the newest first."""
    catalog = load_catalog(get_settings().catalog_path)
    bases = [
        ModelRead(id=entry.id, created=0, owned_by="lorawright") for entry in catalog.base_models
    ]
    rows = session.scalars(
        select(Lora)
        .where(Lora.account_id == account_id)
        .order_by(Lora.id.desc())
        .limit(LISTED_LORAS)
    )
    own = [
        ModelRead(id=lora.id, created=int(lora.created_at.timestamp()), owned_by=lora.name)
        for lora in rows
    ]
    return ModelList(data=bases + own)


def give_up(session: Session, account_id: str, job_id: str) -> None:
    """Ask a job that nobody waits for any more to end."""
    jobs.request_cancel(session, account_id, job_id, "generation")


def _model(
    session: Session, account_id: str, model: str | None
) -> tuple[str | None, list[LoraUse]]:
    """The base model and LoRA that a model's name stands for."""
    if model is None or load_catalog(get_settings().catalog_path).base_model(model) is not None:
        return model, []
    name, colon, weight = model.rpartition(":")
    reference = name if colon and _is_number(weight) else model
    try:
        lora = loras.find(session, account_id, reference)
    except NotFound as error:
        detail = f"model: no base model and no LoRA {reference!r}; GET /v1/models lists them"
        raise NotFound(detail, [FieldProblem("/model", detail, "model_not_found")]) from error
    told = float(weight) if reference != model else None
    if told is not None and not -2 <= told <= 2:
        detail = f"model: the weight {weight} is not from -2 to 2"
        raise Invalid(detail, [FieldProblem("/model", detail)])
    return lora.base_model, [LoraUse(lora=lora.id, weight=told)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _side(text: str) -> int:
    side = int(text)
    if side < 32:
        detail = f"size: {side} px; the least is 32"
        raise Invalid(detail, [FieldProblem("/size", detail)])
    return side

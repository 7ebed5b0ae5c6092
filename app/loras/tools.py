"""LoRA tools: check a request, freeze its inputs, queue it; and conversions on demand."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry, load_catalog
from app.database import JsonObject, new_id
from app.errors import (
    ConversionFailed,
    ConversionPending,
    FieldProblem,
    Invalid,
    LoraIncompatible,
    TooManyLoras,
)
from app.jobs import service as jobs
from app.jobs.models import Job
from app.jobs.requests import JobRequest
from app.loras import service
from app.loras.models import Lora, LoraFile, LoraTool
from app.loras.schemas import Layout
from app.loras.tool_schemas import Convert, Extract, Merge, Resize
from app.settings import get_settings
from app.storage import ObjectStore

NAME_CHARS = 200


def submit(
    session: Session,
    account_id: str,
    request: Convert | Resize | Merge | Extract,
    request_id: str | None,
) -> str:
    """Queue a tool with its inputs frozen; the job's id.

    A conversion that another has asked for already, and that is not done yet, is the same job.

    Raises:
        NotFound: no such LoRA in this account.
        Conflict: several LoRAs have that name.
        TooManyLoras: a merge of more LoRAs than can be applied together.
        LoraIncompatible: LoRAs or base models of different architectures.
        Invalid: a base model that the catalog does not have, a LoRA twice, a layout that the LoRA
            is stored in, or neither a rank nor a share to keep.
    """
    if isinstance(request, Convert):
        lora = service.find(session, account_id, request.lora)
        if request.layout == lora.layout:
            raise _invalid("/layout", f"{lora.id} is stored as {lora.layout} already")
        _lock(session, lora)
        waiting = _conversion(session, lora, request.layout, ("queued", "running"))
        if waiting is not None:
            return waiting.id
        return _queue_conversion(session, lora, request.layout, request, request_id)
    if request.rank is None and request.keep is None and not isinstance(request, Merge):
        raise _invalid("/rank", "give a rank, a share to keep (keep), or both")
    settled: JsonObject = request.model_dump(
        exclude={"metadata", "deadline", "webhook", "lora", "loras"}
    )
    if isinstance(request, Extract):
        found: list[tuple[Lora, float]] = []
        base = _base_models(request)
        settled["base_model"], architecture = base.id, base.architecture
        settled["name"] = request.name or f"{request.fine_tuned} over {request.base_model}"
    else:
        found = _inputs(session, account_id, request)
        first = found[0][0]
        settled["base_model"], architecture = first.base_model, first.architecture
        settled["name"] = request.name or _name(request, found)
    settled["name"] = settled["name"][:NAME_CHARS]
    return _queue(
        session,
        account_id,
        settled | {"architecture": architecture},
        [_frozen(lora, weight) for lora, weight in found],
        request,
        request_id,
    )


@dataclass(frozen=True)
class Conversion:
    """A file that is being made: by which job, in which layout."""

    job_id: str
    layout: Layout


def file_or_conversion(
    session: Session,
    store: ObjectStore,
    lora: Lora,
    layout: Layout | None,
    request_id: str | None,
) -> str | Conversion:
    """A presigned address of a LoRA's file in a layout (None: as it is stored), or what makes it.

    However many ask at once, one job makes it.

    Raises:
        ConversionFailed: the layout cannot express the LoRA, as an earlier conversion has found.
    """
    url = _file_url(session, store, lora, layout or lora.layout)
    if url is not None:
        return url
    assert layout is not None, "the file as it is stored is always there"
    _lock(session, lora)
    # It may have been made while this waited for the lock.
    url = _file_url(session, store, lora, layout)
    if url is not None:
        return url
    waiting = _conversion(session, lora, layout, ("queued", "running"))
    if waiting is not None:
        return Conversion(waiting.id, layout)
    failed = _conversion(session, lora, layout, ("failed",))
    if failed is not None and not failed.error_retryable:
        # The same file would fail in the same way.
        raise _failure(failed)
    return Conversion(_queue_conversion(session, lora, layout, JobRequest(), request_id), layout)


def converted_url(session: Session, store: ObjectStore, lora: Lora, made: Conversion) -> str:
    """A presigned address of what a conversion has made.

    Raises:
        ConversionFailed: it could not be made.
        ConversionPending: it is still being made.
    """
    url = _file_url(session, store, lora, made.layout)
    if url is not None:
        return url
    job = jobs.get(session, lora.account_id, made.job_id)
    if job.status == "failed":
        raise _failure(job)
    raise ConversionPending(
        f"The {made.layout} file of {lora.id} is being made ({job.id}, {job.status}); ask again"
    )


def _failure(job: Job) -> ConversionFailed:
    return ConversionFailed(
        job.error_message or "", job.error_code or "internal", retryable=bool(job.error_retryable)
    )


def _file_url(session: Session, store: ObjectStore, lora: Lora, layout: str) -> str | None:
    key = lora.object_key
    if layout != lora.layout:
        other = session.get(LoraFile, (lora.id, layout))
        if other is None:
            return None
        key = other.object_key
    return store.presign_get(key, f"{lora.name}.{key.rsplit('.', 1)[-1]}")


def detail(session: Session, job: Job) -> LoraTool:
    """What a job of this kind is about."""
    return session.get_one(LoraTool, job.id)


def _inputs(session: Session, account_id: str, request: Resize | Merge) -> list[tuple[Lora, float]]:
    if isinstance(request, Resize):
        return [(service.find(session, account_id, request.lora), 1.0)]
    limit = get_settings().max_loras_per_generation
    if len(request.loras) > limit:
        raise TooManyLoras(
            f"{len(request.loras)} LoRAs are to be merged; at most {limit} can be "
            "(LORAWRIGHT_MAX_LORAS_PER_GENERATION)",
            [FieldProblem("/loras", f"at most {limit}")],
        )
    found: list[tuple[Lora, float]] = []
    for place, use in enumerate(request.loras):
        lora = service.find(session, account_id, use.lora)
        if any(lora.id == other.id for other, _ in found):
            raise _invalid(f"/loras/{place}", f"{lora.id} stands twice; give it one weight")
        found.append((lora, lora.default_weight if use.weight is None else use.weight))
    first = found[0][0]
    for lora, _ in found:
        if lora.architecture != first.architecture:
            raise LoraIncompatible(
                f"{first.id} ({first.name}) was made for {first.architecture}, {lora.id} "
                f"({lora.name}) for {lora.architecture}; LoRAs of one architecture can be merged"
            )
    return found


def _base_models(request: Extract) -> BaseModelEntry:
    catalog = load_catalog(get_settings().catalog_path)
    names = ", ".join(known.id for known in catalog.base_models)
    entries = []
    for field, wanted in (("base_model", request.base_model), ("fine_tuned", request.fine_tuned)):
        entry = catalog.base_model(wanted)
        if entry is None:
            raise _invalid(f"/{field}", f"no base model {wanted!r}; there are {names}")
        entries.append(entry)
    base, tuned = entries
    if base.architecture != tuned.architecture:
        raise LoraIncompatible(
            f"{base.id} is {base.architecture}, {tuned.id} is {tuned.architecture}; a LoRA can be "
            "extracted from two base models of one architecture"
        )
    return base


def _name(request: Resize | Merge, found: list[tuple[Lora, float]]) -> str:
    if isinstance(request, Merge):
        return " + ".join(lora.name for lora, _ in found)
    rank = "" if request.rank is None else f", rank {request.rank}"
    keep = "" if request.keep is None else f", keeping {request.keep:g}"
    return f"{found[0][0].name}{rank}{keep}"


def _frozen(lora: Lora, weight: float) -> JsonObject:
    return {
        "lora": lora.id,
        "name": lora.name,
        "weight": weight,
        "trigger_word": lora.trigger_word,
        "sha256": lora.sha256,
        "object_key": lora.object_key,
    }


def _lock(session: Session, lora: Lora) -> None:
    """Whoever asks for a conversion of this LoRA meanwhile waits for this transaction."""
    session.execute(select(Lora.id).where(Lora.id == lora.id).with_for_update(key_share=True))


def _conversion(
    session: Session, lora: Lora, layout: Layout, statuses: tuple[str, ...]
) -> Job | None:
    """The newest conversion of a LoRA to a layout that is in one of these states."""
    return session.scalar(
        select(Job)
        .join(LoraTool, LoraTool.id == Job.id)
        .where(
            LoraTool.operation == "convert",
            LoraTool.lora_id == lora.id,
            LoraTool.request["layout"].astext == layout,
            Job.status.in_(statuses),
        )
        .order_by(Job.created_at.desc(), Job.id.desc())
        .limit(1)
    )


def _queue_conversion(
    session: Session, lora: Lora, layout: Layout, asked: JobRequest, request_id: str | None
) -> str:
    request = {
        "operation": "convert",
        "layout": layout,
        "base_model": lora.base_model,
        "architecture": lora.architecture,
    }
    return _queue(
        session, lora.account_id, request, [_frozen(lora, 1.0)], asked, request_id, lora_id=lora.id
    )


def _queue(
    session: Session,
    account_id: str,
    request: JsonObject,
    inputs: list[JsonObject],
    asked: JobRequest,
    request_id: str | None,
    lora_id: str | None = None,
) -> str:
    job_id = new_id("tool")
    jobs.submit(
        session,
        job_id=job_id,
        kind="lora_tool",
        # Work for the CPU, which no GPU waits for.
        queue="ingest",
        account_id=account_id,
        labels=asked.metadata,
        deadline_at=asked.deadline,
        webhook_url=asked.webhook,
        request_id=request_id,
    )
    operation: Any = request["operation"]
    session.add(
        LoraTool(
            id=job_id,
            operation=operation,
            request=request | {"inputs": inputs},
            report=None,
            # A conversion is found again by the LoRA it is for.
            lora_id=lora_id,
        )
    )
    session.flush()
    return job_id


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(f"{pointer[1:]}: {detail}", [FieldProblem(pointer, detail)])

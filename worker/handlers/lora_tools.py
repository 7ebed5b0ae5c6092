"""LoRA tools: inputs down and checked, the tool run, its file up, read back and loaded."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.database import JsonObject, new_id, transaction
from app.errors import JobInputMissing, LoraToolFailed, NotFound
from app.lora_format.architectures import Architecture, architectures
from app.lora_format.check import check_file
from app.lora_format.errors import LoraFileError
from app.lora_format.report import LoraFileReport
from app.loras.intake import kept_metadata
from app.loras.models import Lora as LoraRow
from app.loras.models import LoraFile, LoraTool
from app.settings import get_settings
from app.storage import get_store
from worker.handlers import understanding
from worker.handlers.context import JobContext
from worker.handlers.models import base_model_entry, base_model_spec
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.tools.convert import convert
from worker.ml.lora_files.tools.extract import Checkpoint, extract
from worker.ml.lora_files.tools.files import compare, read_whole, widest_dtype, write_checked
from worker.ml.lora_files.tools.low_rank import MAX_RANK, RankChoice
from worker.ml.lora_files.tools.merge import Ingredient, merge
from worker.ml.lora_files.tools.report import Tell, ToolReport
from worker.ml.lora_files.tools.resize import resize
from worker.workspace import attempt_key

CONTENT_TYPES = {".safetensors": "application/octet-stream", ".zip": "application/zip"}
# Shares of the progress: fetching before, storing after.
FETCHED, MADE = 0.1, 0.9

Publish = Callable[[Session], None]


@dataclass(frozen=True)
class _Stored:
    """A result's file, as it was read back from storage."""

    path: Path
    object_key: str
    sha256: str
    bytes: int
    report: LoraFileReport | None


def run(context: JobContext) -> Publish:
    """Do what the frozen request says."""
    with transaction() as session:
        request = dict(session.get_one(LoraTool, context.claim.job_id).request)
    understanding.check(request)
    threads = get_settings().torch_threads
    if threads:
        torch.set_num_threads(threads)
    architecture = architectures().get(request["architecture"])
    if architecture is None:
        raise LoraToolFailed(
            "lora_incompatible", f"the modules of {request['architecture']} are not known"
        )
    try:
        if request["operation"] == "convert":
            return _convert(context, request, architecture)
        return _make(context, request, architecture)
    except LoraFileError as error:
        raise LoraToolFailed(error.code, str(error)) from error
    except BaseModelUnavailable as error:
        raise LoraToolFailed(error.code, str(error), retryable=True) from error


def _convert(context: JobContext, request: JsonObject, architecture: Architecture) -> Publish:
    layout = request["layout"]
    [(lora, left_out)] = _read_inputs(context, request, architecture)
    ending = ".zip" if layout == "peft" else ".safetensors"
    path = context.folder / f"{layout}{ending}"
    report = convert(lora, architecture, path, layout)
    stored = _store(context, path, architecture)
    if stored.report is not None:
        # The file as other programs will read it, loaded once more.
        compare(lora, read_whole(stored.path, architecture)[0])
    told = report.as_json() | {"left_out": left_out}
    lora_id = request["inputs"][0]["lora"]

    def publish(session: Session) -> None:
        kept = session.scalar(
            select(LoraRow.id).where(LoraRow.id == lora_id).with_for_update(key_share=True)
        )
        if kept is None:
            raise JobInputMissing(f"The LoRA {lora_id} was removed")
        session.execute(
            insert(LoraFile)
            .values(
                lora_id=lora_id,
                layout=layout,
                object_key=stored.object_key,
                sha256=stored.sha256,
                bytes=stored.bytes,
            )
            .on_conflict_do_nothing()
        )
        session.get_one(LoraTool, context.claim.job_id).report = told

    return publish


def _make(context: JobContext, request: JsonObject, architecture: Architecture) -> Publish:
    """A new LoRA, in kohya's layout."""
    found = _read_inputs(context, request, architecture)
    loras = [lora for lora, _ in found]
    dtype = _dtype(request, loras)

    def tell(done: int, total: int) -> None:
        context.check()
        fraction = FETCHED + (MADE - FETCHED) * done / total
        context.progress(fraction, stage=request["operation"], step=done, total_steps=total)

    result, report = _apply(request, architecture, loras, dtype, tell)
    path = context.folder / "lora.safetensors"
    write_checked(path, result, architecture, result.metadata, dtype)
    context.progress(MADE, stage="store")
    context.check()
    stored = _store(context, path, architecture)
    assert stored.report is not None, "a kohya file is checked"
    contents = stored.report.contents
    assert contents is not None, "a file that was checked has contents"
    # The LoRA as generations will load it.
    compare(result, read_whole(stored.path, architecture)[0])
    metadata, _ = kept_metadata(stored.report.metadata)
    triggers = [each["trigger_word"] for each in request["inputs"] if each["trigger_word"]]
    file_report = stored.report.as_json()
    told = report.as_json() | {"left_out": [name for _, names in found for name in names]}

    def publish(session: Session) -> None:
        lora = LoraRow(
            id=new_id("lora"),
            account_id=context.claim.account_id,
            name=request["name"],
            description=request["description"],
            trigger_word=triggers[0] if triggers else None,
            base_model=request["base_model"],
            architecture=architecture.id,
            source="tool",
            rank=contents.rank,
            alpha=contents.alpha,
            object_key=stored.object_key,
            sha256=stored.sha256,
            bytes=stored.bytes,
            layout="kohya",
            file_metadata=metadata,
            report=file_report,
        )
        session.add(lora)
        session.flush()
        row = session.get_one(LoraTool, context.claim.job_id)
        row.lora_id, row.report = lora.id, told

    return publish


def _apply(
    request: JsonObject,
    architecture: Architecture,
    loras: list[Lora],
    dtype: torch.dtype,
    tell: Tell,
) -> tuple[Lora, ToolReport]:
    rank, keep = request["rank"], request["keep"]
    limited = rank is not None or keep is not None
    choice = RankChoice(MAX_RANK if rank is None else rank, keep)
    if request["operation"] == "resize":
        return resize(loras[0], architecture, choice, dtype, tell)
    if request["operation"] == "merge":
        ingredients = [
            Ingredient(each["name"], lora, each["weight"])
            for each, lora in zip(request["inputs"], loras, strict=True)
        ]
        return merge(ingredients, architecture, choice if limited else None, dtype, tell)
    return extract(
        _checkpoint(request["base_model"]),
        _checkpoint(request["fine_tuned"]),
        architecture,
        choice,
        titles=(request["base_model"], request["fine_tuned"]),
        targets=request["targets"],
        text_encoders=request["text_encoders"],
        dtype=dtype,
        tell=tell,
    )


def _checkpoint(base_model_id: str) -> Checkpoint:
    spec = base_model_spec(base_model_entry(base_model_id))
    return Checkpoint(spec.location, spec.revision)


def _dtype(request: JsonObject, loras: list[Lora]) -> torch.dtype:
    if request["precision"] is not None:
        chosen: Any = getattr(torch, request["precision"])
        return chosen
    return widest_dtype(loras) if loras else torch.float16


def _read_inputs(
    context: JobContext, request: JsonObject, architecture: Architecture
) -> list[tuple[Lora, list[str]]]:
    """Each LoRA, and the names in its file that the base has no module for."""
    found = []
    inputs = request["inputs"]
    for number, each in enumerate(inputs):
        context.check()
        context.progress(
            FETCHED * number / len(inputs),
            stage="download",
            step=number + 1,
            total_steps=len(inputs),
        )
        path = context.folder / f"input-{number}.safetensors"
        try:
            get_store().get_file(each["object_key"], path)
        except NotFound as error:
            raise JobInputMissing(f"The file of {each['lora']} ({each['name']}) is gone") from error
        _check_hash(path, each["sha256"], each["lora"])
        # Names that the base lacks were allowed when the file was uploaded, if there are any.
        found.append(read_whole(path, architecture, strict=False))
        path.unlink()
    return found


def _store(context: JobContext, path: Path, architecture: Architecture) -> _Stored:
    """Put a result into storage, and get it back."""
    store = get_store()
    sha256 = _sha256(path)
    key = attempt_key(context.claim, path.name)
    store.put_file(key, path, CONTENT_TYPES[path.suffix])
    back = context.folder / f"stored{path.suffix}"
    store.get_file(key, back)
    _check_hash(back, sha256, path.name)
    # PEFT's zip was read before it was packed, and its bytes are the same.
    report = None
    if path.suffix == ".safetensors":
        report = check_file(back, architecture=architecture.id)
    return _Stored(back, key, sha256, back.stat().st_size, report)


def _check_hash(path: Path, sha256: str, name: str) -> None:
    if _sha256(path) != sha256:
        raise LoraToolFailed(
            "storage_corrupt",
            f"{name} reads back from storage with another hash",
            retryable=True,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A LoRA file from elsewhere: staged, checked, kept."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.catalog import BaseModelEntry, load_catalog
from app.database import new_id
from app.errors import (
    FieldProblem,
    Invalid,
    LoraFileRefused,
    StorageUnavailable,
)
from app.lora_format import check
from app.lora_format.errors import LoraFileError
from app.lora_format.header import HeaderLimits
from app.lora_format.report import LoraFileReport
from app.lora_format.text import shown
from app.loras.models import Lora
from app.loras.schemas import LoraUpload
from app.retention.service import hold
from app.settings import get_settings
from app.storage import ObjectStore

CONTENT_TYPE = "application/octet-stream"
NAME_CHARS = 200
TRIGGER_CHARS = 100
# Of the file's own metadata, what is kept beside the LoRA: a picture or the list of every image
# it was trained on does not belong into each answer.
METADATA_VALUE_CHARS = 16 * 1024
METADATA_CHARS = 256 * 1024


def inspect(path: Path, base_model: str | None, *, strict: bool) -> LoraFileReport:
    """Describe a file; what keeps a sound one from being used is listed in the report.

    Raises:
        LoraFileRefused: the file is damaged.
        Invalid: no such base model.
    """
    architecture = None if base_model is None else _entry(base_model).architecture
    try:
        return check.describe(path, _limits(), strict=strict, architecture=architecture)
    except LoraFileError as error:
        raise LoraFileRefused(str(error), error.code) from error


def keep(
    session: Session,
    store: ObjectStore,
    account_id: str,
    path: Path,
    filename: str | None,
    request: LoraUpload,
) -> tuple[Lora, bool]:
    """Make a file a LoRA of the account: every check first, then the bytes, then the row.

    Args:
        filename: as the client calls it; the LoRA's name unless the request has one.

    Returns:
        The LoRA, and whether it is new: the account may have one of the same bytes already.

    Raises:
        LoraFileRefused: a check failed; nothing is kept.
        Invalid: no such base model.
        StorageUnavailable: the bytes could not be stored, or read back otherwise; no row is
            written.
    """
    report = inspect(path, request.base_model, strict=request.strict)
    for problem in report.problems:
        raise LoraFileRefused(str(problem), problem.code)
    assert report.contents is not None, "a file without problems has contents"
    assert report.architecture is not None, "a file without problems fits an architecture"
    _one_at_a_time(session, account_id, report.hashes.sha256)
    existing = _find(session, account_id, report.hashes.sha256)
    if existing is not None:
        return existing, False
    base_model = _base_model(request.base_model, report.architecture)
    quotas.check(session, account_id, loras=1, stored_bytes=report.nbytes)
    key = f"accounts/{account_id}/loras/{report.hashes.sha256}.safetensors"
    hold(session, account_id)
    store.put_file(key, path, CONTENT_TYPE)
    if store.sha256(key) != report.hashes.sha256:
        raise StorageUnavailable(f"{key} reads back from storage with another hash")
    metadata, _ = kept_metadata(report.metadata)
    lora = Lora(
        id=new_id("lora"),
        account_id=account_id,
        name=request.name or _name(filename),
        description=request.description,
        trigger_word=request.trigger_word or _trigger(report),
        default_weight=request.default_weight,
        base_model=base_model.id,
        architecture=report.architecture,
        source="upload",
        rank=report.contents.rank,
        alpha=report.contents.alpha,
        object_key=key,
        sha256=report.hashes.sha256,
        bytes=report.nbytes,
        layout=report.contents.layout,
        file_metadata=metadata,
        report=report.as_json(),
    )
    session.add(lora)
    session.flush()
    session.refresh(lora)
    return lora, True


def kept_metadata(metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A file's metadata as it can be stored and shown, and the names of entries left out.

    Entries are left out that are over METADATA_VALUE_CHARS, or that come, in the order of their
    names, after METADATA_CHARS.
    """
    kept: dict[str, str] = {}
    left_out: list[str] = []
    total = 0
    for name, value in sorted(metadata.items()):
        total += len(name) + len(value)
        if len(name) + len(value) > METADATA_VALUE_CHARS or total > METADATA_CHARS:
            total -= len(name) + len(value)
            left_out.append(shown(name, NAME_CHARS))
        else:
            kept[shown(name, METADATA_VALUE_CHARS)] = shown(value, METADATA_VALUE_CHARS)
    return kept, left_out


def _limits() -> HeaderLimits:
    return HeaderLimits(file_bytes=get_settings().max_lora_bytes)


def _one_at_a_time(session: Session, account_id: str, sha256: str) -> None:
    """Let uploads of the same file wait for each other until their transactions end."""
    name = func.hashtextextended(f"lora {account_id} {sha256}", 0)
    session.execute(select(func.pg_advisory_xact_lock(name)))


def _find(session: Session, account_id: str, sha256: str) -> Lora | None:
    return session.scalar(
        select(Lora)
        .where(Lora.account_id == account_id, Lora.sha256 == sha256)
        .order_by(Lora.id)
        .limit(1)
    )


def _entry(base_model: str) -> BaseModelEntry:
    catalog = load_catalog(get_settings().catalog_path)
    entry = catalog.base_model(base_model)
    if entry is None:
        names = ", ".join(known.id for known in catalog.base_models)
        detail = f"no base model {base_model!r}; there are {names}"
        raise Invalid(detail, [FieldProblem("/base_model", detail)])
    return entry


def _base_model(wanted: str | None, architecture: str) -> BaseModelEntry:
    """The one that was named, or the catalog's first of the architecture."""
    if wanted is not None:
        return _entry(wanted)
    for entry in load_catalog(get_settings().catalog_path).base_models:
        if entry.architecture == architecture:
            return entry
    raise LoraFileRefused(
        f"the file fits {architecture}, of which no base model is offered here", "lora_incompatible"
    )


def _name(filename: str | None) -> str:
    """The file's own name without its folders and its ending."""
    last = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    stem = last.rsplit(".", 1)[0] if "." in last else last
    return " ".join(shown(stem, NAME_CHARS).split()) or "lora"


def _trigger(report: LoraFileReport) -> str | None:
    """What the file itself calls its trigger; tags are no more than a guess."""
    told = [phrase for phrase, source in report.digest.trigger_phrases if source != "tags"]
    phrase = " ".join(told[0].split()) if told else ""
    return phrase if 0 < len(phrase) <= TRIGGER_CHARS else None

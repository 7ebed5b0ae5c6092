"""LoRAs over HTTP."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.database import transaction
from app.jobs.wait import wait_until_ended
from app.lora_format.report import LISTED
from app.loras import intake, service, tools
from app.loras.models import Lora
from app.loras.schemas import (
    FileNames,
    Layout,
    LoraFileReport,
    LoraInspection,
    LoraPatch,
    LoraRead,
    LoraUpload,
)
from app.loras.tools import Conversion
from app.settings import get_settings
from app.web.dependencies import (
    BriefAccountId,
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/loras", tags=["loras"], route_class=OnceRoute)
routers = [router]

DownloadFormat = Annotated[
    Layout | Literal["original"],
    Query(alias="format", description="File layout; `original` is the file as it is stored"),
]
LoraFileField = Annotated[UploadFile, File(description="A .safetensors file")]
BaseModelField = Annotated[
    str | None,
    Form(description="Catalog id; without it, the first of the architecture the file fits"),
]
StrictField = Annotated[
    bool, Form(description="Refuse a file with keys that have no place in the base model")
]


@router.post("", status_code=201, responses={200: {"model": LoraRead}})
def upload_lora(
    file: LoraFileField,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    response: Response,
    name: Annotated[str | None, Form(description="Without it, the file's own")] = None,
    description: Annotated[str, Form()] = "",
    trigger_word: Annotated[
        str | None, Form(description="Without it, the one that the file tells, if any")
    ] = None,
    base_model: BaseModelField = None,
    default_weight: Annotated[float, Form()] = 1.0,
    strict: StrictField = True,
) -> LoraRead:
    """Keep a LoRA from elsewhere, once its file has passed every check.

    The same file again answers 200 and the LoRA that the account has.
    """
    request = _upload(
        name=name,
        description=description,
        trigger_word=trigger_word,
        base_model=base_model,
        default_weight=default_weight,
        strict=strict,
    )
    with tempfile.TemporaryDirectory(prefix="lorawright-lora-") as folder:
        staged = intake.stage(file.file, Path(folder))
        lora, is_new = intake.keep(session, store, account.id, staged, file.filename, request)
    if not is_new:
        response.status_code = 200
    return read_lora(lora)


@router.post("/inspect")
def inspect_lora(
    file: LoraFileField,
    account: GenerationsAccount,  # noqa: ARG001 (a key is needed, whosever it is)
    base_model: BaseModelField = None,
    strict: StrictField = True,
) -> LoraInspection:
    """Check a file without keeping it; one that was made for another model is described."""
    with tempfile.TemporaryDirectory(prefix="lorawright-lora-") as folder:
        report = intake.inspect(intake.stage(file.file, Path(folder)), base_model, strict=strict)
    kept, left_out = intake.kept_metadata(report.metadata)
    return LoraInspection(
        **report.as_json(),
        file_metadata=kept,
        metadata_left_out=FileNames(count=len(left_out), names=left_out[:LISTED]),
    )


@router.get("")
def list_loras(
    account: GenerationsAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[LoraRead]:
    """The account's LoRAs, newest first."""
    rows = service.list_newest(session, account.id, limit=limit + 1, after=after)
    return page_of(rows, limit, read_lora)


@router.get("/{lora_id}")
def get_lora(lora_id: str, account: GenerationsAccount, session: SessionDep) -> LoraRead:
    """One LoRA."""
    return read_lora(service.get(session, account.id, lora_id))


@router.patch("/{lora_id}")
def edit_lora(
    lora_id: str, patch: LoraPatch, account: GenerationsAccount, session: SessionDep
) -> LoraRead:
    """Rename, describe, or set the default weight or trigger word."""
    return read_lora(service.edit(session, service.get(session, account.id, lora_id), patch))


@router.get("/{lora_id}/download", status_code=302, response_class=RedirectResponse)
async def download_lora(
    lora_id: str,
    account_id: BriefAccountId,
    store: StoreDep,
    request_id: RequestId,
    layout: DownloadFormat = "kohya",
) -> RedirectResponse:
    """Redirect to the file; one in another layout than it is stored in is made when asked for.

    Web UIs and ComfyUI load kohya's layout, the default, which trainings write. PEFT's is a zip
    of its two files. A file that takes long to make answers 503 with `Retry-After`.
    """

    def look() -> str | Conversion:
        with transaction() as session:
            lora = service.get(session, account_id, lora_id)
            wanted = None if layout == "original" else layout
            return tools.file_or_conversion(session, store, lora, wanted, request_id)

    def look_again(made: Conversion) -> str:
        with transaction() as session:
            lora = service.get(session, account_id, lora_id)
            return tools.converted_url(session, store, lora, made)

    found = await run_in_threadpool(look)
    if isinstance(found, Conversion):
        await wait_until_ended(found.job_id, get_settings().lora_conversion_wait_seconds)
        found = await run_in_threadpool(look_again, found)
    return RedirectResponse(found, status_code=302)


def read_lora(lora: Lora) -> LoraRead:
    """A row as its answer."""
    shown = {name: getattr(lora, name) for name in LoraRead.model_fields if hasattr(Lora, name)}
    shown["report"] = LoraFileReport.model_validate(lora.report) if lora.report else None
    return LoraRead(**shown, training=lora.training_id, checkpoint=lora.checkpoint_id)


def _upload(**fields: object) -> LoraUpload:
    """The form's texts under the limits that JSON has."""
    try:
        return LoraUpload.model_validate(fields)
    except ValidationError as error:
        wrong = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(wrong) from error

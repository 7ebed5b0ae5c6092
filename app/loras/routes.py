"""LoRAs over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.database import transaction
from app.jobs.wait import wait_until_ended
from app.lora_format.report import LISTED
from app.loras import intake, service, tools
from app.loras.models import Lora
from app.loras.schemas import (
    FileNames,
    Layout,
    LoraCheck,
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
from app.web.etags import IfMatch, check_match
from app.web.forms import (
    Form,
    FormRules,
    form_body,
    receive_form,
    staging_folder,
    text_fields,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/loras", tags=["loras"], route_class=OnceRoute)
routers = [router]

DownloadFormat = Annotated[
    Layout | Literal["original"],
    Query(alias="format", description="File layout; `original` is the file as it is stored"),
]
FILE = "A .safetensors file"


@router.post(
    "",
    status_code=201,
    responses={200: {"model": LoraRead}},
    openapi_extra=form_body("file", FILE, texts=LoraUpload),
)
async def upload_lora(
    request: Request, account_id: BriefAccountId, store: StoreDep, response: Response
) -> LoraRead:
    """Keep a LoRA from elsewhere, once its file has passed every check.

    The same file again answers 200 and the LoRA that the account has.
    """

    def keep(form: Form) -> tuple[LoraRead, bool]:
        told = text_fields(LoraUpload, form.texts)
        [file] = form.files
        with transaction() as session:
            lora, is_new = intake.keep(session, store, account_id, file.path, file.filename, told)
            return read_lora(lora), is_new

    async with staging_folder() as folder:
        form = await receive_form(request, folder, _rules(LoraUpload))
        read, is_new = await run_in_threadpool(keep, form)
    if not is_new:
        response.status_code = 200
    return read


@router.post("/inspect", openapi_extra=form_body("file", FILE, texts=LoraCheck))
async def inspect_lora(
    request: Request,
    account_id: BriefAccountId,  # noqa: ARG001 (a key is needed, whosever it is)
) -> LoraInspection:
    """Check a file without keeping it; one that was made for another model is described."""

    def inspect(form: Form) -> LoraInspection:
        told = text_fields(LoraCheck, form.texts)
        report = intake.inspect(form.files[0].path, told.base_model, strict=told.strict)
        kept, left_out = intake.kept_metadata(report.metadata)
        return LoraInspection(
            **report.as_json(),
            file_metadata=kept,
            metadata_left_out=FileNames(count=len(left_out), names=left_out[:LISTED]),
        )

    async with staging_folder() as folder:
        form = await receive_form(request, folder, _rules(LoraCheck))
        return await run_in_threadpool(inspect, form)


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
    lora_id: str,
    patch: LoraPatch,
    account: GenerationsAccount,
    session: SessionDep,
    if_match: IfMatch = None,
) -> LoraRead:
    """Rename, describe, or set the default weight or trigger word."""
    lora = service.get(session, account.id, lora_id)
    if if_match is not None:
        session.refresh(lora, with_for_update=True)
        check_match(if_match, read_lora(lora))
    return read_lora(service.edit(session, lora, patch))


@router.delete("/{lora_id}", status_code=204)
def delete_lora(lora_id: str, account: GenerationsAccount, session: SessionDep) -> None:
    """Delete a LoRA and its files; requests that wait with it are still drawn."""
    service.delete(session, service.get(session, account.id, lora_id))


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


def _rules(texts: type[BaseModel]) -> FormRules:
    limit = get_settings().max_lora_bytes
    return FormRules(
        file_field="file",
        max_files=(1, ""),
        max_file_bytes=lambda _: (limit, "LORAWRIGHT_MAX_LORA_BYTES"),
        text_fields=frozenset(texts.model_fields),
    )

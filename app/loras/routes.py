"""LoRAs over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse

from app.loras import service
from app.loras.models import Lora
from app.loras.schemas import LoraPatch, LoraRead
from app.web.dependencies import (
    GenerationsAccount,
    PageAfter,
    PageLimit,
    SessionDep,
    StoreDep,
)
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/loras", tags=["loras"])
routers = [router]

# The stored layout; the others come with a converter of their own.
DownloadFormat = Annotated[Literal["kohya"], Query(alias="format", description="File layout")]


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
def download_lora(
    lora_id: str,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    layout: DownloadFormat = "kohya",  # noqa: ARG001 (validated by its type; one layout so far)
) -> RedirectResponse:
    """Redirect to the file, in kohya layout, which web UIs and ComfyUI load unchanged."""
    lora = service.get(session, account.id, lora_id)
    return RedirectResponse(service.download_url(store, lora), status_code=302)


def read_lora(lora: Lora) -> LoraRead:
    """A row as its answer."""
    shown = {name: getattr(lora, name) for name in LoraRead.model_fields if hasattr(Lora, name)}
    return LoraRead(**shown, training=lora.training_id, checkpoint=lora.checkpoint_id)

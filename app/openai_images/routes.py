"""`/v1/images/generations` and `/v1/models`, as OpenAI's clients call them."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from app.database import transaction
from app.errors import ServiceUnavailable
from app.idempotency import service as idempotency
from app.jobs.wait import wait_until_ended
from app.openai_images import service
from app.openai_images.errors import OpenAIRoute
from app.openai_images.schemas import (
    ImagesRequest,
    ImagesResponse,
    ModelList,
    OpenAIErrorBody,
)
from app.settings import get_settings
from app.storage import get_store
from app.web.dependencies import BriefAccountId, GenerationsAccount, RequestId, SessionDep
from app.web.once import once_of

# Those that the routes themselves answer; what comes from before them is a problem as elsewhere.
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": OpenAIErrorBody, "description": "A value is wrong; `param` says which"},
    401: {"model": OpenAIErrorBody, "description": "No API key, or one that is unknown or revoked"},
    403: {"model": OpenAIErrorBody, "description": "The key lacks a scope"},
    404: {"model": OpenAIErrorBody, "description": "No such object in this account"},
    409: {"model": OpenAIErrorBody, "description": "The state of an object forbids it"},
    503: {"model": OpenAIErrorBody, "description": "A server is away, or the pictures are late"},
}
router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute, responses=ERRORS)
routers = [router]


class PictureLate(ServiceUnavailable):
    """The pictures were not there in time."""

    code = "picture_late"
    title = "The pictures were not drawn in time"


@router.post("/images/generations", response_model_exclude_none=True)
async def generate_images(
    body: ImagesRequest, account_id: BriefAccountId, request: Request, request_id: RequestId
) -> ImagesResponse:
    """Draw pictures and wait for them; `model` is a base model or a LoRA."""

    once = once_of(request)
    fingerprint = "" if once is None else await once.fingerprint()

    def submit() -> str:
        with transaction() as session:

            def make() -> str:
                return service.submit(session, get_store(), account_id, body, request_id)

            return make() if once is None else once.submit(session, account_id, fingerprint, make)

    def read() -> ImagesResponse:
        with transaction() as session:
            return service.answer(session, get_store(), account_id, job_id, body)

    def cancel() -> None:
        with transaction() as session:
            service.give_up(session, account_id, job_id)
            if once is not None:
                idempotency.forget(session, account_id, once.key)

    job_id = await run_in_threadpool(submit)
    seconds = get_settings().openai_wait_seconds
    if not await wait_until_ended(job_id, seconds, request.is_disconnected):
        await run_in_threadpool(cancel)
        raise PictureLate(
            f"{job_id} was not done within {seconds:g} s (LORAWRIGHT_OPENAI_WAIT_SECONDS) and is "
            "canceled; POST /v1/generations does not wait"
        )
    return await run_in_threadpool(read)


@router.get("/models")
def list_models(account: GenerationsAccount, session: SessionDep) -> ModelList:
    """Base models and the account's LoRAs."""
    return service.list_models(session, account.id)

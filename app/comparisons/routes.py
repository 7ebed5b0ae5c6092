"""Comparisons over HTTP."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from app.comparisons import service
from app.comparisons.models import Comparison
from app.comparisons.schemas import ComparisonCreate, ComparisonImage, ComparisonRead
from app.jobs import service as jobs
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.storage import get_store
from app.web.dependencies import (
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/comparisons", tags=["generations"], route_class=OnceRoute)
routers = [router]


@router.post("", status_code=201)
def create_comparison(
    request: ComparisonCreate,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    request_id: RequestId,
) -> ComparisonRead:
    """Queue a grid of pictures, one for each combination of the axes' values."""
    comparison = service.submit(session, store, account.id, request, request_id)
    return _read(session, jobs.get(session, account.id, comparison.id))


@router.get("")
def list_comparisons(
    account: GenerationsAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[ComparisonRead]:
    """The account's comparisons, newest first."""
    rows = jobs.list_newest(session, account.id, limit=limit + 1, after=after, kind="comparison")
    return page_of(rows, limit, lambda job: _read(session, job))


@router.get("/{job_id}")
def get_comparison(job_id: str, account: GenerationsAccount, session: SessionDep) -> ComparisonRead:
    """One comparison; its pictures and the sheet are there once it has succeeded."""
    return _read(session, jobs.get(session, account.id, job_id, "comparison"))


def _read(session: Session, job: Job) -> ComparisonRead:
    detail = session.get_one(Comparison, job.id)
    store, is_kept = get_store(), job.pictures_gone_at is None
    return ComparisonRead(
        **job_fields(session, job),
        base_model=detail.base_model,
        expires_at=job.pictures_expire_at,
        request=detail.request,
        axes=detail.axes,
        cells=len(detail.cells),
        images=[
            ComparisonImage(
                labels=detail.cells[image["index"]]["labels"],
                url=store.presign_get(image["object_key"]) if is_kept else None,
                **{name: image[name] for name in image if name != "object_key"},
            )
            for image in detail.images
        ],
        sheet_url=store.presign_get(detail.sheet_key) if detail.sheet_key and is_kept else None,
    )


add_job_routes(router, "comparison", "generations", ComparisonRead, _read)

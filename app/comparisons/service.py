"""Comparisons: freeze every cell, queue the grid as one job."""

import secrets

from sqlalchemy.orm import Session

from app.comparisons.expand import expand
from app.comparisons.models import Comparison
from app.comparisons.schemas import ComparisonCreate
from app.database import JsonObject, new_id
from app.errors import FieldProblem, Invalid
from app.generations.freeze import DRAWN_SEEDS, freeze
from app.generations.schemas import GenerationCreate
from app.jobs import service as jobs
from app.settings import get_settings
from app.storage import ObjectStore


def submit(
    session: Session,
    store: ObjectStore,
    account_id: str,
    request: ComparisonCreate,
    request_id: str,
) -> Comparison:
    """Queue a grid of pictures with everything each cell needs frozen in its row.

    Raises:
        Invalid: an axis or a value is wrong, or there are too many cells.
        RequestError: a cell cannot be drawn; see `freeze`.
    """
    count = 1
    for axis in request.axes:
        count *= len(axis.values)
    limit = get_settings().max_comparison_images
    if count > limit:
        detail = f"axes: they make {count} pictures; the limit (LORAWRIGHT_MAX_COMPARISON_IMAGES) "
        raise Invalid(f"{detail}is {limit}", [FieldProblem("/axes", f"{detail}is {limit}")])
    seed = request.seed if request.seed is not None else secrets.randbelow(DRAWN_SEEDS)
    shared = GenerationCreate.model_validate(request.model_dump(exclude={"axes"}) | {"seed": seed})
    # The pictures of a `data:` URL are kept once, not for each cell.
    whole = freeze(session, store, account_id, shared)
    pictures = {name: whole.request[name] for name in ("init_image", "mask_image")}
    cells: list[JsonObject] = []
    for cell in expand(request, seed):
        plain = cell.request.model_copy(update={"init_image": None, "mask_image": None})
        frozen = freeze(session, store, account_id, plain)
        cells.append(
            {
                "labels": list(cell.labels),
                "request": frozen.request | pictures,
                "loras": frozen.loras,
            }
        )
    job_id = new_id("cmp")
    jobs.submit(
        session,
        job_id=job_id,
        kind="comparison",
        queue="generate",
        account_id=account_id,
        labels=request.metadata,
        deadline_at=request.deadline,
        webhook_url=request.webhook,
        request_id=request_id,
        base_model=whole.base_model.id,
        batch_size=len(cells),
    )
    comparison = Comparison(
        id=job_id,
        base_model=whole.base_model.id,
        request=whole.request,
        axes=[axis.model_dump(exclude_none=True) for axis in request.axes],
        cells=cells,
        images=[],
    )
    session.add(comparison)
    session.flush()
    return comparison

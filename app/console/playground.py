"""The playground: prompts to pictures, with LoRAs; and grids that compare them."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.catalog import load_catalog
from app.comparisons import routes as comparisons
from app.comparisons.schemas import AxisName
from app.console.page import PageDep
from app.console.route import PageRoute
from app.console.words import settings_of
from app.generations import routes as generations
from app.generations.schedulers import SCHEDULERS
from app.loras import routes as loras
from app.settings import get_settings
from app.web.dependencies import GenerationsAccount, PageAfter, SessionDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# What a grid can be made along in the console: numbers and lines of text.
AXES: dict[AxisName, str] = {
    "weight": "LoRA weight",
    "prompt": "Prompt",
    "seed": "Seed",
    "guidance_scale": "Guidance",
    "steps": "Steps",
    "scheduler": "Scheduler",
    "lora": "LoRA",
    "checkpoint": "Checkpoint",
}


@router.get("/playground")
def playground(
    page: PageDep,
    account: GenerationsAccount,
    session: SessionDep,
    lora: Annotated[str | None, Query(max_length=60)] = None,
    again: Annotated[str | None, Query(max_length=60)] = None,
    after: PageAfter = None,
) -> Response:
    """A form with everything a generation takes, and what was drawn before.

    Args:
        lora: the id of a LoRA to begin with.
        again: the id of a generation to begin with the settings of.
    """
    settings = get_settings()
    catalog = load_catalog(settings.catalog_path)
    start = None
    if again is not None:
        start = settings_of(generations.get_generation(again, account, session))
    elif lora is not None:
        chosen = loras.get_lora(lora, account, session)
        start = {
            "base_model": chosen.base_model,
            "loras": [{"lora": chosen.id, "weight": chosen.default_weight}],
            "prompt": f", {chosen.trigger_word}" if chosen.trigger_word else "",
        }
    return page.render(
        "playground.html",
        base_models=catalog.base_models,
        default_base_model=settings.default_base_model,
        schedulers=sorted(SCHEDULERS),
        loras=loras.list_loras(account, session, limit=100).data,
        most_loras=settings.max_loras_per_generation,
        most_images=settings.max_images_per_generation,
        history=generations.list_generations(account, session, limit=12, after=after),
        start=start,
        again=again,
        axes=AXES,
    )


@router.get("/comparisons")
def comparison_list(
    page: PageDep, account: GenerationsAccount, session: SessionDep, after: PageAfter = None
) -> Response:
    """Every grid."""
    found = comparisons.list_comparisons(account, session, limit=12, after=after)
    return page.render("comparisons.html", comparisons=found)


@router.get("/comparisons/{comparison_id}")
def comparison_page(
    comparison_id: str, page: PageDep, account: GenerationsAccount, session: SessionDep
) -> Response:
    """One grid: its sheet, and each picture."""
    found = comparisons.get_comparison(comparison_id, account, session)
    return page.render("comparison.html", comparison=found)

"""The studio: datasets, trainings and LoRAs as their owners see them."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.catalog import load_catalog
from app.console import gallery
from app.console.page import PageDep
from app.console.parameters import GROUPS, read_fields
from app.console.route import PageRoute
from app.console.words import TASKS
from app.datasets import routes as datasets
from app.datasets import service as dataset_rows
from app.jobs import routes as jobs
from app.loras import routes as loras
from app.settings import get_settings
from app.trainings import routes as trainings
from app.web.dependencies import (
    AnyAccount,
    DatasetsAccount,
    GenerationsAccount,
    PageAfter,
    SessionDep,
    StoreDep,
    TrainingsAccount,
)

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# Thumbnails that are loaded at a time.
IMAGES = 100
# Pictures shown beside a piece of advice.
ADVICE_PICTURES = 12


@router.get("/")
def home(page: PageDep, account: AnyAccount, session: SessionDep, store: StoreDep) -> Response:
    """What is at work, what came of it, and what to do next."""
    found = loras.list_loras(account, session, limit=6).data
    return page.render(
        "home.html",
        jobs=jobs.list_jobs(account, session, limit=8).data,
        datasets=datasets.list_datasets(account, session, store, limit=4).data,
        loras=found,
        samples=gallery.samples(session, store, found),
    )


@router.get("/datasets")
def dataset_list(
    page: PageDep,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    after: PageAfter = None,
) -> Response:
    """Every dataset, and a form for another."""
    found = datasets.list_datasets(account, session, store, limit=24, after=after)
    return page.render("datasets.html", datasets=found, tasks=TASKS)


@router.get("/datasets/{dataset_id}")
def dataset_page(
    dataset_id: str,
    page: PageDep,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    after: PageAfter = None,
) -> Response:
    """One dataset: its pictures and captions, and what the report says of them."""
    dataset = datasets.get_dataset(dataset_id, account, session, store)
    report = dataset.report
    assert report is not None, "one dataset alone is told with its report"
    spoken_of = [image for one in report.findings for image in one.images[:ADVICE_PICTURES]]
    return page.render(
        "dataset.html",
        dataset=dataset,
        report=report,
        images=datasets.list_images(dataset_id, account, session, store, IMAGES, after),
        thumbnails=gallery.thumbnails(session, store, dataset_id, spoken_of),
        advice_pictures=ADVICE_PICTURES,
        working=gallery.dataset_jobs(session, dataset_id),
        settings=get_settings(),
    )


@router.get("/trainings")
def training_list(
    page: PageDep, account: TrainingsAccount, session: SessionDep, after: PageAfter = None
) -> Response:
    """Every training."""
    found = trainings.list_trainings(account, session, limit=20, after=after)
    return page.render("trainings.html", trainings=found)


@router.get("/trainings/new")
def new_training(
    page: PageDep,
    account: TrainingsAccount,
    session: SessionDep,
    store: StoreDep,
    dataset: Annotated[str | None, Query(max_length=60)] = None,
) -> Response:
    """Choose a dataset and a preset, and see what the training would take."""
    found = datasets.list_datasets(account, session, store, limit=100).data
    if dataset is not None and all(one.id != dataset for one in found):
        found.insert(0, datasets.get_dataset(dataset, account, session, store))
    settings = get_settings()
    catalog = load_catalog(settings.catalog_path)
    chosen = next((one for one in found if one.id == dataset), None)
    images = None if chosen is None else chosen.image_count - chosen.excluded_count
    return page.render(
        "training_new.html",
        datasets=found,
        chosen=chosen,
        base_models=catalog.base_models,
        default_base_model=settings.default_base_model,
        loras=loras.list_loras(account, session, limit=100).data,
        presets=trainings.list_presets(account, None, images or None).data,
        groups=GROUPS,
        fields=read_fields(),
    )


@router.get("/trainings/{training_id}")
def training_page(
    training_id: str,
    page: PageDep,
    account: TrainingsAccount,
    session: SessionDep,
    store: StoreDep,
) -> Response:
    """One training, live: curves, samples, checkpoints."""
    training = trainings.get_training(training_id, account, session)
    found = trainings.list_checkpoints(training_id, account, session, store).data
    name = None
    if training.dataset is not None:
        name = dataset_rows.get(session, account.id, training.dataset).name
    return page.render(
        "training.html",
        training=training,
        dataset_name=name,
        checkpoints=found,
        prompts=list(dict.fromkeys(sample.prompt for one in found for sample in one.samples)),
        published=gallery.published(session, training_id),
    )


@router.get("/loras")
def lora_list(
    page: PageDep,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    after: PageAfter = None,
) -> Response:
    """Every LoRA with a picture, and a form for one from elsewhere."""
    found = loras.list_loras(account, session, limit=24, after=after)
    return page.render(
        "loras.html", loras=found, samples=gallery.samples(session, store, found.data)
    )


@router.get("/loras/{lora_id}")
def lora_page(
    lora_id: str,
    page: PageDep,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
) -> Response:
    """One LoRA: what it is, what its file says, and its downloads."""
    lora = loras.get_lora(lora_id, account, session)
    return page.render(
        "lora.html", lora=lora, sample=gallery.samples(session, store, [lora]).get(lora.id)
    )

"""The frozen spec: everything that makes a LoRA, written down when its training is submitted.

What happens later to the dataset, to a LoRA it goes on from, or to a preset changes nothing.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry
from app.content.rules import check_prompt
from app.database import JsonObject
from app.datasets import service as datasets
from app.datasets.captions import render
from app.datasets.models import Dataset, Image
from app.errors import DatasetEmpty, FieldProblem, Invalid, LoraIncompatible
from app.loras import service as loras
from app.loras.models import Lora
from app.settings import get_settings
from app.trainings.advice import advise
from app.trainings.arithmetic import BucketPlan, ImageSize, plan_steps
from app.trainings.models import Training
from app.trainings.params import Task, TrainingParams
from app.trainings.planned import Picture, Run
from app.trainings.presets import resolve
from app.trainings.schemas import TrainingCreate

DRAWN_SEEDS = 2**32
# What a LoRA is made of: one that goes on keeps it unless told otherwise.
SHAPE = (
    *("variant", "rank", "alpha", "rank_stabilized", "target", "conv_rank", "conv_alpha"),
    *("lokr_factor", "blocks", "train_text_encoder", "trigger_vectors"),
)
# What the first LoRA's matrices fix.
FIXED = ("variant", "rank")


@dataclass(frozen=True)
class Frozen:
    """A spec, and what its owner should know of it."""

    spec: JsonObject
    warnings: list[str]


@dataclass(frozen=True)
class _Picture:
    """A row that takes part, as it will be shown."""

    row: Image
    caption: str
    regularization: bool


def freeze(
    session: Session,
    account_id: str,
    request: TrainingCreate,
    *,
    dataset: Dataset,
    preset: Task,
    base_model: BaseModelEntry,
) -> Frozen:
    """Write down everything that makes the LoRA.

    Raises:
        NotFound: no such class dataset or LoRA in this account.
        Conflict: several LoRAs have the name that `from_lora` says.
        DatasetEmpty: a dataset has no usable image.
        LoraIncompatible: `from_lora` was made for another architecture.
        PromptRefused: a rule of the operator's forbids a sample prompt.
        Invalid: parameters that cannot be.
    """
    for number, prompt in enumerate(request.sample_prompts):
        check_prompt(f"/sample_prompts/{number}", prompt)
    subject = _pictures(session, dataset)
    start = _warm_start(session, account_id, request, base_model)
    params = _resolve(
        preset,
        base_model,
        request.params,
        images=len(subject),
        inherited={} if start is None else _shape(session, start),
    )
    class_pictures = _class_pictures(session, account_id, dataset, params)
    pictures = [*subject, *class_pictures]
    plan = plan_steps(
        [_size(picture) for picture in pictures],
        params,
        _buckets(params, base_model),
    )
    limit = get_settings().max_training_steps
    if plan.total_steps > limit:
        raise Invalid(
            f"The training would take {plan.total_steps} steps; the limit "
            f"(LORAWRIGHT_MAX_TRAINING_STEPS) is {limit}",
            [FieldProblem("/params/epochs", f"at most {limit} steps in all")],
        )
    if params.lr_warmup_steps >= plan.total_steps:
        detail = (
            f"lr_warmup_steps is {params.lr_warmup_steps}; it must be below the run's "
            f"{plan.total_steps} steps"
        )
        raise Invalid(detail, [FieldProblem("/params/lr_warmup_steps", detail)])
    spec: JsonObject = {
        "format": "lorawright.training/1",
        "name": request.name,
        "trigger_word": dataset.trigger_word,
        "task": dataset.task,
        "params": params.model_dump(),
        "base_model": base_model.id,
        "images": [_written(picture) for picture in pictures],
        "warm_start": None
        if start is None
        else {"lora": start.id, "sha256": start.sha256, "object_key": start.object_key},
        "sample_prompts": request.sample_prompts,
        "total_steps": plan.total_steps,
    }
    run = Run(
        params=params,
        pictures=[_advised(picture) for picture in pictures],
        total_steps=plan.total_steps,
        pictures_per_step=plan.batch_size * params.gradient_accumulation,
        held_out=len(plan.held_out(0)),
        trigger_word=dataset.trigger_word,
        task=preset,
    )
    return Frozen(spec, advise(run))


def _pictures(
    session: Session, dataset: Dataset, *, regularization: bool = False
) -> list[_Picture]:
    """The images that are not excluded; a missing caption is the template around nothing."""
    rows = session.scalars(
        select(Image)
        .where(Image.dataset_id == dataset.id, Image.excluded.is_(False))
        .order_by(Image.id)
    ).all()
    if not rows:
        raise DatasetEmpty(f"{dataset.id} has no images to train on; upload some first")
    empty = render(
        dataset.caption_template, task=dataset.task, trigger_word=dataset.trigger_word, caption=""
    )
    return [_Picture(row, row.caption or empty, regularization) for row in rows]


def _class_pictures(
    session: Session, account_id: str, subject: Dataset, params: TrainingParams
) -> list[_Picture]:
    if params.prior_preservation is None:
        return []
    wanted = params.prior_preservation.dataset
    pointer = "/params/prior_preservation/dataset"
    if wanted is None:
        detail = "prior_preservation needs the id of a dataset of class pictures"
        raise Invalid(detail, [FieldProblem(pointer, detail)])
    if wanted == subject.id:
        detail = f"{wanted} is the dataset of the subject; class pictures need one of their own"
        raise Invalid(detail, [FieldProblem(pointer, detail)])
    dataset = datasets.get(session, account_id, wanted)
    try:
        return _pictures(session, dataset, regularization=True)
    except DatasetEmpty as error:
        detail = f"{wanted} has no class pictures; upload some first"
        raise DatasetEmpty(detail, [FieldProblem(pointer, detail, error.code)]) from error


def _warm_start(
    session: Session, account_id: str, request: TrainingCreate, base_model: BaseModelEntry
) -> Lora | None:
    if request.from_lora is None:
        return None
    lora = loras.find(session, account_id, request.from_lora)
    if lora.architecture != base_model.architecture:
        detail = (
            f"{lora.id} was made for {lora.architecture}; "
            f"{base_model.id} is {base_model.architecture}"
        )
        raise LoraIncompatible(detail, [FieldProblem("/from_lora", detail, "lora_incompatible")])
    return lora


def _shape(session: Session, lora: Lora) -> dict[str, Any]:
    """What the LoRA's own training said of it, as far as that is still known."""
    training = session.get(Training, lora.training_id) if lora.training_id else None
    known = {} if training is None else training.spec["params"]
    return {
        **{name: known[name] for name in SHAPE if name in known},
        "rank": lora.rank,
        "alpha": lora.alpha,
    }


def _resolve(
    preset: Task,
    base_model: BaseModelEntry,
    asked: TrainingParams,
    *,
    images: int,
    inherited: Mapping[str, Any],
) -> TrainingParams:
    seed = secrets.randbelow(DRAWN_SEEDS)
    try:
        params = resolve(preset, base_model, asked, seed, images=images, inherited=inherited)
    except ValidationError as error:
        problems = [
            FieldProblem("/".join(("/params", *map(str, item["loc"]))), item["msg"])
            for item in error.errors()
        ]
        raise Invalid("; ".join(p.detail for p in problems), problems) from error
    problems = [
        FieldProblem(
            f"/params/{name}",
            f"{name} is {getattr(params, name)}; the LoRA to go on from has {inherited[name]}",
        )
        for name in FIXED
        if name in inherited and getattr(params, name) != inherited[name]
    ]
    if problems:
        raise Invalid("; ".join(p.detail for p in problems), problems)
    return params


def _buckets(params: TrainingParams, base_model: BaseModelEntry) -> BucketPlan:
    try:
        return BucketPlan.for_base(params, base_model.vae_scale_factor)
    except ValueError as error:
        raise Invalid(str(error), [FieldProblem("/params/resolution", str(error))]) from error


def _size(picture: _Picture) -> ImageSize:
    row = picture.row
    return ImageSize(row.width, row.height, row.repeats, row.sha256, picture.regularization)


def _written(picture: _Picture) -> JsonObject:
    row = picture.row
    return {
        "image": row.id,
        "sha256": row.sha256,
        "object_key": row.object_key,
        "format": row.format,
        "width": row.width,
        "height": row.height,
        "caption": picture.caption,
        "repeats": row.repeats,
        "regularization": picture.regularization,
    }


def _advised(picture: _Picture) -> Picture:
    row = picture.row
    return Picture(
        caption=picture.caption,
        captioned=row.caption is not None,
        repeats=row.repeats,
        regularization=picture.regularization,
        sha256=row.sha256,
        opaque=row.format == "jpeg",
    )

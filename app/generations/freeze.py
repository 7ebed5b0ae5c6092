"""Check a request for pictures, and freeze it: every default, file and weight that decides them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry, load_catalog
from app.content.rules import check_prompt
from app.database import JsonObject
from app.errors import FieldProblem, Invalid, LoraIncompatible, NotFound, TooManyLoras
from app.generations import inputs, prompt_tags
from app.generations.schedulers import why_not
from app.generations.schemas import MAX_SEED, GenerationCreate, LoraUse, LoraWeights
from app.jobs.models import Job
from app.lora_format.architectures import architectures
from app.loras import service as loras
from app.settings import get_settings
from app.storage import ObjectStore
from app.trainings.models import Checkpoint, Training

# Seeds that the service draws are short, so that people can copy them.
DRAWN_SEEDS = 2**32
# What the worker rounds the sides of an enlarged picture to.
HIRES_MULTIPLE = 8


@dataclass(frozen=True)
class Frozen:
    """What a row keeps.

    Attributes:
        request: every parameter with its default filled in, pictures as objects.
        loras: each `lora`, `name`, `weight`, `start`, `end`, `sha256`, `object_key`.
    """

    base_model: BaseModelEntry
    request: JsonObject
    loras: list[JsonObject]


def freeze(
    session: Session, store: ObjectStore | None, account_id: str, request: GenerationCreate
) -> Frozen:
    """All that decides the pictures of a request.

    Args:
        store: None keeps nothing, for a request that is only tried.

    Raises:
        Invalid: a value is outside what the base model can do.
        ImageUnusable: a picture in the request cannot be decoded.
        PromptRefused: a rule of the operator's forbids the prompt.
        TooManyLoras: more LoRAs than can be applied together.
        LoraIncompatible: a LoRA of another architecture.
        NotFound: no such LoRA, checkpoint or picture in this account.
    """
    settings = get_settings()
    prompt, tags = prompt_tags.split(request.prompt)
    _check_length("/prompt", prompt)
    check_prompt("/prompt", prompt)
    _check_length("/negative_prompt", request.negative_prompt)
    base_model = _base_model(request.base_model or settings.default_base_model)
    uses = request.loras + [LoraUse(lora=tag.lora, weight=tag.weight) for tag in tags]
    if len(uses) > settings.max_loras_per_generation:
        raise TooManyLoras(
            f"{len(uses)} LoRAs are asked for; at most {settings.max_loras_per_generation} "
            "can be applied together",
            [FieldProblem("/loras", f"at most {settings.max_loras_per_generation}")],
        )
    if request.num_images > settings.max_images_per_generation:
        raise _invalid(
            "/num_images",
            f"{request.num_images}; the limit (LORAWRIGHT_MAX_IMAGES_PER_GENERATION) is "
            f"{settings.max_images_per_generation}",
        )
    resolved = [_resolve(session, account_id, base_model, use) for use in uses]
    _check_distinct(resolved)
    frozen = _frozen(request, base_model, prompt)
    frozen |= _pictures(session, store, account_id, request, frozen["steps"])
    return Frozen(base_model, frozen, resolved)


def _base_model(entry_id: str) -> BaseModelEntry:
    catalog = load_catalog(get_settings().catalog_path)
    entry = catalog.base_model(entry_id)
    if entry is None:
        names = ", ".join(known.id for known in catalog.base_models)
        raise _invalid("/base_model", f"no base model {entry_id!r}; there are {names}")
    return entry


def _resolve(
    session: Session, account_id: str, base_model: BaseModelEntry, use: LoraUse
) -> JsonObject:
    """A LoRA of the request as the worker needs it, whatever becomes of its row later."""
    if use.lora.startswith("ckpt_"):
        found = _checkpoint(session, account_id, use.lora)
    else:
        lora = loras.find(session, account_id, use.lora)
        found = _Source(
            lora.id, lora.name, lora.architecture, lora.default_weight, lora.sha256, lora.object_key
        )
    if found.architecture != base_model.architecture:
        raise LoraIncompatible(
            f"{found.id} ({found.name}) was made for {found.architecture}; {base_model.id} is "
            f"{base_model.architecture}, and not one of its keys would match"
        )
    if isinstance(use.weight, LoraWeights):
        _check_blocks(use.weight.blocks, base_model.architecture)
    return {
        "lora": found.id,
        "name": found.name,
        "weight": _weight(use.weight, found.default_weight),
        "start": use.start,
        "end": use.end,
        "sha256": found.sha256,
        "object_key": found.object_key,
    }


def _check_blocks(blocks: Mapping[str, float], architecture: str) -> None:
    """A weight for a block that the base model has not would be silently without effect."""
    known = architectures().get(architecture)
    if known is None:
        return
    for block in blocks:
        if not any(f"{path}.".startswith(f"{block}.") for path in known.weights):
            raise _invalid(
                "/loras",
                f"no module of {architecture} begins with {block!r}, a block with a weight",
            )


@dataclass(frozen=True)
class _Source:
    """A LoRA of the registry, or a checkpoint that is not published."""

    id: str
    name: str
    architecture: str
    default_weight: float
    sha256: str
    object_key: str


def _checkpoint(session: Session, account_id: str, checkpoint_id: str) -> _Source:
    row = session.execute(
        select(Checkpoint, Training)
        .join(Training, Training.id == Checkpoint.training_id)
        .join(Job, Job.id == Training.id)
        .where(Checkpoint.id == checkpoint_id, Job.account_id == account_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"No checkpoint {checkpoint_id}")
    checkpoint, training = row
    base_model = _base_model(training.base_model)
    return _Source(
        checkpoint.id,
        f"{training.name}, step {checkpoint.step}",
        base_model.architecture,
        1.0,
        checkpoint.sha256,
        checkpoint.object_key,
    )


def _weight(told: float | LoraWeights | None, default: float) -> float | JsonObject:
    if isinstance(told, LoraWeights):
        return {
            "unet": default if told.unet is None else told.unet,
            "text_encoder": default if told.text_encoder is None else told.text_encoder,
            "blocks": told.blocks,
        }
    return default if told is None else told


def _check_distinct(resolved: list[JsonObject]) -> None:
    seen: set[str] = set()
    for lora in resolved:
        if lora["lora"] in seen:
            raise _invalid(
                "/loras", f"{lora['lora']} ({lora['name']}) stands twice; give it one weight"
            )
        seen.add(lora["lora"])


def _frozen(request: GenerationCreate, base_model: BaseModelEntry, prompt: str) -> JsonObject:
    defaults = base_model.generation
    scheduler = request.scheduler or defaults.scheduler
    steps = request.steps or defaults.steps
    most_steps = max(steps, (request.hires and request.hires.steps) or 0)
    unfit = why_not(scheduler, steps=most_steps, pure_noise=base_model.zero_terminal_snr or False)
    if unfit is not None:
        raise _invalid("/scheduler", unfit)
    seed = request.seed if request.seed is not None else secrets.randbelow(DRAWN_SEEDS)
    if seed + request.num_images - 1 > MAX_SEED:
        raise _invalid("/seed", f"image {request.num_images} would use a seed over {MAX_SEED}")
    return {
        "prompt": prompt,
        "negative_prompt": request.negative_prompt,
        "width": _side("/width", request.width, base_model),
        "height": _side("/height", request.height, base_model),
        "steps": steps,
        "guidance_scale": (
            defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
        ),
        "guidance_rescale": request.guidance_rescale,
        "scheduler": scheduler,
        "seed": seed,
        "num_images": request.num_images,
        "strength": request.strength,
        "hires": _hires(request, base_model),
        "previews": request.previews,
        "format": request.format,
    }


def _pictures(
    session: Session,
    store: ObjectStore | None,
    account_id: str,
    request: GenerationCreate,
    steps: int,
) -> JsonObject:
    """The pictures it starts from, as objects."""
    told = {"init_image": request.init_image, "mask_image": request.mask_image}
    if request.mask_image is not None and request.init_image is None:
        raise _invalid("/mask_image", "a mask needs an init_image whose rest it keeps")
    if request.mask_image is not None and request.hires is not None:
        raise _invalid("/hires", "a second pass and a mask_image exclude each other")
    if request.init_image is not None and int(steps * request.strength) < 1:
        raise _invalid(
            "/strength", f"{request.strength:g} of {steps} steps is below one step; raise either"
        )
    return {
        name: None if ref is None else inputs.resolve(session, store, account_id, name, ref)
        for name, ref in told.items()
    }


def _hires(request: GenerationCreate, base_model: BaseModelEntry) -> JsonObject | None:
    if request.hires is None:
        return None
    for name, told in (("width", request.width), ("height", request.height)):
        side = _side(f"/{name}", told, base_model)
        large = round(side * request.hires.scale / HIRES_MULTIPLE) * HIRES_MULTIPLE
        if large > base_model.max_side_px:
            raise _invalid(
                "/hires/scale",
                f"{request.hires.scale:g} makes a {name} of {large} px; {base_model.id} draws at "
                f"most {base_model.max_side_px} px a side",
            )
    return request.hires.model_dump()


def _side(pointer: str, told: int | None, base_model: BaseModelEntry) -> int:
    side = told if told is not None else base_model.native_resolution
    if side > base_model.max_side_px:
        raise _invalid(
            pointer, f"{side} px; {base_model.id} draws at most {base_model.max_side_px} px a side"
        )
    if side % base_model.size_multiple:
        raise _invalid(pointer, f"{side} px is not a multiple of {base_model.size_multiple}")
    return side


def _check_length(pointer: str, text: str) -> None:
    limit = get_settings().max_prompt_chars
    if len(text) > limit:
        raise _invalid(
            pointer,
            f"{len(text)} characters; the limit (LORAWRIGHT_MAX_PROMPT_CHARS) is {limit}",
        )


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(f"{pointer[1:]}: {detail}", [FieldProblem(pointer, detail)])

"""The doctor: what is worth knowing of a dataset before paying for a GPU.

The worker has measured every picture when it came; here the measures become sentences, each with
a stable code and the images it speaks of. Reading a report decodes nothing.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry
from app.database import JsonObject
from app.datasets.models import Dataset, Image
from app.datasets.report_schemas import (
    BucketCount,
    DatasetReport,
    Finding,
    PredictionRead,
    StepsRead,
)
from app.trainings.arithmetic import BucketPlan, ImageSize, plan_steps
from app.trainings.params import Task, TrainingParams
from app.trainings.planned import has_word
from app.trainings.predicted import predict
from app.trainings.presets import PRESETS, resolve

# Under this a photograph looks out of focus; see `worker.ingest.measure`.
BLURRED_BELOW = 20.0
# Of 128 bits. The same picture, saved smaller or stronger compressed, differs in 0 to 4.
NEAR_BITS = 6
# Two pictures whose mean luminance differs by more are none of the same.
NEAR_BRIGHTNESS = 0.06
# CLIP reads 77 tokens, of which two mark start and end.
CAPTION_TOKENS = 75
HASH_BITS = 128
# Rows compared with all that follow at a time, so that memory stays small.
BLOCK = 256
LISTED_IMAGES = 100
LISTED_GROUPS = 50
NAMED = 5
# CLIP's own way to cut text before its vocabulary is asked; every piece is one token or more.
PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
LETTERS_A_TOKEN = 9


@dataclass(frozen=True)
class Picture:
    """What the report knows of an image. `measures` is empty until it was measured."""

    id: str
    filename: str
    width: int
    height: int
    sha256: str
    repeats: int | None
    caption: str | None
    measures: JsonObject


@dataclass(frozen=True)
class Case:
    """Everything a finding may depend on."""

    pictures: Sequence[Picture]
    placed: Sequence[tuple[int, int]]
    preset: Task
    trigger_word: str
    resolution: int


def report(
    session: Session, dataset: Dataset, base_model: BaseModelEntry, preset: Task | None = None
) -> DatasetReport:
    """The report of a dataset, for its own task's preset unless another is named."""
    pictures = _pictures(session, dataset.id)
    preset = preset or dataset.task
    # Any seed: it decides which images validate, not how many.
    params = resolve(preset, base_model, TrainingParams(), 0, images=len(pictures))
    sizes = [ImageSize(p.width, p.height, p.repeats, p.sha256) for p in pictures]
    plan = plan_steps(sizes, params, BucketPlan.for_base(params, base_model.vae_scale_factor))
    case = Case(pictures, plan.placed, preset, dataset.trigger_word, params.resolution)
    steps = prediction = None
    if pictures:
        shown = plan.total_steps * params.batch_size * params.gradient_accumulation
        steps = StepsRead(
            total=plan.total_steps,
            per_epoch=plan.steps_per_epoch,
            epochs=params.epochs,
            passes=round(shown / len(pictures), 1),
        )
        found = predict(session, base_model.id, params, plan.total_steps)
        prediction = PredictionRead(
            seconds=found.seconds, memory_bytes=found.memory_bytes, trainings=found.trainings
        )
    return DatasetReport(
        dataset=dataset.id,
        images=len(pictures),
        measured=sum(bool(picture.measures) for picture in pictures),
        preset=preset,
        base_model=base_model.id,
        resolution=params.resolution,
        images_from=PRESETS[preset].images_from,
        images_to=PRESETS[preset].images_to,
        buckets=[
            BucketCount(width=width, height=height, images=list(plan.placed).count((width, height)))
            for width, height in sorted(set(plan.placed))
        ],
        steps=steps,
        predicted=prediction,
        findings=findings(case),
    )


def findings(case: Case) -> list[Finding]:
    """Every finding there is, the number of images first."""
    return [finding for look in LOOKS for finding in look(case)]


def estimated_tokens(caption: str) -> int:
    """About how many of CLIP's tokens a caption has; its vocabulary lies with the base model."""
    return sum(
        max(1, math.ceil(len(piece) / LETTERS_A_TOKEN))
        if piece.isascii()
        else math.ceil(len(piece.encode()) / 2)
        for piece in PIECES.findall(caption)
    )


def _about_number(case: Case) -> Iterator[Finding]:
    preset, count = PRESETS[case.preset], len(case.pictures)
    if count < preset.images_from:
        yield _of_all(
            "too_few_images",
            f"{_images(count)}; {preset.title} works best with {preset.images_from} or more",
            count,
        )
    if preset.images_to is not None and count > preset.images_to:
        yield _of_all(
            "too_many_images",
            f"{_images(count)}; {preset.title} is tuned for at most {preset.images_to}",
            count,
        )


def _about_decoding(case: Case) -> Iterator[Finding]:
    yield from _those(
        "decode_problem",
        [p for p in case.pictures if p.measures.get("problems")],
        "the decoder complained of {names}; look at them, and save them again if they are damaged",
    )
    yield from _those(
        "exif_oriented",
        [p for p in case.pictures if p.measures.get("oriented")],
        "{names} are turned by their EXIF data; training turns them upright, which other programs "
        "may not",
    )
    yield from _those(
        "transparent",
        [p for p in case.pictures if p.measures.get("transparent")],
        "{names} are transparent in places; what shows through is trained as white, unless "
        "`background` says otherwise or `alpha_mask` leaves it out",
    )


def _about_size(case: Case) -> Iterator[Finding]:
    small, enlarged, blurred = [], [], []
    for picture, bucket in zip(case.pictures, case.placed, strict=True):
        detail = picture.measures.get("detail", 1.0)
        if _enlargement(picture, bucket) > 1:
            small.append(picture)
        elif detail < 1 and _enlargement(picture, bucket) > detail:
            enlarged.append(picture)
        elif picture.measures.get("sharpness", BLURRED_BELOW) < BLURRED_BELOW:
            blurred.append(picture)
    yield from _those(
        "too_small",
        small,
        f"{{names}} are smaller than resolution {case.resolution} needs and would be enlarged, "
        "which teaches softness; replace them, or lower the resolution",
    )
    yield from _those(
        "upscaled",
        enlarged,
        "{names} are large, but have no detail of their size, as if they had been enlarged; use "
        "the originals",
    )
    yield from _those(
        "blurred",
        blurred,
        "{names} look blurred; a LoRA learns blur like anything else, so replace or exclude them",
    )


def _about_likeness(case: Case) -> Iterator[Finding]:
    groups = _near_duplicates(case.pictures)
    for group in groups[:LISTED_GROUPS]:
        yield _found(
            "near_duplicates",
            group,
            "{names} are nearly the same picture, which then counts so many times; keep the best",
        )
    left = groups[LISTED_GROUPS:]
    if left:
        yield _found(
            "near_duplicates",
            [picture for group in left for picture in group],
            f"{len(left)} more groups of pictures are nearly the same each, such as {{names}}",
        )


def _about_captions(case: Case) -> Iterator[Finding]:
    silent = [picture for picture in case.pictures if picture.caption is None]
    yield from _those(
        "caption_missing",
        silent,
        "{names} have no caption and would train on the trigger word alone; caption them",
    )
    by_caption: dict[str, list[Picture]] = {}
    for picture in case.pictures:
        if picture.caption is not None:
            by_caption.setdefault(" ".join(picture.caption.split()).lower(), []).append(picture)
    same = [group for group in by_caption.values() if len(group) > 1]
    yield from _those(
        "captions_identical",
        [picture for group in same for picture in group],
        "{names} share their caption with another image, so words cannot tell them apart; say "
        "what differs",
    )
    yield from _those(
        "caption_long",
        [p for p in case.pictures if p.caption and estimated_tokens(p.caption) > CAPTION_TOKENS],
        f"the captions of {{names}} have over {CAPTION_TOKENS} tokens, as far as can be told; "
        "what is beyond is hardly learnt, so shorten them",
        estimated=True,
    )
    word = case.trigger_word
    yield from _those(
        "trigger_missing",
        [p for p in case.pictures if p.caption is not None and not has_word(p.caption, word)],
        f"the captions of {{names}} lack the trigger word {word!r}, so it will not call what they "
        "teach",
    )


LOOKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _about_number,
    _about_decoding,
    _about_size,
    _about_likeness,
    _about_captions,
)


def _pictures(session: Session, dataset_id: str) -> list[Picture]:
    rows = session.execute(
        select(
            Image.id,
            Image.filename,
            Image.width,
            Image.height,
            Image.sha256,
            Image.repeats,
            Image.caption,
            Image.measures,
        )
        .where(Image.dataset_id == dataset_id, Image.excluded.is_(False))
        .order_by(Image.id)
    ).all()
    return [Picture(*row[:-1], measures=row.measures or {}) for row in rows]


def _enlargement(picture: Picture, bucket: tuple[int, int]) -> float:
    """How much a picture grows to fill its bucket; under 1 it shrinks."""
    return max(bucket[0] / picture.width, bucket[1] / picture.height)


def _near_duplicates(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Groups of pictures that are linked by likeness, each by the order of its images."""
    known = [picture for picture in pictures if "dhash" in picture.measures]
    if len(known) < 2:
        return []
    whole = b"".join(bytes.fromhex(picture.measures["dhash"]) for picture in known)
    bits = np.unpackbits(np.frombuffer(whole, dtype=np.uint8)).reshape(len(known), HASH_BITS)
    # (N, 128) of -1 and 1: a product of two is 128 less twice the bits that differ.
    signs = bits.astype(np.float32) * 2 - 1
    light = np.array([picture.measures["brightness"] for picture in known], dtype=np.float32)
    first = list(range(len(known)))

    def root(place: int) -> int:
        while first[place] != place:
            place = first[place]
        return place

    for start in range(0, len(known), BLOCK):
        block = slice(start, start + BLOCK)
        apart = (HASH_BITS - signs[block] @ signs[start:].T) / 2  # (≤ BLOCK, N - start)
        for one, other in np.argwhere(np.triu(apart <= NEAR_BITS, 1)) + start:
            if abs(light[one] - light[other]) > NEAR_BRIGHTNESS:
                continue
            # Always towards the earlier one, which so gives the group its place.
            low, high = sorted((root(int(one)), root(int(other))))
            first[high] = low
    groups: dict[int, list[Picture]] = {}
    for place, picture in enumerate(known):
        groups.setdefault(root(place), []).append(picture)
    return [group for group in groups.values() if len(group) > 1]


def _of_all(code: str, advice: str, count: int) -> Finding:
    return Finding(code=code, advice=advice, images=[], count=count)


def _those(
    code: str, pictures: Sequence[Picture], advice: str, *, estimated: bool = False
) -> Iterator[Finding]:
    """A finding about some pictures, if there are any."""
    if pictures:
        yield _found(code, pictures, advice, estimated=estimated)


def _found(
    code: str, pictures: Sequence[Picture], advice: str, *, estimated: bool = False
) -> Finding:
    names = [picture.filename for picture in pictures[:NAMED]]
    more = len(pictures) - len(names)
    named = ", ".join(names) + (f" and {more} more" if more else "")
    # Not str.format: a file's name may have braces.
    sentence = advice.replace("{names}", f"{_images(len(pictures))} ({named})")
    return Finding(
        code=code,
        advice=sentence[0].upper() + sentence[1:],
        images=[picture.id for picture in pictures[:LISTED_IMAGES]],
        count=len(pictures),
        estimated=estimated,
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

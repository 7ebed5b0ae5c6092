"""Parameters that change nothing in a run, each with the reason: nobody should set one in vain."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from app.trainings.arithmetic import MIN_IMAGES_TO_ROTATE
from app.trainings.params import BlockParams, TrainingParams
from app.trainings.planned import Run

_DEFAULT = TrainingParams()
# `{a|b}`; doubled braces stand for braces.
_WILDCARD = re.compile(r"(?<!\{)\{[^{}]*\|[^{}]*\}(?!\})")


def without_effect(run: Run) -> list[str]:
    """A sentence for each parameter that changes nothing in this run.

    A parameter at its default was not asked for, so it is passed over; what is on by default and
    cannot do its work here is named all the same.
    """
    return [*_adapter(run), *_schedule(run), *_pictures(run), *_captions(run), *_objective(run)]


def _adapter(run: Run) -> Iterator[str]:
    params, said = run.params, _teller(run.params)
    if params.target != "conv":
        yield from said("conv_rank", "conv_alpha", because=f"target is {params.target}, not conv")
    if params.variant != "lokr":
        yield from said("lokr_factor", because=f"variant is {params.variant}, not lokr")
    if not params.train_text_encoder:
        yield from said("text_encoder_learning_rate", because="train_text_encoder is off")
    if params.optimizer == "prodigy":
        yield from said(
            *("text_encoder_learning_rate", "trigger_learning_rate", "lora_plus_ratio"),
            because="prodigy has one rate for all parts, learning_rate",
        )
    yield from _blocks(params)
    if params.trigger_vectors == 0:
        yield from said("trigger_learning_rate", because="trigger_vectors is 0")
    elif not run.trigger_word:
        yield from said("trigger_vectors", because="there is no trigger word")
    elif run.captions_without(run.trigger_word) == len(run.subject):
        yield from said("trigger_vectors", because="no caption has the trigger word")


def _blocks(params: TrainingParams) -> Iterator[str]:
    for number, block in enumerate(params.blocks):
        name = f"blocks[{number}] ({block.match})"
        over = [
            other
            for other in params.blocks[number + 1 :]
            if f"{block.match}.".startswith(f"{other.match}.")
        ]
        sets, overset = _fields(block), {field for other in over for field in _fields(other)}
        if sets and sets <= overset:
            yield (
                f"{name} has no effect: {over[-1].match}, further down, matches all that it "
                "matches and sets the same"
            )
        elif block.match.startswith("text_encoder") and not params.train_text_encoder:
            yield f"{name} has no effect: train_text_encoder is off"
        elif block.learning_rate is not None and params.optimizer == "prodigy":
            yield f"learning_rate of {name} has no effect: prodigy has one rate for all parts"
        elif not sets:
            yield f"{name} has no effect: it sets no rank, alpha or learning_rate"
        elif block.rank == 0 and (block.alpha is not None or block.learning_rate is not None):
            yield f"alpha and learning_rate of {name} have no effect: its rank is 0"


def _fields(block: BlockParams) -> set[str]:
    """What a block sets."""
    return {name for name in ("rank", "alpha", "learning_rate") if getattr(block, name) is not None}


def _schedule(run: Run) -> Iterator[str]:
    params, said = run.params, _teller(run.params)
    if params.lr_scheduler != "cosine_with_restarts":
        yield from said(
            "lr_cycles", because=f"lr_scheduler is {params.lr_scheduler}, not cosine_with_restarts"
        )
    if params.lr_scheduler != "polynomial":
        yield from said(
            "lr_power", because=f"lr_scheduler is {params.lr_scheduler}, not polynomial"
        )
    if params.max_steps is not None and params.max_steps > run.total_steps:
        yield from said(
            "max_steps",
            because=f"it is {params.max_steps}, and the epochs end after {run.total_steps}",
        )
    if params.validation_fraction > 0 and run.held_out == 0:
        yield (
            f"validation_fraction has no effect: {len(run.subject)} pictures are fewer than "
            f"{MIN_IMAGES_TO_ROTATE}, so none is held out"
        )
    checkpoints = -(-params.epochs // params.save_every_n_epochs)
    patience = params.early_stop_checkpoints
    if run.held_out == 0:
        yield from said("early_stop_checkpoints", because="no picture is held out to measure it by")
    elif patience is not None and patience >= checkpoints:
        yield from said(
            "early_stop_checkpoints",
            because=f"it waits for {patience}, and the run has {checkpoints} checkpoints in all",
        )


def _pictures(run: Run) -> Iterator[str]:
    params, said = run.params, _teller(run.params)
    crops = [
        params.random_crop if picture.random_crop is None else picture.random_crop
        for picture in run.pictures
    ]
    if not any(crops):
        yield from said("crop_variants", because="random_crop is off")
    if run.pictures and all(picture.opaque for picture in run.pictures):
        yield from said("alpha_mask", "background", because="no picture can be transparent")
    if not run.class_pictures:
        yield from said("prior_preservation", because="no picture is marked as a class picture")


def _captions(run: Run) -> Iterator[str]:
    params, said = run.params, _teller(run.params)
    shown = [picture.caption for picture in run.pictures if not picture.own_captions]
    never = params.caption_dropout_rate == 1 or params.caption_dropout_every_n_epochs == 1
    if never:
        which = "caption_dropout_rate" if params.caption_dropout_rate == 1 else None
        yield f"captions have no effect: {which or 'caption_dropout_every_n_epochs'} is 1"
        return
    if params.caption_dropout_every_n_epochs > params.epochs:
        yield from said(
            "caption_dropout_every_n_epochs",
            because=f"it is {params.caption_dropout_every_n_epochs}, and there are "
            f"{params.epochs} epochs",
        )
    if not shown:
        yield from said(
            *("keep_tokens", "keep_tokens_separator", "caption_prefix", "caption_suffix"),
            *("tag_dropout_rate", "wildcards"),
            because="every picture has caption options of its own",
        )
        return
    yield from _caption_parts(run, shown)
    if not any(_WILDCARD.search(caption) or "\n" in caption for caption in shown):
        yield from said("wildcards", because="no caption has several lines, or {a choice|of words}")
    if params.train_text_encoder or params.trigger_vectors:
        yield from said(
            "caption_variants", because="captions are worded anew in each step that trains text"
        )
        return
    words_vary = params.shuffle_caption or params.tag_dropout_rate or params.wildcards
    if not words_vary and all(not picture.own_captions for picture in run.pictures):
        yield from said(
            "caption_variants", because="shuffle_caption, tag_dropout_rate and wildcards are off"
        )


def _caption_parts(run: Run, shown: Sequence[str]) -> Iterator[str]:
    """What shuffling and tag dropout need: parts between commas, after those that are kept."""
    params, said = run.params, _teller(run.params)
    separator = params.keep_tokens_separator
    around = params.caption_prefix + params.caption_suffix
    if separator is not None and not any(separator in text for text in (around, *shown)):
        yield from said("keep_tokens_separator", because=f"no caption has {separator!r}")
    if not params.shuffle_caption and not params.tag_dropout_rate:
        yield from said("keep_tokens", because="shuffle_caption and tag_dropout_rate are off")
        return
    loose = [_loose_parts(caption, params) for caption in shown]
    after = f"after the first {params.keep_tokens}" if separator is None else "that may move"
    if params.shuffle_caption and not any(len(set(parts)) > 1 for parts in loose):
        yield (
            "shuffle_caption has no effect: no caption has two parts or more, parted by commas, "
            + after
        )
    if params.tag_dropout_rate and not any(loose):
        yield ("tag_dropout_rate has no effect: no caption has a part, parted by commas, " + after)


def _loose_parts(caption: str, params: TrainingParams) -> list[str]:
    """The parts of a caption that shuffling may move and tag dropout may drop."""
    separator = params.keep_tokens_separator
    kept = params.keep_tokens
    framed = (params.caption_prefix, caption, params.caption_suffix)
    whole = " ".join(part for part in framed if part)
    if separator is not None and separator in whole:
        # What stands before it stays, and so does what follows a second one.
        whole, kept = whole.split(separator)[1], 0
    parts = [part.strip() for part in whole.split(",")]
    return [part for part in parts[kept:] if part]


def _objective(run: Run) -> Iterator[str]:
    params, said = run.params, _teller(run.params)
    if params.loss == "l2":
        yield from said("huber_delta", because="loss is l2")
    if params.debiased_estimation:
        yield from said("min_snr_gamma", because="debiased_estimation takes its place")
    if params.multires_noise_iterations == 0:
        yield from said("multires_noise_discount", because="multires_noise_iterations is 0")


def _teller(params: TrainingParams) -> Callable[..., Iterator[str]]:
    """A sentence for each named parameter that is not at its default."""

    def said(*names: str, because: str) -> Iterator[str]:
        for name in names:
            value: Any = getattr(params, name)
            if value is not None and value != getattr(_DEFAULT, name):
                yield f"{name} has no effect: {because}"

    return said

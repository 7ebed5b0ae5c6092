"""What a person should know before paying for a GPU: one sentence for each doubt about a run.

Shared by the API, which knows the dataset and its task, and by the trainer, which knows the files.
Each sentence has the figure and the limit; none of them stops a run.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.trainings.arithmetic import MIN_IMAGES_TO_HOLD_OUT
from app.trainings.params import Task, TrainingParams
from app.trainings.presets import PRESETS

# So many times more or fewer passes than the preset's are far too many or too few.
FAR = 3.0
# Fewer updates hardly move a LoRA from nothing, whatever each of them saw.
MIN_STEPS = 100
# Prodigy finds the rate itself, and takes `learning_rate` as a factor on it; 1 is its authors'.
MIN_PRODIGY_RATE = 0.1

_DEFAULT = TrainingParams()
_WILDCARD = re.compile(r"\{[^{}]*\|[^{}]*\}")


@dataclass(frozen=True)
class Picture:
    """What is known of one picture.

    Attributes:
        caption: as it will be shown, without the run's prefix and suffix.
        captioned: whether the caption says more than the trigger word.
        repeats: None leaves it to the run.
        regularization: a class picture for prior preservation.
        sha256: of its bytes.
        opaque: surely without transparency, as a JPEG is.
        own_captions: it has caption options of its own, so the run's do not count for it.
        own_crop: it says itself whether it is cropped at random.
    """

    caption: str
    captioned: bool = True
    repeats: int | None = None
    regularization: bool = False
    sha256: str = ""
    opaque: bool = False
    own_captions: bool = False
    random_crop: bool | None = None


@dataclass(frozen=True)
class Run:
    """A training that is about to be.

    Attributes:
        pictures: subject and class pictures.
        total_steps: optimizer steps, as `max_steps` leaves them.
        held_out: pictures of the subject that an epoch keeps for validation.
        task: None where nobody said what the pictures are of.
    """

    params: TrainingParams
    pictures: Sequence[Picture]
    total_steps: int
    held_out: int
    trigger_word: str | None = None
    task: Task | None = None

    @property
    def subject(self) -> list[Picture]:
        """The pictures to learn from."""
        return [picture for picture in self.pictures if not picture.regularization]

    @property
    def class_pictures(self) -> list[Picture]:
        """The pictures of prior preservation."""
        return [picture for picture in self.pictures if picture.regularization]


def advise(run: Run) -> list[str]:
    """Every warning there is about a run, the dataset's first."""
    return [*about_pictures(run), *about_length(run), *about_captions(run), *without_effect(run)]


def about_pictures(run: Run) -> list[str]:
    """Too few or too many pictures for the task, and class pictures that contradict."""
    found = []
    count = len(run.subject)
    if run.task is not None:
        made_for = PRESETS[run.task]
        if count < made_for.images_from:
            found.append(
                f"{_images(count)}; {made_for.title} works best with {made_for.images_from} or more"
            )
        if made_for.images_to is not None and count > made_for.images_to:
            found.append(
                f"{_images(count)}; {made_for.title} is tuned for at most {made_for.images_to}"
            )
    known = {picture.sha256 for picture in run.subject if picture.sha256}
    both = sum(picture.sha256 in known for picture in run.class_pictures)
    if both:
        found.append(
            f"{both} of {len(run.class_pictures)} class pictures are pictures of the subject too, "
            "which teaches the class to look like it"
        )
    return found


def about_length(run: Run) -> list[str]:
    """Far too many or too few passes over each picture, or steps in all."""
    found = []
    params = run.params
    # The defaults are the style preset's.
    sensible = PRESETS[run.task or "style"].passes_for(len(run.subject))
    passes = _passes(run)
    about = (
        f"{run.total_steps} steps show each picture about {passes:.0f} times; for "
        f"{_images(len(run.subject))} about {sensible:.0f} times is sensible, "
        f"which is {max(1, round(run.total_steps * sensible / passes))} steps"
    )
    if passes > FAR * sensible:
        found.append(f"far too many steps: {about}; more of them copy the pictures")
    elif passes * FAR < sensible:
        found.append(f"far too few steps: {about}")
    if run.total_steps < MIN_STEPS:
        found.append(
            f"{run.total_steps} steps in all; fewer than {MIN_STEPS} hardly change the base, "
            "so lower batch_size or gradient_accumulation, or raise epochs"
        )
    if params.lr_warmup_steps >= run.total_steps:
        found.append(
            f"lr_warmup_steps is {params.lr_warmup_steps} of {run.total_steps} steps, so the "
            "rate never reaches learning_rate"
        )
    if 1 < params.epochs < params.save_every_n_epochs:
        found.append(
            f"save_every_n_epochs is {params.save_every_n_epochs} of {params.epochs} epochs, so "
            "only the end is saved and no earlier checkpoint can be recommended"
        )
    if params.optimizer == "prodigy" and params.learning_rate < MIN_PRODIGY_RATE:
        found.append(
            f"learning_rate is {params.learning_rate:g}; prodigy multiplies the rate it finds by "
            f"it, so below {MIN_PRODIGY_RATE:g} it hardly learns, and 1 is usual"
        )
    if params.zero_terminal_snr and params.prediction == "epsilon":
        found.append(
            "zero_terminal_snr leaves nothing of the picture at the last timestep, where epsilon "
            "prediction learns nothing; it is meant for v_prediction"
        )
    return found


def _passes(run: Run) -> float:
    """How often the run shows each picture of the subject that it trains on."""
    params, subject = run.params, run.subject
    an_epoch = sum(picture.repeats or params.num_repeats for picture in subject)
    asked = params.epochs * an_epoch / max(1, len(subject))
    # An epoch shows as many class pictures as pictures of the subject.
    share = 0.5 if run.class_pictures else 1.0
    room = share * run.total_steps * params.batch_size * params.gradient_accumulation
    # `max_steps` may end it sooner; ragged batches leave some of the room empty.
    return min(asked, room / max(1, len(subject) - run.held_out))


def about_captions(run: Run) -> list[str]:
    """Captions that are missing, and a trigger word that is where it should not be, or nowhere."""
    found = []
    silent = sum(not picture.captioned for picture in run.subject)
    if silent:
        found.append(
            f"{silent} of {_images(len(run.subject))} have no caption and train on the trigger "
            "word alone"
        )
    word = run.trigger_word
    if not word:
        return found
    lacking = _lacking(run, word)
    if lacking:
        found.append(
            f"{lacking} of {len(run.subject)} captions lack the trigger word {word!r}, so it will "
            "not call what they teach"
        )
    taken = sum(_has_word(picture.caption, word) for picture in run.class_pictures)
    if taken:
        found.append(
            f"{taken} of {len(run.class_pictures)} class captions have the trigger word {word!r}, "
            "which teaches the class to answer to it"
        )
    return found


def _lacking(run: Run, word: str) -> int:
    """How many captions of the subject, as far as the run's parameters shape them, lack a word."""
    params = run.params
    if _has_word(f"{params.caption_prefix} {params.caption_suffix}", word):
        return 0
    return sum(
        not picture.own_captions and not _has_word(picture.caption, word) for picture in run.subject
    )


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


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
    if params.variant == "dora":
        yield from said(
            "max_norm", because="the magnitudes of a DoRA set the norm, whatever ΔW's is"
        )
    if params.variant in ("loha", "lokr"):
        yield from said(
            "lora_plus_ratio", because=f"a {params.variant} has no up and down matrices"
        )
    yield from _blocks(params)
    if params.trigger_vectors == 0:
        yield from said("trigger_learning_rate", because="trigger_vectors is 0")
    elif not run.trigger_word:
        yield from said("trigger_vectors", because="there is no trigger word")
    elif _lacking(run, run.trigger_word) == len(run.subject):
        yield from said("trigger_vectors", because="no caption has the trigger word")


def _blocks(params: TrainingParams) -> Iterator[str]:
    for number, block in enumerate(params.blocks):
        name = f"blocks[{number}] ({block.match})"
        later = next(
            (
                other.match
                for other in params.blocks[number + 1 :]
                if f"{block.match}.".startswith(f"{other.match}.")
            ),
            None,
        )
        if later is not None:
            yield f"{name} has no effect: {later}, further down, matches all that it matches"
        elif block.match.startswith("text_encoder") and not params.train_text_encoder:
            yield f"{name} has no effect: train_text_encoder is off"
        elif block.rank is None and block.alpha is None and block.learning_rate is None:
            yield f"{name} has no effect: it sets no rank, alpha or learning_rate"
        elif block.rank == 0 and (block.alpha is not None or block.learning_rate is not None):
            yield f"alpha and learning_rate of {name} have no effect: its rank is 0"


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
            f"{MIN_IMAGES_TO_HOLD_OUT}, so none is held out"
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
    wild = any(_WILDCARD.search(caption) or "\n" in caption.strip() for caption in shown)
    if not wild:
        yield from said("wildcards", because="no caption has several lines, or {a choice|of words}")
    words_vary = params.shuffle_caption or params.tag_dropout_rate or params.wildcards
    if not words_vary and all(not picture.own_captions for picture in run.pictures):
        yield from said(
            "caption_variants", because="shuffle_caption, tag_dropout_rate and wildcards are off"
        )


def _caption_parts(run: Run, shown: Sequence[str]) -> Iterator[str]:
    """What shuffling and tag dropout need: parts between commas, after those that are kept."""
    params, said = run.params, _teller(run.params)
    if not params.shuffle_caption and not params.tag_dropout_rate:
        yield from said(
            *("keep_tokens", "keep_tokens_separator"),
            because="shuffle_caption and tag_dropout_rate are off",
        )
        return
    separator = params.keep_tokens_separator
    around = params.caption_prefix + params.caption_suffix
    if separator is not None and not any(separator in text for text in (around, *shown)):
        yield from said("keep_tokens_separator", because=f"no caption has {separator!r}")
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
    whole = f"{params.caption_prefix}{caption}{params.caption_suffix}"
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


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

"""What a person should know before paying for a GPU: one sentence for each doubt about a run.

Shared by the API, which knows the dataset and its task, and by the trainer, which knows the files.
Each sentence has the figure and the limit; none of them stops a run.
"""

from app.trainings.params import TrainingParams
from app.trainings.planned import Run, has_word
from app.trainings.presets import PRESETS
from app.trainings.without_effect import without_effect

# So many times more or fewer passes than the preset's are far too many or too few.
FAR = 3.0
# Fewer updates hardly move a LoRA from nothing, whatever each of them saw.
MIN_STEPS = 100
# Prodigy finds the rate itself, and takes `learning_rate` as a factor on it; 1 is its authors'.
MIN_PRODIGY_RATE = 0.1
# Lion's authors advise a third to a tenth of AdamW's rate (Chen et al. 2023), 1e-4 on SDXL.
MAX_LION_RATE = 5e-5


def advise(run: Run) -> list[str]:
    """Every warning there is about a run, the dataset's first."""
    return [
        *about_pictures(run),
        *about_length(run),
        *about_captions(run),
        *about_learning(run.params),
        *without_effect(run),
    ]


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
    if 1 < params.epochs < params.save_every_n_epochs:
        found.append(
            f"save_every_n_epochs is {params.save_every_n_epochs} of {params.epochs} epochs, so "
            "only the end is saved and no earlier checkpoint can be recommended"
        )
    return found


def _passes(run: Run) -> float:
    """How often the run shows each picture of the subject that it trains on."""
    params, subject = run.params, run.subject
    an_epoch = sum(picture.repeats or params.num_repeats for picture in subject)
    asked = params.epochs * an_epoch / max(1, len(subject))
    # An epoch shows as many class pictures as pictures of the subject.
    share = 0.5 if run.class_pictures else 1.0
    room = share * run.total_steps * run.pictures_per_step
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
    lacking = run.captions_without(word)
    if lacking:
        found.append(
            f"{lacking} of {len(run.subject)} captions lack the trigger word {word!r}, so it will "
            "not call what they teach"
        )
    taken = sum(has_word(picture.caption, word) for picture in run.class_pictures)
    if taken:
        found.append(
            f"{taken} of {len(run.class_pictures)} class captions have the trigger word {word!r}, "
            "which teaches the class to answer to it"
        )
    return found


def about_learning(params: TrainingParams) -> list[str]:
    """Rates, schedules and objectives that do not suit one another."""
    found = []
    rate = params.learning_rate
    if params.optimizer == "prodigy" and rate < MIN_PRODIGY_RATE:
        found.append(
            f"learning_rate is {rate:g}; prodigy finds the rate itself and multiplies it by that, "
            f"so below {MIN_PRODIGY_RATE:g} it hardly learns, and 1 is usual"
        )
    if params.optimizer == "lion" and rate > MAX_LION_RATE:
        found.append(
            f"learning_rate is {rate:g}, and above {MAX_LION_RATE:g} is much for lion on SDXL; a "
            "third to a tenth of adamw's is usual"
        )
    if params.optimizer == "adamw_schedulefree" and params.lr_scheduler != "constant":
        found.append(
            f"lr_scheduler is {params.lr_scheduler}; adamw_schedulefree averages weights instead "
            "of lowering the rate, so constant suits it, with some lr_warmup_steps"
        )
    if params.optimizer == "adamw_schedulefree" and params.ema_decay is not None:
        found.append(
            f"ema_decay is {params.ema_decay:g}; adamw_schedulefree saves an average of its own, "
            "so leave it out"
        )
    if params.variant == "dora" and params.max_norm is not None:
        found.append(
            f"max_norm is {params.max_norm:g}; of a DoRA it limits the direction alone, while the "
            "magnitudes beside it can still grow"
        )
    if params.zero_terminal_snr and params.prediction == "epsilon":
        found.append(
            "zero_terminal_snr leaves nothing of the picture at the last timestep, where epsilon "
            "prediction learns nothing; it is meant for v_prediction"
        )
    return found


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

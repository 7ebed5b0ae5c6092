"""A training that is about to be, as the advice on it sees it: parameters, pictures, steps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.trainings.params import Task, TrainingParams


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
        pictures_per_step: of all devices, and all that is accumulated.
        held_out: pictures of the subject that an epoch keeps for validation.
        task: None where nobody said what the pictures are of.
    """

    params: TrainingParams
    pictures: Sequence[Picture]
    total_steps: int
    pictures_per_step: int
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

    def captions_without(self, word: str) -> int:
        """How many captions of the subject, as far as the run's parameters shape them, lack it."""
        if has_word(f"{self.params.caption_prefix} {self.params.caption_suffix}", word):
            return 0
        return sum(
            not picture.own_captions and not has_word(picture.caption, word)
            for picture in self.subject
        )


def has_word(text: str, word: str) -> bool:
    """Whether a word is in a text, and not as a part of a longer one."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None

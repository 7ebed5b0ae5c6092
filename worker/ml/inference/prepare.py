"""Make a spec ready to be drawn: its LoRAs parsed, its prompts embedded, its picture encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.ml.base_models.trigger_words import TriggerWords, triggers_in_place
from worker.ml.inference.bank import BankedLora, LoraReport, report
from worker.ml.inference.errors import StrengthTooLow
from worker.ml.inference.pictures import Source, open_source
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.prompts import PromptEmbeds, encode_prompts
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import GenerationSpec, LoraWeights

ENCODERS = ("text_encoder", "text_encoder_2")

# A LoRA and how strong it is in each part.
Use = tuple[BankedLora, LoraWeights]


@dataclass(frozen=True)
class Segment:
    """A part of the denoising with one set of LoRAs.

    Attributes:
        begin: where it begins, as a fraction of all steps.
        uses: the set, which may be empty.
        embeds: the prompts as the text encoders with this set read them.
    """

    begin: float
    uses: tuple[Use, ...]
    embeds: PromptEmbeds


@dataclass(frozen=True)
class Prepared:
    """A spec and all that drawing it needs; `number` is its place among those drawn together."""

    number: int
    spec: GenerationSpec
    segments: tuple[Segment, ...]
    reports: tuple[LoraReport, ...]
    source: Source | None

    @property
    def recipe(self) -> tuple[object, ...]:
        """Equal for specs that bring the UNet to the same weights at the same steps."""
        return tuple(
            (segment.begin, tuple((lora.sha256, weights.key) for lora, weights in segment.uses))
            for segment in self.segments
        )

    @property
    def stackable(self) -> bool:
        """Whether its LoRAs can be had by single rows of a batch."""
        return all(lora.stackable for segment in self.segments for lora, _ in segment.uses)


def prepare(handle: PipelineHandle, number: int, spec: GenerationSpec) -> Prepared:
    """Check a spec whole and do what comes before the first step.

    The text encoders are left with the LoRAs of the last segment.

    Raises:
        InferenceError: the spec, a LoRA or a picture is unusable; `code` says how.
    """
    most_steps = max(spec.steps, (spec.hires and spec.hires.steps) or 0)
    make_scheduler(spec.scheduler, handle.base.scheduler_config, steps=most_steps)
    if spec.init_image is not None and int(spec.steps * spec.strength) < 1:
        raise StrengthTooLow(
            f"strength {spec.strength:g} of {spec.steps} steps is below one step; raise either"
        )
    banked = [handle.bank.load(Path(lora.path), lora.sha256) for lora in spec.loras]
    reports = tuple(
        report(lora, wanted.weight) for lora, wanted in zip(banked, spec.loras, strict=True)
    )
    source = open_source(handle, spec)
    begins = {0.0, *(lora.start for lora in spec.loras), *(lora.end for lora in spec.loras)} - {1.0}
    segments = []
    for begin in sorted(begins):
        uses = tuple(
            (lora, wanted.weights)
            for lora, wanted in zip(banked, spec.loras, strict=True)
            if wanted.start <= begin < wanted.end
        )
        segments.append(Segment(begin, uses, _embed(handle, spec, uses)))
    return Prepared(number, spec, tuple(segments), reports, source)


def _embed(handle: PipelineHandle, spec: GenerationSpec, uses: Sequence[Use]) -> PromptEmbeds:
    """The prompts, with the vectors that the set's LoRAs bring for their trigger words."""
    handle.residency.bring(*ENCODERS)
    handle.bank.activate(uses, parts=ENCODERS)
    parts = {name: getattr(handle.pipeline, name) for name in ENCODERS}
    bringing = {
        lora.lora.trigger.casefold(): lora.lora
        # Of two LoRAs with the same word the first is heard.
        for lora, weights in reversed(uses)
        if lora.lora.trigger
        and weights.text_encoder != 0
        and lora.lora.embeddings.keys() == parts.keys()
    }
    counts = {word: len(lora.embeddings[ENCODERS[0]]) for word, lora in bringing.items()}
    vectors = {name: [lora.embeddings[name] for lora in bringing.values()] for name in parts}
    with triggers_in_place(parts, vectors):
        return encode_prompts(
            handle.pipeline,
            spec.prompt,
            spec.negative_prompt,
            guided=spec.guidance_scale > 1,
            triggers=TriggerWords(tuple(counts.items())),
        )

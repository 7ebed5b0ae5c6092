"""Draw: specs of one base model to pictures, as many rows at a time as memory holds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from worker.ml.inference.bank import LoraReport
from worker.ml.inference.batches import Batch, Row, batches
from worker.ml.inference.denoise import StepDone, denoise, hires_size
from worker.ml.inference.errors import InferenceError, OutOfMemory, Stopped
from worker.ml.inference.memory import MemoryPlan, thriftiest
from worker.ml.inference.pictures import decode_latents, kept_outside
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.prepare import Prepared, prepare
from worker.ml.inference.spec import GenerationSpec

# Called after each step with the fraction done in (0, 1], the steps done and their total.
OnProgress = Callable[[float, int, int], None]

_MAX_BATCH = 8


@dataclass(frozen=True)
class Preview:
    """A small picture of the way there, RGB; `number` says which of the spec's seeds it is of."""

    image: Image.Image
    number: int
    step: int
    total_steps: int


@dataclass(frozen=True)
class Watch:
    """What the caller hears of one spec while it is drawn, and how it says stop.

    Attributes:
        should_stop: asked before and after each step.
        on_stop: called once, as soon as `should_stop` was heard; the spec's rows may still be
            drawn on beside others', but are thrown away.
    """

    on_progress: OnProgress
    should_stop: Callable[[], bool]
    on_preview: Callable[[Preview], None] | None = None
    on_stop: Callable[[], None] | None = None


@dataclass(frozen=True)
class GeneratedImage:
    """One finished picture, RGB."""

    image: Image.Image
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class Generation:
    """All pictures of a spec, in the order of its seeds, and what each LoRA changed."""

    images: list[GeneratedImage]
    loras: list[LoraReport]


@dataclass
class _Progress:
    """How far one spec is."""

    watch: Watch
    pictures: dict[int, GeneratedImage] = field(default_factory=dict)
    stopped: bool = False
    # Why no more of its pictures can be had.
    failed: InferenceError | None = None
    # The step a preview was last shown of, as second-order schedulers pass each twice.
    previewed: int = 0

    def ask(self) -> bool:
        """Whether it must stop; the caller is told once that this was heard."""
        if not self.stopped and self.watch.should_stop():
            self.stopped = True
            if self.watch.on_stop is not None:
                self.watch.on_stop()
        return self.stopped


def generate(
    handle: PipelineHandle,
    spec: GenerationSpec,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
    on_preview: Callable[[Preview], None] | None = None,
) -> Generation:
    """Draw every seed of a spec.

    Raises:
        Stopped: `should_stop` said so; it is asked before and after each step.
        InferenceError: the spec or one of its LoRAs is unusable; `code` says how.
    """
    watch = Watch(on_progress, should_stop, on_preview)
    (_, outcome), *_ = generate_many(handle, [spec], [watch])
    if isinstance(outcome, InferenceError):
        raise outcome
    return outcome


def generate_many(
    handle: PipelineHandle, specs: Sequence[GenerationSpec], watches: Sequence[Watch]
) -> Iterator[tuple[int, Generation | InferenceError]]:
    """Draw several specs of one base model, together where they fit one batch.

    A picture's pixels do not depend on its batch mates beyond rounding, nor its noise on the
    device; a spec that cannot be drawn does not disturb the others.

    Yields:
        The number of a spec and its pictures, or why there are none, as each comes to its end;
        every spec once, in any order.
    """
    progress = [_Progress(watch) for watch in watches]
    ready: list[Prepared] = []
    for number, (spec, own) in enumerate(zip(specs, progress, strict=True)):
        if own.ask():
            yield number, _stopped()
            continue
        # All that can refuse a spec comes before the UNet's weights change.
        try:
            with handle.stage("prompt"):
                ready.append(prepare(handle, number, spec))
        except InferenceError as error:
            yield number, error
    for batch in batches(ready, lambda one: _plan(handle, one.spec).batch):
        for prepared in _draw(handle, batch, progress):
            number, own = prepared.number, progress[prepared.number]
            if own.stopped:
                yield number, _stopped()
            elif own.failed is not None:
                yield number, own.failed
            else:
                images = [own.pictures[index] for index in range(len(prepared.spec.seeds))]
                yield number, Generation(images, list(prepared.reports))


def _draw(
    handle: PipelineHandle, batch: Batch, progress: Sequence[_Progress]
) -> Iterator[Prepared]:
    """Draw a batch; yields the specs that have come to their end with it.

    What memory holds is reckoned, so it may run out all the same: then half the rows are tried,
    and of a single one the thriftiest way.
    """
    # Those that came to their end with an earlier batch are left out.
    wanted = tuple(row for row in batch.rows if _is_wanted(row, progress))
    specs = {row.prepared.number: row.prepared for row in wanted}
    pending = [wanted]
    sparing = False
    while pending:
        rows = tuple(row for row in pending.pop() if _is_wanted(row, progress))
        if not rows:
            continue
        plan = _plan(handle, rows[0].prepared.spec)
        try:
            handle.settle(thriftiest(plan) if sparing else plan)
            _draw_rows(handle, Batch(rows), progress)
            continue
        except torch.OutOfMemoryError as error:
            # Its traceback holds the tensors that are in the way, so it must end first.
            told = str(error)
        if handle.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        if middle:
            pending += [rows[middle:], rows[:middle]]
        elif not sparing:
            sparing = True
            pending.append(rows)
        else:
            spec = rows[0].prepared.spec
            progress[rows[0].prepared.number].failed = OutOfMemory(
                f"one picture of {spec.width}×{spec.height} does not fit the device: {told}"
            )
    for number, prepared in specs.items():
        own = progress[number]
        if own.stopped or own.failed or len(own.pictures) == len(prepared.spec.seeds):
            yield prepared


def _is_wanted(row: Row, progress: Sequence[_Progress]) -> bool:
    own = progress[row.prepared.number]
    return not own.stopped and own.failed is None and row.index not in own.pictures


def _draw_rows(handle: PipelineHandle, batch: Batch, progress: Sequence[_Progress]) -> None:
    """Draw rows together, until all their specs ask to stop."""
    numbers = list(dict.fromkeys(row.prepared.number for row in batch.rows))

    def stop_if_all_ask() -> None:
        # Each is asked, even where the first says no.
        asked = [progress[number].ask() for number in numbers]
        if all(asked):
            raise Stopped("stopped before the picture was finished")

    def on_step(step: StepDone) -> None:
        _tell(handle, batch, progress, step)
        stop_if_all_ask()

    try:
        stop_if_all_ask()
        steps = batch.rows[0].prepared.spec.steps
        with handle.stage("denoise", pictures=len(batch.rows), steps=steps):
            latents = denoise(handle, batch, on_step)  # (B, 4, h, w)
        for row, latent in zip(batch.rows, latents, strict=True):
            own = progress[row.prepared.number]
            if not own.ask():
                with handle.stage("decode", pictures=1):
                    picture = decode_latents(handle, latent.unsqueeze(0))
                picture = kept_outside(picture, row.prepared.source)
                own.pictures[row.index] = GeneratedImage(
                    picture, row.seed, picture.width, picture.height
                )
    except Stopped:
        pass


def _tell(
    handle: PipelineHandle, batch: Batch, progress: Sequence[_Progress], step: StepDone
) -> None:
    """Progress of each spec of a batch, and previews where one is due."""
    rows_of: dict[int, list[int]] = {}
    for place, row in enumerate(batch.rows):
        rows_of.setdefault(row.prepared.number, []).append(place)
    for number, places in rows_of.items():
        own, spec = progress[number], batch.rows[places[0]].prepared.spec
        if own.stopped:
            continue
        count = len(spec.seeds)
        done = (len(own.pictures) + len(places) * step.done / step.total) / count
        total = count * step.total
        own.watch.on_progress(done, round(done * total), total)
        if own.watch.on_preview is None or not _preview_due(spec.previews, step):
            continue
        if own.previewed != step.done:
            own.previewed = step.done
            latents = step.foretold()
            for place in places:
                image = handle.colours.picture(latents[place])
                index = batch.rows[place].index
                own.watch.on_preview(Preview(image, index, step.done, step.total))


def _preview_due(previews: int, step: StepDone) -> bool:
    """Whether this step is one of so many, evenly laid over the steps before the last."""
    due = {round(step.total * (n + 1) / (previews + 1)) for n in range(previews)}
    return 0 < step.done < step.total and step.done in due


def _stopped() -> Stopped:
    return Stopped("stopped before the picture was finished")


def batch_limit(handle: PipelineHandle, width: int, height: int, *, guided: bool, most: int) -> int:
    """How many pictures of a size would be denoised together now, at least 1."""
    return handle.plan(width, height, guided=guided, most=min(most, _MAX_BATCH)).batch


def _plan(handle: PipelineHandle, spec: GenerationSpec) -> MemoryPlan:
    """How pictures such as this spec's are drawn in the memory there is."""
    width, height = hires_size(spec)
    return handle.plan(width, height, guided=spec.guidance_scale > 1, most=_MAX_BATCH)

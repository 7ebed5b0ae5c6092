"""Which pictures are denoised together: those that only differ in what a row may have of its own.

A row has its own prompt, seed, LoRAs and source; size, steps, guidance, scheduler and the length
of the prompts are the batch's. Where all rows have one set of LoRAs it is merged into the base;
where they differ each row has its own beside it. A set that cannot be stacked has batches of its
own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from worker.ml.inference.prepare import Prepared


@dataclass(frozen=True)
class Row:
    """One picture: number `index` of its spec."""

    prepared: Prepared
    index: int

    @property
    def seed(self) -> int:
        """Of its noise."""
        return self.prepared.spec.seeds[self.index]


@dataclass(frozen=True)
class Batch:
    """Rows to be denoised together."""

    rows: tuple[Row, ...]

    @property
    def merged(self) -> bool:
        """Whether all rows have the same LoRAs at the same steps."""
        return len({row.prepared.recipe for row in self.rows}) == 1


def batches(prepared: Sequence[Prepared], limit: Callable[[Prepared], int]) -> Iterator[Batch]:
    """Every picture of these specs once.

    Args:
        limit: how many rows such as this spec's a batch may have, at least 1.
    """
    groups: dict[object, list[Prepared]] = {}
    for one in prepared:
        groups.setdefault(_shared(one), []).append(one)
    for group in groups.values():
        # Those with the same LoRAs side by side, so that they are merged where they fill a batch.
        recipes: dict[object, list[Row]] = {}
        for one in group:
            rows = [Row(one, index) for index in range(len(one.spec.seeds))]
            recipes.setdefault(one.recipe, []).extend(rows)
        ordered = [row for rows in recipes.values() for row in rows]
        size = limit(group[0])
        for start in range(0, len(ordered), size):
            yield Batch(tuple(ordered[start : start + size]))


def _shared(prepared: Prepared) -> object:
    """Equal for specs whose pictures may be rows of one batch."""
    spec = prepared.spec
    source = prepared.source
    lengths = {segment.embeds.prompt_embeds.shape[1] for segment in prepared.segments}
    return (
        (spec.width, spec.height, spec.steps, spec.scheduler),
        (spec.guidance_scale, spec.guidance_rescale),
        spec.hires,
        None if source is None else (spec.strength, source.mask is None),
        # Fill would be read as part of a prompt, so prompts of another length are apart.
        frozenset(lengths),
        None if prepared.stackable else prepared.recipe,
    )

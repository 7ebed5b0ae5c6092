"""Everything the loop reads, made before it starts: latents, embeddings, what is held out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from app.trainings.arithmetic import BucketPlan, StepPlan, plan_steps
from worker.ml.base_models.load import load_base_model
from worker.ml.training.cache import TensorCache
from worker.ml.training.events import Events
from worker.ml.training.latents import LatentImage, encode_images
from worker.ml.training.plan import Plan
from worker.ml.training.samples import SamplePrompt
from worker.ml.training.sampling import shuffled_captions
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.text import MAX_TOKENS, TextEmbedding, TextEncoders, embed_texts
from worker.ml.training.validation import ValidationSet

# Orders of each caption that are encoded, when captions are shuffled.
SHUFFLES = 4


@dataclass(frozen=True)
class Prepared:
    """What the loop needs beside the UNet.

    Attributes:
        buckets: for each (width, height), the training images' numbers, one for each repeat.
        images: latents by image number.
        captions: embeddings by image number and variant; all images have as many variants.
        empty: the embedding of the empty caption.
        vae: on the CPU, for sample images; None when there are none to draw.
    """

    steps: StepPlan
    buckets: dict[tuple[int, int], list[int]]
    images: Sequence[LatentImage]
    captions: Sequence[Sequence[TextEmbedding]]
    empty: TextEmbedding
    held_out: ValidationSet
    samples: Sequence[SamplePrompt]
    vae: Any


def prepare(
    spec: TrainingSpec, plan: Plan, cache_folder: Path, events: Events, pause: Callable[[], None]
) -> Prepared:
    """Encode what is not in the cache yet; VAE and text encoders are gone when this returns.

    Args:
        pause: called between batches; what it raises ends the preparation.
    """
    base, params = spec.base_model, spec.params
    loaded = load_base_model(base.location, base.revision, plan.policy, parts=())
    bucket_plan = BucketPlan.for_base(params.resolution, base.vae_scale_factor)
    sizes = [image.size for image in spec.images]
    steps = plan_steps(sizes, params, bucket_plan)
    placed = [bucket_plan.nearest(image.width, image.height) for image in spec.images]
    store = TensorCache(cache_folder)
    total = len(spec.images)

    @cache
    def vae() -> Any:
        return load_base_model(base.location, base.revision, plan.policy, parts=("vae",)).vae

    @cache
    def encoders() -> TextEncoders:
        parts = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
        found = load_base_model(base.location, base.revision, plan.policy, parts=parts)
        return TextEncoders(
            (found.tokenizer, found.tokenizer_2), (found.text_encoder, found.text_encoder_2)
        )

    def on_image(done: int) -> None:
        events.progress("prepare", step=done, total_steps=total)
        pause()

    images = encode_images(
        spec.images,
        placed,
        flip=params.flip_augment,
        vae=vae,
        vae_sha256=_hash_weights(loaded.folder, ("vae",), plan.policy.vae_dtype, vae),
        cache=store,
        on_done=on_image,
    )
    variants = SHUFFLES if params.shuffle_caption else 1
    worded = [
        shuffled_captions(image.caption, variants, params.keep_tokens, spec.seed)
        for image in spec.images
    ]
    embedded = embed_texts(
        [*(text for texts in worded for text in texts), *spec.sample_prompts, ""],
        encoders=encoders,
        encoders_sha256=_hash_weights(
            loaded.folder, ("text_encoder", "text_encoder_2"), plan.policy.dtype, encoders
        ),
        cache=store,
        on_done=lambda _: pause(),
    )
    _warn_of_long_captions(spec, plan, events)
    captions = [[embedded[text] for text in texts] for texts in worded]
    held_out = set(steps.held_out)
    buckets: dict[tuple[int, int], list[int]] = {}
    for number, (image, bucket) in enumerate(zip(spec.images, placed, strict=True)):
        if number not in held_out:
            repeats = image.repeats or params.num_repeats
            buckets.setdefault(bucket, []).extend([number] * repeats)
    return Prepared(
        steps=steps,
        buckets=buckets,
        images=images,
        captions=captions,
        empty=embedded[""],
        held_out=ValidationSet(
            [images[number] for number in steps.held_out],
            [captions[number][0] for number in steps.held_out],
        ),
        samples=[
            SamplePrompt(prompt, spec.seed % 2**32 + number, embedded[prompt])
            for number, prompt in enumerate(spec.sample_prompts)
        ],
        vae=vae().to("cpu") if spec.sample_prompts else None,
    )


def _warn_of_long_captions(spec: TrainingSpec, plan: Plan, events: Events) -> None:
    # A cheap first sieve: beside start and end, a token has at least one character.
    long = [image.caption for image in spec.images if len(image.caption) > MAX_TOKENS - 2]
    if not long:
        return
    base = spec.base_model
    tokenizer = load_base_model(
        base.location, base.revision, plan.policy, parts=("tokenizer",)
    ).tokenizer
    cut = sum(len(tokenizer(caption).input_ids) > MAX_TOKENS for caption in long)
    if cut:
        events.log(f"{cut} captions have over {MAX_TOKENS} tokens and are cut there", "warning")


def _hash_weights(
    folder: Path, parts: Sequence[str], dtype: object, load: Callable[[], object]
) -> str:
    """Of the parts' weight files and the precision they run in."""
    if not all(any(folder.glob(f"{part}/*.safetensors")) for part in parts):
        # A hub's files are here only once they have been loaded.
        load()
    digest = hashlib.sha256(str(dtype).encode())
    for path in sorted(path for part in parts for path in folder.glob(f"{part}/*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""Everything the loop reads, made before it starts: latents, embeddings, what is held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
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


def prepare(spec: TrainingSpec, plan: Plan, cache_folder: Path, events: Events) -> Prepared:
    """Encode what is not in the cache yet; VAE and text encoders are gone when this returns."""
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

    images = encode_images(
        spec.images,
        placed,
        flip=params.flip_augment,
        vae=vae,
        vae_sha256=_hash_files(loaded.folder, "vae", plan.policy.vae_dtype),
        cache=store,
        on_done=lambda done: events.progress("prepare", step=done, total_steps=total),
    )
    variants = SHUFFLES if params.shuffle_caption else 1
    worded = [
        shuffled_captions(image.caption, variants, params.keep_tokens, spec.seed)
        for image in spec.images
    ]
    embedded = embed_texts(
        [*(text for texts in worded for text in texts), *spec.sample_prompts, ""],
        encoders=encoders,
        encoders_sha256=_hash_files(loaded.folder, "text_encoder*", plan.policy.dtype),
        cache=store,
    )
    _warn_of_long_captions(spec, encoders, events)
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


def _warn_of_long_captions(
    spec: TrainingSpec, encoders: Callable[[], TextEncoders], events: Events
) -> None:
    # Characters are a cheap first sieve: a token has at least one.
    long = [image.caption for image in spec.images if len(image.caption) > MAX_TOKENS]
    if not long:
        return
    cut = sum(encoders().longest([caption]) > MAX_TOKENS for caption in long)
    if cut:
        events.log(f"{cut} captions have over {MAX_TOKENS} tokens and are cut there", "warning")


def _hash_files(folder: Path, pattern: str, dtype: object) -> str:
    """Of a network's weight files and the precision they run in."""
    digest = sha256(str(dtype).encode())
    for path in sorted(folder.glob(f"{pattern}/*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()

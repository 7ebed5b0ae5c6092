"""Everything the loop reads, made before it starts: latents, wordings and their embeddings."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from app.trainings.arithmetic import BucketPlan, StepPlan, plan_steps
from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.hashing import weight_files
from worker.ml.base_models.load import load_base_model
from worker.ml.training.data import captions
from worker.ml.training.data.cache import TensorCache
from worker.ml.training.data.latents import LatentStore, Wanted, encode_images
from worker.ml.training.data.text import MAX_TOKENS, TextEncoders, TextStore, embed_texts
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.events import Events
from worker.ml.training.memory.plan import Plan
from worker.ml.training.parallel import Group
from worker.ml.training.spec import TrainingSpec

TEXT_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Prepared:
    """What the loop needs beside the UNet.

    Attributes:
        images: latents by image number.
        wordings: each image's captions that were encoded, the first as written; empty where the
            text encoders are trained, which encode as they go.
        texts: their embeddings, None where the text encoders are trained.
        vae: on the CPU, for sample images; None when there are none to draw.
    """

    steps: StepPlan
    images: LatentStore
    wordings: Sequence[Sequence[str]]
    texts: TextStore | None
    vae: Any


def trains_text(spec: TrainingSpec) -> bool:
    """Whether gradients go through the text encoders, so that embeddings cannot be kept."""
    return spec.params.train_text_encoder or spec.params.trigger_vectors > 0


def count_steps(spec: TrainingSpec, group: Group) -> StepPlan:
    """The run's steps and buckets.

    Raises:
        SpecInvalid: the parameters' buckets do not fit the base model.
    """
    try:
        buckets = BucketPlan.for_base(spec.params, spec.base_model.vae_scale_factor)
    except ValueError as error:
        raise SpecInvalid(str(error)) from error
    return plan_steps([image.size for image in spec.images], spec.params, buckets, group.size)


def prepare(
    spec: TrainingSpec,
    plan: Plan,
    steps: StepPlan,
    cache_folder: Path,
    events: Events,
    group: Group,
    pause: Callable[[], None],
) -> Prepared:
    """Encode what is not in the cache yet; VAE and text encoders are gone when this returns.

    Args:
        pause: called between batches; what it raises ends the preparation.
    """
    store = TensorCache(cache_folder)
    base, policy = spec.base_model, plan.policy
    sources = load_base_model(
        base.location, base.revision, policy, parts=(), variant=base.variant
    ).sources
    total = len(spec.images)

    @cache
    def vae() -> Any:
        return load_base_model(
            base.location, base.revision, policy, parts=("vae",), variant=base.variant
        ).vae

    def on_image(done: int) -> None:
        events.progress("prepare", step=done, total_steps=total)
        pause()

    wanted = [
        Wanted.of(image, bucket, spec.params)
        for image, bucket in zip(spec.images, steps.placed, strict=True)
    ]
    keys = encode_images(
        wanted,
        vae=vae,
        vae_sha256=_hash_weights(sources, ("vae",), policy.vae_dtype, vae),
        cache=store,
        group=group,
        on_done=on_image,
    )
    drawn = bool(spec.sample_prompts) and group.is_main
    kept_vae = vae().to("cpu") if drawn else None
    vae.cache_clear()
    wordings, text_keys = _texts(spec, policy, sources, store, group, pause)
    bytes_ = sum(_latent_bytes(each, base.vae_scale_factor) for each in wanted)
    device = plan.cache_device(bytes_)
    texts = None if trains_text(spec) else TextStore(store, text_keys, device)
    if texts is not None:
        cut = sum(any(texts[text].cut for text in each) for each in wordings)
        if cut:
            events.log(f"{cut} captions have over {MAX_TOKENS} tokens and are cut there", "warning")
    return Prepared(
        steps=steps,
        images=LatentStore(store, keys, device),
        wordings=wordings,
        texts=texts,
        vae=kept_vae,
    )


def load_text_encoders(spec: TrainingSpec, policy: DevicePolicy) -> TextEncoders:
    """Both tokenizers and text encoders, frozen, on the policy's device."""
    base = spec.base_model
    found = load_base_model(
        base.location, base.revision, policy, parts=TEXT_PARTS, variant=base.variant
    )
    return TextEncoders(
        (found.tokenizer, found.tokenizer_2), (found.text_encoder, found.text_encoder_2)
    )


def _texts(
    spec: TrainingSpec,
    policy: DevicePolicy,
    sources: Mapping[str, Path],
    store: TensorCache,
    group: Group,
    pause: Callable[[], None],
) -> tuple[list[list[str]], dict[str, str]]:
    """Each image's wordings, and the keys of all that is encoded."""
    if trains_text(spec):
        return [], {}
    params = spec.params
    wordings = [
        captions.variants(
            image.caption,
            captions.caption_options(image, params),
            params.caption_variants,
            spec.seed,
        )
        for image in spec.images
    ]

    @cache
    def encoders() -> TextEncoders:
        return load_text_encoders(spec, policy)

    keys = embed_texts(
        [
            *(text for texts in wordings for text in texts),
            *spec.sample_prompts,
            *spec.generic_prompts,
            "",
        ],
        encoders=encoders,
        encoders_sha256=_hash_weights(
            sources, ("text_encoder", "text_encoder_2"), policy.dtype, encoders
        ),
        cache=store,
        group=group,
        on_done=lambda _: pause(),
    )
    encoders.cache_clear()
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
    return wordings, keys


def _latent_bytes(wanted: Wanted, scale_factor: int) -> int:
    """Of one picture's latents in float32, four channels."""
    width, height = wanted.bucket
    each = 4 * 4 * (width // scale_factor) * (height // scale_factor)
    return each * wanted.crops * max(1, wanted.samples)


def _hash_weights(
    sources: Mapping[str, Path],
    parts: Sequence[str],
    dtype: object,
    load: Callable[[], object],
) -> str:
    """Of the parts' weight files and the precision they run in."""
    if not all(weight_files(part, sources[part]) for part in parts):
        # A hub's files are here only once they have been loaded.
        load()
    digest = hashlib.sha256(str(dtype).encode())
    for path in sorted({path for part in parts for _, path in weight_files(part, sources[part])}):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

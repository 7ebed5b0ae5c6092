"""The networks a worker process keeps loaded between jobs: one captioner, a few pipelines."""

from functools import cache

from app.catalog import BaseModelEntry, CaptionerEntry, load_catalog
from app.errors import JobInputMissing
from app.settings import get_settings
from worker.handlers.base_model_files import fetch_base_model
from worker.handlers.errors import ModelUnavailable
from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.captioning.blip import BlipCaptioner, CaptionerUnavailable
from worker.ml.captioning.captioner import Captioner
from worker.ml.inference.pipelines import PipelineCache
from worker.ml.inference.spec import BaseModelSpec
from worker.stages import bank_loaded, stage


@cache
def device_policy() -> DevicePolicy:
    """Chosen at the first job, in the pool's child: CUDA must not be touched before the fork."""
    import torch

    threads = get_settings().torch_threads
    if threads:
        torch.set_num_threads(threads)
    return choose_policy()


@cache
def pipelines() -> PipelineCache:
    """The base models of this process."""
    settings = get_settings()
    return PipelineCache(
        device_policy(),
        max_pipelines=settings.pipeline_cache_count,
        max_bytes=settings.pipeline_cache_bytes,
        bank_bytes=settings.lora_cache_bytes,
        stage=stage,
        on_bank_load=bank_loaded,
    )


@cache
def captioner(captioner_id: str) -> Captioner:
    """A loaded captioner.

    Raises:
        JobInputMissing: the catalog no longer has it.
    """
    settings = get_settings()
    entry: CaptionerEntry | None = load_catalog(settings.catalog_path).captioner(captioner_id)
    if entry is None:
        raise JobInputMissing(f"The captioner {captioner_id} is no longer offered")
    try:
        return BlipCaptioner.load(
            entry.location(settings.catalog_path),
            entry.revision,
            device_policy(),
            max_new_tokens=entry.max_new_tokens,
            batch_size=settings.captioning_batch_size,
        )
    except CaptionerUnavailable as error:
        raise ModelUnavailable(error.code, str(error)) from error


def base_model_entry(base_model_id: str) -> BaseModelEntry:
    """The catalog's entry.

    Raises:
        JobInputMissing: the catalog no longer has it.
    """
    entry = load_catalog(get_settings().catalog_path).base_model(base_model_id)
    if entry is None:
        raise JobInputMissing(f"The base model {base_model_id} is no longer offered")
    return entry


def base_model_spec(entry: BaseModelEntry) -> BaseModelSpec:
    """The entry as the ML code takes it; a file in the service's bucket is on this machine then.

    Raises:
        JobInputMissing, ModelUnavailable, StorageUnavailable: see `fetch_base_model`.
    """
    catalog_path = get_settings().catalog_path
    if entry.source_kind == "s3":
        location = str(fetch_base_model(entry))
    else:
        location = entry.location(catalog_path)
    return BaseModelSpec(
        id=entry.id,
        location=location,
        revision=entry.revision,
        architecture=entry.architecture,
        vae_scale_factor=entry.vae_scale_factor,
        **load_catalog(catalog_path).variant(entry, catalog_path),
    )

"""Which base models stay loaded."""

import gc
import weakref

import pytest

from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.inference.pipelines import PipelineCache


def test_a_pipeline_is_loaded_once_and_the_least_used_goes_first(base_spec, policy):
    a, b = (base_spec.model_copy(update={"id": name}) for name in "ab")
    c = base_spec.model_copy(update={"id": "c"})
    cache = PipelineCache(policy, max_pipelines=2)
    first = cache.get(a)
    cache.get(b)
    assert cache.get(a) is first
    cache.get(c)
    assert cache.held() == ["a", "c"]


def test_what_goes_frees_its_memory(base_spec, policy):
    cache = PipelineCache(policy, max_pipelines=5, max_bytes=50_000_000)
    unet = weakref.ref(cache.get(base_spec).base.unet)
    # Each takes 34.5 MB in float32, so two are over the limit.
    cache.get(base_spec.model_copy(update={"id": "other"}))
    gc.collect()
    assert cache.held() == ["other"]
    assert unet() is None


def test_a_base_that_is_not_there_is_named(base_spec, policy, tmp_path):
    cache = PipelineCache(policy)
    missing = base_spec.model_copy(update={"location": str(tmp_path)})
    with pytest.raises(BaseModelUnavailable, match="model_index"):
        cache.get(missing)
    assert cache.held() == []

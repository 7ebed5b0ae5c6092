"""Which base models stay loaded."""

import gc
import weakref

import pytest

from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.inference import pipelines
from worker.ml.inference.memory import needed_bytes
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


@pytest.mark.parametrize(("to_spare", "held"), [(20_000_000, ["b"]), (50_000_000, ["a", "b"])])
def test_on_a_card_others_go_where_the_newest_would_not_be_wholly_there(
    base_spec, policy, monkeypatch, to_spare, held
):
    cache = PipelineCache(policy, max_pipelines=5)
    first = cache.get(base_spec.model_copy(update={"id": "a"}))
    asked = {"width": 64, "height": 64, "guided": True, "batch": 1}
    card = needed_bytes(first.size, "resident", False, **asked) + to_spare
    del first

    def free(_: object) -> int:
        return card - sum(handle.residency.nbytes for handle in cache._handles.values())

    monkeypatch.setattr(pipelines, "_free_bytes", free)
    # Each takes 34.5 MB.
    newest = cache.get(base_spec.model_copy(update={"id": "b"}))
    assert cache.held() == held
    assert newest.residency.placement == "resident"
    assert newest.residency.there == set(newest.base.networks())


def test_a_card_that_holds_no_base_whole_parks_its_networks(base_spec, policy, monkeypatch):
    whole = pipelines.open_pipeline(base_spec, policy)
    asked = {"width": 64, "height": 64, "guided": True, "batch": 1}
    card = needed_bytes(whole.size, "one_at_a_time", False, **asked)
    monkeypatch.setattr(pipelines, "_free_bytes", lambda _: card)
    assert pipelines.open_pipeline(base_spec, policy).residency.placement == "one_at_a_time"

"""Captions become what the pipeline itself would make of them, once."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.training.data.cache import TensorCache
from worker.ml.training.data.text import TextEncoders, TextStore, embed_texts
from worker.ml.training.parallel import Group
from worker.ml.training.spec import read_spec

TEXTS = ["a red heart, in the style of inkstyle", "", "word " * 200]


@pytest.fixture(scope="module")
def base(write_spec):
    location = read_spec(write_spec()).base_model.location
    return load_base_model(location, None, choose_policy("cpu"))


@pytest.fixture
def encoders(base):
    return TextEncoders(
        (base.tokenizer, base.tokenizer_2), (base.text_encoder, base.text_encoder_2)
    )


def test_embeddings_are_those_of_the_pipeline(base, encoders):
    pipeline = StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=base.text_encoder_2,
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        unet=None,
        scheduler=None,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    for text, found in zip(TEXTS, encoders.embed(TEXTS), strict=True):
        tokens, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
        assert found.tokens.shape == (77, 256)
        assert torch.allclose(found.tokens, tokens[0], atol=1e-5)
        assert torch.allclose(found.pooled, pooled[0], atol=1e-5)


def test_a_text_is_encoded_once(encoders, tmp_path):
    opened = []

    def load():
        opened.append(1)
        return encoders

    def embed(texts, key="k"):
        cache = TensorCache(tmp_path)
        keys = embed_texts(
            texts,
            encoders=load,
            encoders_sha256=key,
            cache=cache,
            group=Group(),
            on_done=lambda _: None,
        )
        assert list(keys) == TEXTS
        return TextStore(cache, keys, torch.device("cpu"))

    first = embed([*TEXTS, TEXTS[0]])
    assert len(opened) == 1
    again = embed(TEXTS)
    assert len(opened) == 1
    for text in TEXTS:
        assert torch.equal(first[text].tokens, again[text].tokens)
        assert torch.equal(first[text].pooled, again[text].pooled)
    embed(TEXTS, key="of other weights")
    assert len(opened) == 2


def test_an_embedding_is_read_from_disk_memory_or_device_alike(encoders, tmp_path):
    cache = TensorCache(tmp_path)
    keys = embed_texts(
        TEXTS,
        encoders=lambda: encoders,
        encoders_sha256="k",
        cache=cache,
        group=Group(),
        on_done=lambda _: None,
    )
    from_disk, from_memory = (
        TextStore(cache, keys, None),
        TextStore(cache, keys, torch.device("cpu")),
    )
    for text in TEXTS:
        assert torch.equal(from_disk[text].tokens, from_memory[text].tokens)

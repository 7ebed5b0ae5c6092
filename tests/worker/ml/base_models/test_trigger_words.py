"""A trigger word's vectors stand where the word stands, in both encoders, and leave no trace."""

from pathlib import Path

import pytest
import torch

from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.base_models.trigger_words import (
    TriggerWords,
    add_trigger,
    triggers_in_place,
    vectors_like,
)
from worker.ml.inference.prompts import encode_prompts
from worker.ml.training.data.text import TextEncoders

BASE = Path(__file__).parents[4] / "assets" / "emoji-64"
WORDS = TriggerWords((("inkstyle", 2), ("mint-y", 1)))


@pytest.fixture(scope="module")
def base():
    return load_base_model(str(BASE), None, choose_policy("cpu"))


def test_a_word_that_stands_alone_becomes_its_vectors(base):
    def ids(text, words=WORDS):
        return words.ids(base.tokenizer, text)

    plain = TriggerWords()
    assert ids("a red heart", plain) == ids("a red heart")
    assert ids("inkstyle") == [-1, -2]
    assert ids("a cat, Inkstyle and mint-y") == [
        *ids("a cat,", plain),
        -1,
        -2,
        *ids("and", plain),
        -3,
    ]
    assert all(number >= 0 for number in ids("inkstyles, xinkstyle, mint-yy"))


def test_the_words_own_vectors_answer_as_the_word_itself(base):
    """Begun with as many vectors as the word has tokens, nothing changes."""
    encoders = {"text_encoder": base.text_encoder, "text_encoder_2": base.text_encoder_2}
    tokenizers = (base.tokenizer, base.tokenizer_2)
    own = TextEncoders(tokenizers, tuple(encoders.values()))
    text = "a red heart, in the style of inkstyle, on a blue wall"
    count = len(base.tokenizer("inkstyle", add_special_tokens=False).input_ids)
    words = TriggerWords((("inkstyle", count),))
    with torch.no_grad():
        before = own.encode([text])
        vectors = {
            name: [vectors_like(tokenizer, encoder, "inkstyle", count)]
            for (name, encoder), tokenizer in zip(encoders.items(), tokenizers, strict=True)
        }
        with triggers_in_place(encoders, vectors):
            inside = own.encode([text], words)
            vectors["text_encoder_2"][0].mul_(-3.0)
        after = own.encode([text])
        with triggers_in_place(encoders, vectors):
            changed = own.encode([text], words)
    for wanted, found, again in zip(before, inside, after, strict=True):
        assert torch.allclose(wanted, found, atol=1e-5)
        assert torch.equal(wanted, again)
    # The pooled vector is taken at the text's end, however many vectors there are.
    assert not torch.allclose(changed[1], before[1], atol=1e-2)


def test_gradients_reach_the_vectors_and_nothing_else(base):
    width = base.text_encoder.config.hidden_size
    table = base.text_encoder
    with triggers_in_place({"text_encoder": table}, {"text_encoder": []}):
        added = add_trigger(table, torch.zeros(2, width))
        try:
            ids = torch.tensor([[5, -1, -2, 7]])
            added(ids).sum().backward()
            assert added.vectors.grad.tolist() == torch.ones(2, width).tolist()
            assert added.weight.grad is None
        finally:
            getattr(table, "text_model", table).embeddings.token_embedding = added.table


def test_a_prompt_with_a_trigger_is_cut_between_words(base):
    class Pipeline:
        tokenizer, tokenizer_2 = base.tokenizer, base.tokenizer_2
        text_encoder, text_encoder_2 = base.text_encoder, base.text_encoder_2

        class config:
            force_zeros_for_empty_prompt = True

    encoders = {"text_encoder": base.text_encoder, "text_encoder_2": base.text_encoder_2}
    vectors = {
        name: [torch.full((2, encoder.config.hidden_size), 0.1)]
        for name, encoder in encoders.items()
    }
    words = TriggerWords((("inkstyle", 2),))
    with triggers_in_place(encoders, vectors):
        found = encode_prompts(Pipeline, "inkstyle " * 60, "", guided=True, triggers=words)
    assert found.prompt_embeds.shape[1] == 2 * 77
    plain = encode_prompts(Pipeline, "inkstyle " * 60, "", guided=True)
    assert not torch.allclose(found.pooled_prompt_embeds, plain.pooled_prompt_embeds)

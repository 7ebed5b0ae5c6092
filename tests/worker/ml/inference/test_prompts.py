"""Prompts of any length, with weights."""

import pytest
import torch

from worker.ml.base_models.trigger_words import TriggerWords
from worker.ml.inference.errors import PromptInvalid
from worker.ml.inference.prompts import encode_prompts, parse_prompt


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("", []),
        ("a (red:1.2) apple", [("a ", 1.0), ("red", 1.2), (" apple", 1.0)]),
        ("(a (red:2) apple:0.5)", [("a ", 0.5), ("red", 1.0), (" apple", 0.5)]),
        ("flag (france) and (very) old", [("flag (france) and (very) old", 1.0)]),
        ("ratio (16:9 wide", [("ratio (16:9 wide", 1.0)]),
        (r"\(red:1.2\)", [("(red:1.2)", 1.0)]),
        (r"(a \) b:1.5)", [("a ) b", 1.5)]),
        ("(x:-1)(y: .5)", [("x", -1.0), ("y", 0.5)]),
        ("a) (b:", [("a) (b:", 1.0)]),
    ],
)
def test_only_explicit_weights_weigh(prompt, runs):
    assert parse_prompt(prompt) == runs


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(PromptInvalid, match="30"):
        parse_prompt("(time 12:30)")
    with pytest.raises(PromptInvalid, match="25"):
        parse_prompt("((a:5):5)")


@pytest.mark.parametrize("prompt", ["a red apple", "flag (france)", "", "x " * 75, "Ein Käse, (2)"])
@pytest.mark.parametrize("negative", ["", "blue, green"])
def test_a_plain_prompt_is_to_the_bit_what_diffusers_encodes(handle, prompt, negative):
    ours = encode_prompts(handle.pipeline, prompt, negative, guided=True)
    embeds, no_embeds, pooled, no_pooled = handle.pipeline.encode_prompt(
        prompt, negative_prompt=negative or None
    )
    assert torch.equal(ours.prompt_embeds, embeds)
    assert torch.equal(ours.pooled_prompt_embeds, pooled)
    assert torch.equal(ours.negative_prompt_embeds, no_embeds)
    assert torch.equal(ours.negative_pooled_prompt_embeds, no_pooled)


def test_a_long_prompt_is_read_to_its_end(handle):
    words = "red green blue apple car dog cat sun moon tree " * 12
    long = encode_prompts(handle.pipeline, words + "yellow", "", guided=True)
    other = encode_prompts(handle.pipeline, words + "purple", "", guided=True)
    assert long.prompt_embeds.shape[1] % 77 == 0
    assert long.prompt_embeds.shape[1] >= 154
    assert long.negative_prompt_embeds.shape == long.prompt_embeds.shape
    assert torch.equal(long.prompt_embeds[:, :77], other.prompt_embeds[:, :77])
    assert not torch.equal(long.prompt_embeds, other.prompt_embeds)
    first = encode_prompts(handle.pipeline, words[:60], "", guided=False)
    assert first.negative_prompt_embeds is None


def test_chunks_are_cut_between_words(handle):
    from worker.ml.inference.prompts import _chunks

    tokenizer = handle.pipeline.tokenizer
    text = "extraordinarily incomprehensible hippopotamus " * 20
    chunks = _chunks(tokenizer, TriggerWords(), [(text, 1.0)])
    assert len(chunks) > 1
    tokens = [[token for token, _ in chunk] for chunk in chunks]
    assert all(len(chunk) <= 75 for chunk in tokens)
    assert all(tokenizer.convert_ids_to_tokens(c[-1]).endswith("</w>") for c in tokens)
    joined = [token for chunk in tokens for token in chunk]
    assert joined == tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def test_a_word_longer_than_a_chunk_is_cut_all_the_same(handle):
    embeds = encode_prompts(handle.pipeline, "qzx" * 200, "", guided=False).prompt_embeds
    assert embeds.shape[1] >= 3 * 77


def test_a_short_negative_is_as_long_as_a_long_prompt(handle):
    embeds = encode_prompts(handle.pipeline, "apple " * 100, "blue", guided=True)
    assert embeds.negative_prompt_embeds.shape == embeds.prompt_embeds.shape
    assert embeds.negative_prompt_embeds.abs().max() > 0


def test_weights_move_only_their_own_tokens_along_the_line_from_the_empty_prompt(handle):
    def embed(prompt):
        return encode_prompts(handle.pipeline, prompt, "", guided=False).prompt_embeds

    plain, empty = embed("a red apple"), embed("")
    assert torch.equal(embed("a (red:1.0) apple"), plain)
    ids = handle.pipeline.tokenizer("a red apple").input_ids
    red = ids.index(handle.pipeline.tokenizer("red", add_special_tokens=False).input_ids[0])
    for weight in (0.0, 0.5, 1.5, -1.0):
        weighed = embed(f"a (red:{weight}) apple")
        expected = empty[:, red] + (plain[:, red] - empty[:, red]) * weight
        assert torch.allclose(weighed[:, red], expected, atol=1e-5)
        others = [i for i in range(77) if i != red]
        assert torch.equal(weighed[:, others], plain[:, others])

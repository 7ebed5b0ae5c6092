"""BLIP captions, from a tiny network made up here."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from worker.ml.base_models.device import choose_policy
from worker.ml.captioning.blip import BlipCaptioner, CaptionerUnavailable
from worker.ml.captioning.captioner import normalise

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS = [*SPECIAL, "a", "red", "green", "blue", "apple", "leaf", "sky", "."]
NAMES = {"a red apple .": "red", "a green leaf .": "green", "a blue sky .": "blue"}


def picture(colour: str, side: int = 48) -> Image.Image:
    return Image.new("RGB", (side, side + 16), colour)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP that has learnt three colours, saved as a real one is."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    vocab = {word: i for i, word in enumerate(WORDS)}
    tokenizer = BertTokenizerFast(vocab=vocab, additional_special_tokens=["[DEC]", "[ENC]"])
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {
        **shared,
        "num_hidden_layers": 1,
        "encoder_hidden_size": 32,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 32,
        "bos_token_id": vocab["[DEC]"],
        "eos_token_id": vocab["[SEP]"],
        "sep_token_id": vocab["[SEP]"],
        "pad_token_id": vocab["[PAD]"],
    }
    vision = {**shared, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    torch.manual_seed(4)
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    network = BlipForConditionalGeneration(config)
    images = [picture(colour) for colour in NAMES.values()]
    pixels = processor(images=images, return_tensors="pt").pixel_values
    tokens = tokenizer(list(NAMES), return_tensors="pt").input_ids
    tokens[:, 0] = vocab["[DEC]"]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        network(pixel_values=pixels, input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    for part in (tokenizer, processor, network):
        part.save_pretrained(folder)
    return folder


def load(folder: Path, **options: int) -> BlipCaptioner:
    return BlipCaptioner.load(
        str(folder), None, choose_policy("cpu"), **{"max_new_tokens": 8, **options}
    )


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_each_picture_gets_its_own_caption_in_order_whatever_the_batch(
    folder, num_beams, batch_size
):
    captioner = load(folder, num_beams=num_beams, batch_size=batch_size)
    colours = ["blue", "red", "red", "green", "blue"]
    captions = captioner.caption([picture(c, 40 + 8 * i) for i, c in enumerate(colours)])
    assert captions == ["a blue sky", "a red apple", "a red apple", "a green leaf", "a blue sky"]


def test_a_caption_is_no_longer_than_the_limit(folder):
    assert load(folder, max_new_tokens=2).caption([picture("red")]) == ["a red"]


def test_no_pictures_no_captions(folder):
    assert load(folder).caption([]) == []


def test_any_mode_is_read_and_transparency_is_seen_on_white(folder, monkeypatch):
    captioner = load(folder)
    assert (
        captioner.caption([picture("red").convert(mode) for mode in ("P", "RGBA", "CMYK")])
        == ["a red apple"] * 3
    )
    seen = []
    real = captioner._image_processor
    monkeypatch.setattr(
        captioner,
        "_image_processor",
        lambda images, **kw: seen.extend(images) or real(images, **kw),
    )
    captioner.caption([Image.new("RGBA", (48, 48), (255, 0, 0, 0))])
    assert seen[0].getpixel((20, 20)) == (255, 255, 255)


def test_a_folder_without_a_captioner_is_named(tmp_path):
    with pytest.raises(CaptionerUnavailable, match=str(tmp_path)):
        load(tmp_path)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [(" A  Red\nApple. ", "a red apple"), ("dog . ", "dog"), ("mr. cat", "mr. cat"), ("", "")],
)
def test_normalise(raw, clean):
    assert normalise(raw) == clean

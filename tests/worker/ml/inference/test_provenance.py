"""What a finished picture tells about itself."""

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from worker.ml.inference.provenance import (
    DIGITAL_SOURCE_TYPE,
    RECEIPT_NAMESPACE,
    Receipt,
    encode_image,
    make_receipt,
    parameters_text,
)
from worker.ml.inference.spec import LoraSpec

NASTY = 'a <b>&amp; "q" \x07 \x00 ]]> – 日本 🍎 </rdf:li>'


@pytest.fixture
def receipt(make_spec):
    lora = LoraSpec(id="lora_x", path="/secret/place", sha256="c" * 64, weight=0.7)
    spec = make_spec(prompt=NASTY, negative_prompt="blurred", loras=(lora,), seeds=(3, 4))
    return make_receipt(spec, 4, base_model_sha256="b" * 64, device="cpu", dtype="float32")


def _picture():
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _xmp(image):
    if image.format == "PNG":
        return image.text["XML:com.adobe.xmp"].encode()
    return image.info["xmp"]


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_mark_receipt_and_parameters_read_back(receipt, image_format):
    data = encode_image(_picture(), image_format, receipt)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == image_format.upper()

    tree = ET.fromstring(_xmp(image))
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert [node.text for node in tree.iter(iptc)] == [DIGITAL_SOURCE_TYPE]
    packed = next(tree.iter(f"{{{RECEIPT_NAMESPACE}}}receipt")).text
    assert Receipt.model_validate_json(packed) == receipt

    if image_format == "png":
        text = image.text["parameters"]
        assert Receipt.model_validate_json(image.text["lorawright"]) == receipt
    else:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        text = comment[8:].decode("utf-16-be")
    assert text == parameters_text(receipt)
    assert "🍎" in text


def test_png_pixels_survive_to_the_bit(receipt):
    data = encode_image(_picture(), "png", receipt)
    assert Image.open(io.BytesIO(data)).convert("RGB").tobytes() == _picture().tobytes()


def test_the_receipt_holds_all_that_decides_the_pixels_and_no_place(receipt, make_spec):
    told = json.loads(receipt.model_dump_json())
    decided = set(type(make_spec()).model_fields) - {"seeds", "base_model", "init_image"}
    decided -= {"mask_image", "previews"}
    assert decided <= told.keys()
    assert told["seed"] == 4
    assert told["base_model_sha256"] == "b" * 64
    assert told["loras"] == [
        {"id": "lora_x", "sha256": "c" * 64, "weight": 0.7, "start": 0.0, "end": 1.0}
    ]
    assert told["versions"]["torch"].startswith("2.")
    assert "/" not in receipt.model_dump_json().replace("<\\/", "").replace("</", "")


def test_parameters_are_written_as_other_programs_read_them(make_spec):
    receipt = make_receipt(
        make_spec(negative_prompt="blurred"),
        1,
        base_model_sha256="b" * 64,
        device="cpu",
        dtype="float32",
    )
    first, second, third = parameters_text(receipt).split("\n")
    assert first == "a red apple"
    assert second == "Negative prompt: blurred"
    assert third.startswith(
        "Steps: 6, Sampler: euler, CFG scale: 4.0, Seed: 1, Size: 64x64, Model: emoji-64, "
        "Model hash: bbbbbbbbbb"
    )


def test_the_longest_prompts_fit_into_a_jpeg(make_spec):
    spec = make_spec(prompt="🍎&" * 2000, negative_prompt="🍎<" * 2000)
    receipt = make_receipt(spec, 1, base_model_sha256="b" * 64, device="cpu", dtype="float32")
    assert Image.open(io.BytesIO(encode_image(_picture(), "jpeg", receipt))).format == "JPEG"

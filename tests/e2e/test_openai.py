"""OpenAI's own Python client, pointed at our address, over a real socket."""

import base64
import io
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from PIL import Image

from tests.serving import serving


@pytest.fixture(scope="module")
def openai_client(service) -> Iterator[openai.OpenAI]:
    """The API in a process of its own; the service's worker draws."""
    key = service.client.headers["Authorization"].removeprefix("Bearer ")
    with (
        serving() as address,
        openai.OpenAI(api_key=key, base_url=f"{address}/v1", max_retries=0) as client,
    ):
        yield client


def test_a_picture_comes_as_base64_in_the_asked_size_and_format(openai_client):
    answer = openai_client.images.generate(
        model="emoji-64",
        prompt="a red apple",
        n=2,
        size="64x96",
        response_format="b64_json",
        output_format="webp",
        extra_body={"seed": 7, "steps": 6},
    )
    pictures = [Image.open(io.BytesIO(base64.b64decode(item.b64_json))) for item in answer.data]
    assert [(picture.size, picture.format) for picture in pictures] == [((64, 96), "WEBP")] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert answer.output_format == "webp"
    assert abs(answer.created - time.time()) < 120


def test_a_picture_comes_as_an_address_unless_asked_otherwise(openai_client):
    answer = openai_client.images.generate(
        prompt="a blue car", size="auto", extra_body={"steps": 4}
    )
    picture = Image.open(io.BytesIO(httpx.get(answer.data[0].url).content))
    assert picture.size == (64, 64)


def test_a_lora_is_a_model(openai_client, short):
    def drawn(model: str) -> bytes:
        answer = openai_client.images.generate(
            model=model,
            prompt="red heart, inkstyle",
            response_format="b64_json",
            extra_body={"seed": 3, "steps": 8},
        )
        return base64.b64decode(answer.data[0].b64_json)

    assert drawn(short.lora) == drawn("sketch:1.0")
    assert drawn(f"{short.lora}:0.3") != drawn(short.lora)
    listed = {model.id for model in openai_client.models.list()}
    assert {"emoji-64", short.lora} <= listed


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"size": "65x64"}, "width", "65 px is not a multiple of 8"),
        ({"size": "8x8"}, "size", "least is 32"),
        ({"n": 9}, "n", "less than or equal to 8"),
        ({"quality": "hd"}, "quality", "auto"),
        ({"prompt": "x" * 4001}, "prompt", "4001 characters"),
    ],
)
def test_a_wrong_value_is_the_clients_own_error(openai_client, fields, param, words):
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        openai_client.images.generate(**{"prompt": "a fox", **fields})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_a_model_that_there_is_not_is_the_clients_own_error(openai_client):
    with pytest.raises(openai.NotFoundError, match="GET /v1/models") as refused:
        openai_client.images.generate(prompt="a fox", model="dall-e-3")
    assert refused.value.param == "model"


def test_a_wrong_key_is_the_clients_own_error(openai_client):
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="lw_live_wrong").images.generate(prompt="a fox")

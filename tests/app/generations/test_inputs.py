"""Pictures to start from: sent, pointed at, or carried in the request."""

import base64
import io

import pytest
from PIL import Image

from app.storage import get_store
from tests.pictures import picture


def png(size=(64, 48), **info) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "png", **info)
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def upload(client, data: bytes, name: str = "start.png"):
    return client.post("/v1/inputs", files={"file": (name, data, "image/png")})


def submit(client, **fields):
    return client.post("/v1/generations", json={"prompt": "a fox", **fields})


def test_a_picture_is_kept_upright_and_without_metadata(client):
    turned = Image.new("RGB", (64, 32), (200, 30, 30))
    turned.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    exif[0x010E] = "taken at home"
    buffer = io.BytesIO()
    turned.save(buffer, "png", exif=exif.tobytes())
    answer = upload(client, buffer.getvalue())
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told["id"].startswith("up_")
    assert (told["width"], told["height"]) == (32, 64)
    assert client.get(f"/v1/inputs/{told['id']}").json()["sha256"] == told["sha256"]
    frozen = submit(client, init_image=told["id"]).json()["request"]["init_image"]
    stored = get_store().get_bytes(frozen["object_key"])
    image = Image.open(io.BytesIO(stored))
    assert image.getpixel((31, 0)) == (0, 0, 255)
    assert not image.getexif()
    assert b"at home" not in stored


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a"),
        (b"not a picture", "not a"),
        (png()[:60], "decode"),
        (png((8, 8)), "at least 16 px"),
    ],
)
def test_what_is_no_usable_picture_is_refused_and_not_kept(client, data, words):
    for answer, field in (
        (upload(client, data, "x.png"), "/x.png"),
        (submit(client, init_image=data_url(data)), "/init_image"),
    ):
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "image_unusable"
        assert words in answer.json()["detail"]
        assert answer.json()["errors"][0]["pointer"] == field
    assert client.get("/v1/jobs").json()["data"] == []


def test_every_way_to_point_at_a_picture_is_frozen_as_an_object(client, make_dataset):
    sent = upload(client, png()).json()
    dataset = make_dataset(pictures=1)
    of_dataset = client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"]
    for reference in (sent["id"], of_dataset, data_url(png())):
        answer = submit(client, init_image=reference, mask_image=sent["id"], strength=0.5)
        assert answer.status_code == 201, answer.text
        request = answer.json()["request"]
        assert len(request["init_image"]["sha256"]) == 64
        assert get_store().get_bytes(request["init_image"]["object_key"])
        assert request["mask_image"]["ref"] == sent["id"]
        # The bytes are in storage, not in the row.
        assert len(str(request)) < 2000


def test_another_accounts_pictures_do_not_exist(client, other_client, make_dataset):
    sent = upload(client, png()).json()["id"]
    dataset = make_dataset(pictures=1)
    of_dataset = client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"]
    for reference in (sent, of_dataset, "up_none", "img_none", "gen_none/0"):
        answer = submit(other_client, init_image=reference)
        assert answer.status_code == 404, answer.text
    assert other_client.get(f"/v1/inputs/{sent}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"init_image": "https://example.com/a.png"}, "/init_image", "up_…"),
        ({"init_image": "data:text/plain;base64,aGk="}, "/init_image", "data:image"),
        ({"init_image": "data:image/png;base64,%%%"}, "/init_image", "data: URL"),
        ({"mask_image": "up_x"}, "/mask_image", "init_image"),
        ({"init_image": "up_x", "strength": 0.01}, "/strength", "0.01 of 20 steps"),
        ({"init_image": "up_x", "mask_image": "up_x", "hires": {}}, "/hires", "exclude"),
        ({"hires": {"scale": 4.0, "strength": 0.5}, "width": 128}, "/hires/scale", "512 px"),
        ({"hires": {"scale": 5}}, "/hires/scale", "4"),
        ({"loras": [{"lora": "x", "start": 0.5, "end": 0.5}]}, "/loras/0", "start"),
        ({"loras": [{"lora": "x", "weight": {"unet": 3}}]}, "/loras/0/weight/unet", "2"),
        (
            {"loras": [{"lora": "x", "weight": {"blocks": {"vae": 1}}}]},
            "/loras/0/weight/blocks/vae",
            "pattern",
        ),
    ],
)
def test_what_cannot_be_is_named(client, fields, pointer, words):
    answer = submit(client, **fields)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert pointer in {error["pointer"] for error in problem["errors"]}, problem
    assert words in str(problem)


def test_a_request_with_a_picture_may_be_larger_than_others(client):
    noise = picture(1, width=900, height=900)
    url = data_url(noise)
    assert len(url) > 1024 * 1024
    assert submit(client, init_image=url).status_code == 201
    answer = client.post("/v1/trainings", json={"name": url})
    assert answer.status_code == 413
    huge = submit(client, init_image="data:image/png;base64," + "A" * (33 * 1024 * 1024))
    assert huge.status_code == 413
    assert "LORAWRIGHT_MAX_PICTURE_BODY_BYTES" in huge.json()["detail"]


def test_requests_that_may_share_a_batch_have_one_key(client):
    from app.database import transaction
    from app.jobs.models import Job

    same = [{}, {"prompt": "a car", "seed": 3, "num_images": 2}]
    other = [{"steps": 5}, {"width": 96}, {"guidance_scale": 2}, {"hires": {}}]
    alone = [{"init_image": data_url(png())}]
    ids = [submit(client, **fields).json()["id"] for fields in same + other + alone]
    with transaction() as session:
        keys = [session.get_one(Job, job_id).batch_key for job_id in ids]
        assert session.get_one(Job, ids[1]).batch_size == 2
    assert keys[0] == keys[1]
    assert len(set(keys[1:6])) == 5
    assert keys[6] is None

"""What of OpenAI's images API needs no worker."""

from app.settings import Settings


def test_what_is_not_drawn_in_time_is_canceled_and_said_so(client, monkeypatch):
    monkeypatch.setattr(
        "app.openai_images.routes.get_settings", lambda: Settings(openai_wait_seconds=0.2)
    )
    answer = client.post("/v1/images/generations", json={"prompt": "a fox"})
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "picture_late"
    assert "LORAWRIGHT_OPENAI_WAIT_SECONDS" in error["message"]
    (job,) = client.get("/v1/jobs").json()["data"]
    assert job["id"] in error["message"]
    assert job["status"] == "canceled"


def test_errors_have_openais_shape_here_and_ours_elsewhere(client):
    theirs = client.post("/v1/images/generations", json={})
    assert theirs.status_code == 400
    assert set(theirs.json()["error"]) == {"message", "type", "param", "code"}
    assert theirs.json()["error"]["param"] == "prompt"
    ours = client.post("/v1/generations", json={})
    assert ours.status_code == 422
    assert ours.json()["code"] == "invalid_request"


def test_another_accounts_lora_is_no_model(client, other_client):
    from tests.app.generations.test_submission import make_lora

    lora = make_lora("ink")
    listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert lora in listed
    listed = [model["id"] for model in other_client.get("/v1/models").json()["data"]]
    assert lora not in listed
    answer = other_client.post("/v1/images/generations", json={"prompt": "a fox", "model": lora})
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"

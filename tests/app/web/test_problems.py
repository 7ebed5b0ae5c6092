"""Every error answers in one shape, and says what would work."""

import pytest


def check_problem(answer, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {
        *("type", "title", "status", "detail", "instance", "code", "retryable", "errors")
    }
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["instance"] == answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    "path",
    [
        "/v1/datasets/ds_none",
        "/v1/trainings/trn_none",
        "/v1/loras/lora_none",
        "/v1/generations/gen_none",
        "/v1/captionings/cap_none",
        "/v1/jobs/trn_none",
        "/v1/jobs/trn_none/events",
        "/v1/trainings/trn_none/spec",
        "/v1/trainings/trn_none/checkpoints",
        "/v1/datasets/ds_none/images",
        "/v1/nothing",
    ],
)
def test_an_unknown_id_or_path_is_a_404(client, path):
    check_problem(client.get(path), 404, "not_found")


def test_a_body_that_is_not_json_is_a_422(client):
    answer = client.post(
        "/v1/datasets", content=b"{not json", headers={"Content-Type": "application/json"}
    )
    check_problem(answer, 422, "invalid_request")


def test_each_wrong_field_has_its_pointer(client):
    answer = client.post("/v1/datasets", json={"name": "", "task": "oil", "colour": 1})
    problem = check_problem(answer, 422, "invalid_request")
    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"/name", "/task", "/trigger_word", "/colour"}


@pytest.mark.parametrize(
    ("weight", "codes"),
    [
        (9, ["less_than_equal"]),
        ("much", ["float_parsing", "model_attributes_type"]),
        ({"unet": 9}, ["less_than_equal"]),
        ({"unet": "much"}, ["float_parsing"]),
        ({"vae": 1}, ["extra_forbidden"]),
    ],
)
def test_a_value_of_several_forms_is_not_told_that_it_should_have_another(client, weight, codes):
    body = {"prompt": "a cat", "loras": [{"lora": "ink", "weight": weight}]}
    problem = check_problem(client.post("/v1/generations", json=body), 422, "invalid_request")
    assert [each["code"] for each in problem["errors"]] == codes


def test_a_wrong_method_is_a_405(client):
    check_problem(client.delete("/v1/jobs"), 405, "method_not_allowed")


def test_without_a_key_or_with_a_wrong_one_it_is_a_401(client):
    for header in ({"Authorization": ""}, {"Authorization": "Bearer lw_live_wrong"}):
        answer = client.get("/v1/datasets", headers=header)
        check_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_an_oversized_body_is_a_413_that_names_the_limit(client):
    answer = client.post("/v1/datasets", json={"name": "x" * (2 * 1024 * 1024)})
    problem = check_problem_without_id(answer, 413, "too_large")
    assert "LORAWRIGHT_MAX_JSON_BODY_BYTES" in problem["detail"]
    assert "1048576" in problem["detail"]


def check_problem_without_id(answer, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    return problem


def test_an_oversized_body_of_unknown_length_is_a_413_as_well(client):
    def chunks():
        for _ in range(40):
            yield b" " * 65536

    answer = client.post(
        "/v1/datasets", content=chunks(), headers={"Content-Type": "application/json"}
    )
    check_problem_without_id(answer, 413, "too_large")


def test_the_clients_request_id_comes_back_and_a_wild_one_does_not(client):
    assert client.get("/livez", headers={"X-Request-Id": "abc"}).headers["x-request-id"] == "abc"
    assert client.get("/livez", headers={"X-Request-Id": "a" * 101}).headers["x-request-id"] != (
        "a" * 101
    )


def test_another_accounts_object_is_a_404_on_every_route(client, other_client, make_dataset):
    dataset_id = make_dataset(pictures=1)
    job = client.post(
        "/v1/trainings", json={"dataset": dataset_id, "name": "x", "base_model": "emoji-64"}
    ).json()
    image = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"][0]["id"]
    for method, path, body in [
        ("GET", f"/v1/datasets/{dataset_id}", None),
        ("GET", f"/v1/datasets/{dataset_id}/images", None),
        ("PATCH", f"/v1/datasets/{dataset_id}/images/{image}", {"excluded": True}),
        ("POST", f"/v1/datasets/{dataset_id}/captionings", {}),
        ("GET", f"/v1/trainings/{job['id']}", None),
        ("GET", f"/v1/trainings/{job['id']}/spec", None),
        ("GET", f"/v1/trainings/{job['id']}/metrics", None),
        ("GET", f"/v1/trainings/{job['id']}/checkpoints", None),
        ("GET", f"/v1/trainings/{job['id']}/events", None),
        ("POST", f"/v1/trainings/{job['id']}/cancel", None),
        ("POST", f"/v1/trainings/{job['id']}/retry", None),
        ("GET", f"/v1/jobs/{job['id']}", None),
        ("POST", "/v1/trainings", {"dataset": dataset_id, "name": "x"}),
    ]:
        check_problem(other_client.request(method, path, json=body), 404, "not_found")
    assert other_client.get("/v1/jobs").json()["data"] == []
    assert client.get(f"/v1/trainings/{job['id']}").json()["status"] == "queued"


def test_lists_go_on_where_they_ended(client, make_dataset):
    made = [make_dataset() for _ in range(5)]
    seen, after = [], None
    while True:
        params = {"limit": 2} | ({"after": after} if after else {})
        page = client.get("/v1/datasets", params=params).json()
        seen += [item["id"] for item in page["data"]]
        after = page["next"]
        if not page["has_more"]:
            break
    assert seen == made[::-1]


def test_readyz_names_each_dependency(client):
    report = client.get("/readyz").json()
    assert report["dependencies"] == {"postgres": "ok", "redis": "ok", "s3": "ok"}

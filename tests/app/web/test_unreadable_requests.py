"""What no JSON reader or database can hold is refused in words, and never ends as a 500."""

import pytest

from tests.app.web.test_problems import check_problem

JSON = {"Content-Type": "application/json"}
DATASET = b'{"name": "%s", "task": "style", "trigger_word": "x"}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"name": "\xff"}', "not UTF-8"),
        (DATASET % rb"a\u0000b", "NUL"),
        (DATASET % rb"a\ud800b", "surrogate"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": -Infinity}', "Infinity"),
        (b"[" * 200_000, "nested"),
        (b'{"a":' * 100_000 + b"NaN", "nested"),
        (b'{"name": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"name": "x"', "JSON decode error"),
        (b"", "Field required"),
    ],
)
def test_a_body_that_cannot_be_held_is_a_422(client, body, told):
    problem = check_problem(
        client.post("/v1/datasets", content=body, headers=JSON), 422, "invalid_request"
    )
    assert told in problem["detail"]


def test_words_that_only_look_like_such_are_taken(client):
    body = DATASET % rb"NaN, Infinity, \\u0000 and \ud83d\ude00"
    answer = client.post("/v1/datasets", content=body, headers=JSON)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "NaN, Infinity, \\u0000 and \N{GRINNING FACE}"


@pytest.mark.parametrize("sent", ["text/plain", "multipart/form-data; boundary=x", None])
def test_json_under_another_name_is_a_415(client, sent):
    answer = client.post(
        "/v1/datasets", content=DATASET % b"x", headers={"Content-Type": sent} if sent else {}
    )
    problem = check_problem(answer, 415, "unsupported_media_type")
    assert "application/json" in problem["detail"]


def test_json_where_a_form_is_taken_is_a_415(client):
    problem = check_problem(
        client.post("/v1/inputs", json={"file": "x"}), 415, "unsupported_media_type"
    )
    assert "multipart/form-data" in problem["detail"]


def test_nul_in_a_path_is_a_404_and_in_a_query_a_422(client):
    check_problem(client.get("/v1/datasets/ds_%00"), 404, "not_found")
    check_problem(client.get("/v1/presets?base_model=%00"), 422, "invalid_request")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "after=x", "after=ds_1", "after=", "after=%FF"]
)
def test_a_wrong_page_is_a_422_that_names_its_parameter(client, query):
    problem = check_problem(client.get(f"/v1/datasets?{query}"), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [f"/query/{query.split('=')[0]}"]


def test_a_page_after_anothers_job_is_a_404_and_after_anothers_dataset_a_position(
    client, other_client, make_dataset
):
    mine = make_dataset(pictures=1)
    answer = other_client.post(
        "/v1/datasets", json={"name": "x", "task": "style", "trigger_word": "x"}
    )
    foreign = answer.json()["id"]
    page = client.get("/v1/datasets", params={"after": foreign}).json()
    assert [item["id"] for item in page["data"]] == [mine]
    job = client.get("/v1/jobs").json()["data"][0]["id"]
    check_problem(other_client.get("/v1/jobs", params={"after": job}), 404, "not_found")


def test_steps_beyond_the_database_are_refused(client):
    check_problem(
        client.get(f"/v1/trainings/trn_{0:032x}/metrics?after={10**30}"), 422, "invalid_request"
    )


def test_an_event_number_beyond_the_database_is_refused(client, make_dataset):
    make_dataset(pictures=1)
    job = client.get("/v1/jobs").json()["data"][0]["id"]
    for headers, query in (({"Last-Event-ID": "9" * 30}, ""), ({}, f"?after={10**30}")):
        answer = client.get(f"/v1/jobs/{job}/events{query}", headers=headers)
        check_problem(answer, 422, "invalid_request")


def test_a_number_is_no_day(client):
    problem = check_problem(client.get("/v1/usage?to=0"), 422, "invalid_request")
    assert "such as 2026-01-31" in problem["detail"]
    assert client.get("/v1/usage?to=2026-01-31").status_code == 200

"""HEAD is GET without a body, OPTIONS tells what there is, and 405 tells all of it."""

import re

from tests.app.web.test_problems import check_problem


def test_head_is_get_without_the_body(client, make_dataset):
    path = f"/v1/datasets/{make_dataset()}"
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert client.head("/v1/datasets/ds_none").status_code == 404


def test_options_names_the_methods_of_a_path(client):
    answer = client.options("/v1/datasets", headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert client.options("/v1/nothing").status_code == 404


def test_a_405_names_every_method_of_its_path(client):
    answer = client.delete("/v1/datasets")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_an_endless_stream_has_no_head(client):
    answer = client.head("/v1/jobs/trn_none/events")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, OPTIONS"


def test_no_two_paths_differ_in_the_names_of_their_parameters_alone(client):
    paths = list(client.app.openapi()["paths"])
    assert len({re.sub(r"{\w+}", "{}", path) for path in paths}) == len(paths)
    assert client.options("/v1/trainings/trn_none").headers["allow"] == (
        "DELETE, GET, HEAD, OPTIONS"
    )

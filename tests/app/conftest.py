"""What API tests begin with: a dataset."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.pictures import picture

MakeDataset = Callable[..., str]


@pytest.fixture
def make_dataset(client: TestClient) -> MakeDataset:
    """Create a dataset with so many pictures; its id."""

    def make(pictures: int = 0, **fields: Any) -> str:
        request = {"name": "ink", "task": "style", "trigger_word": "inkstyle", **fields}
        answer = client.post("/v1/datasets", json=request)
        assert answer.status_code == 201, answer.text
        dataset_id: str = answer.json()["id"]
        if pictures:
            files = [("files", (f"{n}.png", picture(n), "image/png")) for n in range(pictures)]
            answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
            assert answer.status_code == 201, answer.text
        return dataset_id

    return make

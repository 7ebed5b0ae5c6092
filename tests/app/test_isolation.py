"""Another account's object answers 404 on every route, and no query of a request can see it."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import aliased
from starlette.testclient import TestClient

from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import new_id, transaction
from app.datasets.models import Dataset, Image
from app.isolation import acting_for, owned, unknown_caller
from app.jobs.models import Job
from app.tables import metadata
from app.trainings.models import Checkpoint
from tests.app.conftest import MakeDataset
from tests.app.loras.test_lora_tools import make_lora
from tests.pictures import picture

# What a valid request to an operation has for a body; the others need none.
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /v1/datasets/{dataset_id}": {"json": {"name": "mine now"}},
    "POST /v1/datasets/{dataset_id}/captionings": {"json": {}},
    "POST /v1/datasets/{dataset_id}/captions": {"json": {"prefix": "mine "}},
    "POST /v1/datasets/{dataset_id}/images": {
        "files": [("files", ("new.png", picture(9), "image/png"))]
    },
    "PATCH /v1/datasets/{dataset_id}/images/{image_id}": {"json": {"excluded": True}},
    "POST /v1/datasets/{dataset_id}/uploads": {"json": {"filename": "a.zip", "size": 10}},
    "POST /v1/trainings/{training_id}/checkpoints/{checkpoint_id}/publish": {
        "json": {"name": "mine"}
    },
    "PATCH /v1/webhooks/{webhook_id}": {"json": {"description": "mine now"}},
    "PATCH /v1/loras/{lora_id}": {"json": {"name": "mine now"}},
}
# Tables whose rows are no account's.
SHARED = {"workers", "job_totals", "sweeper"}

Ids = dict[str, str]


@pytest.fixture
def ids(client: TestClient, make_dataset: MakeDataset) -> Ids:
    """One object of each kind, of the customer; by the word before its id in a path."""

    def post(path: str, body: Any) -> str:
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code in (201, 202), answer.text
        made: str = answer.json()["id"]
        return made

    dataset = make_dataset(pictures=1)
    lora = make_lora()
    training = post("trainings", {"dataset": dataset, "name": "ink", "base_model": "emoji-64"})
    sent = client.post("/v1/inputs", files={"file": ("a.png", picture(3), "image/png")})
    with transaction() as session:
        checkpoint = Checkpoint(
            id=new_id("ckpt"),
            training_id=training,
            epoch=1,
            step=1,
            object_key="stored/there",
            sha256="0" * 64,
            bytes=1,
            file_metadata={},
            samples=[],
            recommended=False,
        )
        session.add(checkpoint)
    generation = post("generations", {"prompt": "a fox"})
    key = post("api-keys", {"name": "laptop"})
    webhook = post("webhooks", {"url": "https://93.184.215.14/", "events": ["*"]})
    delivery = post(f"webhooks/{webhook}/test", None)
    return {
        "datasets": dataset,
        "images": client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"],
        "uploads": post(f"datasets/{dataset}/uploads", {"filename": "a.zip", "size": 10}),
        "captionings": post(f"datasets/{dataset}/captionings", {}),
        "trainings": training,
        "checkpoints": checkpoint.id,
        "loras": lora,
        "lora-tools": post("lora-tools", {"operation": "resize", "lora": lora, "rank": 2}),
        "generations": generation,
        "comparisons": post(
            "comparisons", {"prompt": "a fox", "axes": [{"name": "seed", "values": [1, 2]}]}
        ),
        "inputs": sent.json()["id"],
        "jobs": generation,
        "api-keys": key,
        "webhooks": webhook,
        "deliveries": delivery,
    }


def operations(client: TestClient, ids: Ids) -> Iterator[tuple[str, str, str]]:
    """Method, path as documented and path with ids, of all that take an id."""
    described = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    for path, methods in described.items():
        # Operators' routes are refused to every customer, whatever the id.
        if "{" not in path or path.startswith("/v1/admin/"):
            continue
        words = path.split("/")
        filled = [
            ids[words[n - 1]] if word.startswith("{") else word for n, word in enumerate(words)
        ]
        for method in methods:
            yield method.upper(), path, "/".join(filled)


def ask(client: TestClient, method: str, path: str, filled: str) -> int:
    return client.request(method, filled, **BODIES.get(f"{method} {path}", {})).status_code


def test_every_route_with_anothers_id_answers_404(
    client: TestClient, other_client: TestClient, ids: Ids
) -> None:
    found = list(operations(client, ids))
    assert len(found) > 40
    theirs = {f"{m} {path}": ask(other_client, m, path, filled) for m, path, filled in found}
    assert theirs == dict.fromkeys(theirs, 404)

    # The very same requests find something when its owner sends them.
    def turn(operation: tuple[str, str, str]) -> tuple[bool, bool, bool, int]:
        method, path, _ = operation
        # What streams until a job ends comes after what cancels it; what is deleted goes last,
        # the parts before the whole.
        return method == "DELETE", path.endswith("/events"), method != "GET", -len(path)

    found.sort(key=turn)
    own = {f"{m} {path}": ask(client, m, path, filled) for m, path, filled in found}
    missed = {name for name, status in own.items() if status in (404, 422)}
    assert missed == set()


def test_anothers_ids_in_bodies_and_queries_answer_404(
    client: TestClient, other_client: TestClient, ids: Ids, subtests: pytest.Subtests
) -> None:
    fox = {"prompt": "a fox"}
    own = other_client.post(
        "/v1/datasets", json={"name": "own", "task": "style", "trigger_word": "own"}
    ).json()["id"]
    other_client.post(
        f"/v1/datasets/{own}/images", files=[("files", ("1.png", picture(1), "image/png"))]
    )
    training = {"dataset": own, "name": "x", "base_model": "emoji-64"}
    axis = {"name": "checkpoint", "values": [ids["checkpoints"]]}
    for path, body in (
        ("trainings", {**training, "dataset": ids["datasets"]}),
        ("trainings?dry_run=true", {**training, "dataset": ids["datasets"]}),
        ("trainings", {**training, "from_lora": ids["loras"]}),
        ("generations", {**fox, "loras": [{"lora": ids["loras"], "weight": 1}]}),
        ("generations", {**fox, "loras": [{"lora": ids["checkpoints"], "weight": 1}]}),
        ("generations", {"prompt": f"a fox <lora:{ids['loras']}:1>"}),
        ("generations?dry_run=true", {**fox, "loras": [{"lora": ids["loras"], "weight": 1}]}),
        ("generations", {**fox, "init_image": ids["inputs"]}),
        ("generations", {**fox, "init_image": ids["images"]}),
        ("comparisons", {**fox, "axes": [axis]}),
        ("comparisons", {**fox, "axes": [{"name": "lora", "values": [ids["loras"]]}]}),
        ("images/generations", {**fox, "model": ids["loras"]}),
        ("lora-tools", {"operation": "resize", "lora": ids["loras"], "rank": 2}),
        ("lora-tools", {"operation": "merge", "loras": [{"lora": ids["loras"]}]}),
    ):
        with subtests.test(path, body=body):
            assert other_client.post(f"/v1/{path}", json=body).status_code == 404
            # Its owner would be kept waiting for the picture.
            if path != "images/generations":
                own_set = {"dataset": ids["datasets"]} if "dataset" in body else {}
                answer = client.post(f"/v1/{path}", json=body | own_set)
                assert answer.status_code not in (404, 500)
    for path, kind in (
        ("jobs", "generations"),
        ("generations", "generations"),
        ("trainings", "trainings"),
        ("comparisons", "comparisons"),
        ("lora-tools", "lora-tools"),
    ):
        with subtests.test(path):
            params = {"after": ids[kind]}
            assert other_client.get(f"/v1/{path}", params=params).status_code == 404
            assert client.get(f"/v1/{path}", params=params).status_code == 200


def test_lists_show_an_account_its_own(
    client: TestClient, other_client: TestClient, ids: Ids
) -> None:
    described = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    lists = [
        path
        for path, methods in described.items()
        if "{" not in path
        and not path.startswith("/v1/admin/")
        and any(p["name"] == "after" for p in methods.get("get", {}).get("parameters", ()))
    ]
    assert {"/v1/datasets", "/v1/jobs", "/v1/loras"} <= set(lists)
    for path in lists:
        assert client.get(path).json()["data"], path
        assert not any(identifier in other_client.get(path).text for identifier in ids.values()), (
            path
        )


def test_it_can_be_told_of_every_table_whose_its_rows_are() -> None:
    for table in metadata.sorted_tables:
        if table.name not in SHARED:
            owned(table)


@pytest.fixture
def two(clean: EmbeddedServers) -> tuple[str, str]:  # noqa: ARG001 (order)
    """Two accounts, each with a dataset of one image."""
    with transaction() as session:
        names = [accounts.create_account(session, name).id for name in ("first", "second")]
        for account_id in names:
            dataset = Dataset(
                id=new_id("ds"),
                account_id=account_id,
                name=account_id,
                task="style",
                trigger_word="x",
                caption_template="{caption}",
            )
            session.add(dataset)
            session.flush()
            session.add(
                Image(
                    id=new_id("img"),
                    dataset_id=dataset.id,
                    filename="1.png",
                    width=8,
                    height=8,
                    format="png",
                    object_key=account_id,
                    sha256="0" * 64,
                    bytes=5,
                )
            )
    return names[0], names[1]


def test_a_query_that_forgets_the_account_sees_only_the_callers_rows(two: tuple[str, str]) -> None:
    first, second = two
    with transaction() as session:
        everything = select(Dataset.id)
        assert len(session.scalars(everything).all()) == 2
        theirs = session.scalars(select(Dataset).where(Dataset.account_id == second)).one().id
        of_theirs = session.scalars(select(Image.id).where(Image.dataset_id == theirs)).one()
    with acting_for(first), transaction() as session:
        assert session.scalars(select(Dataset.account_id)).all() == [first]
        assert session.get(Dataset, theirs) is None
        # Whose an image is follows from its dataset.
        assert session.get(Image, of_theirs) is None
        other_name = aliased(Image)
        assert session.scalars(select(other_name.object_key)).all() == [first]
        assert session.scalars(select(func.max(Image.object_key))).one() == first
    with acting_for(second), transaction() as session:
        assert session.get(Image, of_theirs) is not None


def test_what_is_changed_or_deleted_is_the_callers(two: tuple[str, str]) -> None:
    first, second = two
    with acting_for(first), transaction() as session:
        session.execute(update(Dataset).values(name="changed"))
        session.execute(delete(Image))
    with transaction() as session:
        names = {row.account_id: row.name for row in session.scalars(select(Dataset))}
        assert names == {first: "changed", second: second}
        assert session.scalars(select(Image.object_key)).all() == [second]


@pytest.mark.usefixtures("clean")
def test_a_request_reads_nothing_before_its_key_is_known() -> None:
    with (
        unknown_caller(),
        transaction() as session,
        pytest.raises(RuntimeError, match="read Job before its key was known"),
    ):
        session.get(Job, "gen_x")

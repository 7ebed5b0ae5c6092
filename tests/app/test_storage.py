"""Bytes come back from storage as they went in, whatever their size."""

from pathlib import Path

import pytest

from app.cli.embedded import EmbeddedServers
from app.errors import NotFound, StorageUnavailable
from app.storage import make_store
from tests.faults.harness.proxy import Mode, S3Proxy

# Above and below the size at which boto3 sends a file in parts.
SIZES = [0, 1, 3715, 9 * 1024 * 1024]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_back_as_it_was_stored(
    servers: EmbeddedServers, tmp_path: Path, size: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(index % 251 for index in range(size)))
    store = make_store(servers.settings())
    store.put_file(f"test/{size}", source, "application/octet-stream")
    store.get_file(f"test/{size}", target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_missing_object_is_not_found_and_leaves_no_file(
    servers: EmbeddedServers, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="test/none"):
        make_store(servers.settings()).get_file("test/none", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["refuse", "unavailable", "cut"])
def test_a_server_that_fails_is_storage_that_is_away_whatever_is_asked(
    embedded_servers: EmbeddedServers, tmp_path: Path, mode: Mode
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(100))
    make_store(embedded_servers.settings()).put_file(
        "test/there", source, "application/octet-stream"
    )
    with S3Proxy(embedded_servers.state.ports["s3"]) as s3:
        told = embedded_servers.settings()
        store = make_store(
            told.model_copy(update={"s3_endpoint_url": f"http://127.0.0.1:{s3.port}"})
        )
        s3.mode = mode
        with pytest.raises(StorageUnavailable):
            store.put_file("test/away", source, "application/octet-stream")
        with pytest.raises(StorageUnavailable):
            store.get_file("test/there", target)
        s3.mode = "pass"
        store.get_file("test/there", target)
        assert target.read_bytes() == source.read_bytes()
    assert s3.disturbed > 1

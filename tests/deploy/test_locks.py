"""The locks are those of pyproject.toml, whole, and each image gets what is its own."""

import re

import pytest

from tools.lock import LOCKS, locks, pins

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> dict[str, str]:
    """Package to version, with its local part, of one lock."""
    entries = re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)", (LOCKS / name).read_text(), re.M)
    return dict(entries)


def normal(name: str) -> str:
    """A requirement's name as indexes write it: `psycopg[binary]` is psycopg."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


@pytest.mark.parametrize("name", locks())
def test_each_package_has_a_version_and_hashes_and_no_address(name: str) -> None:
    text = (LOCKS / name).read_text()
    entries = [
        entry for entry in text.replace("\\\n", " ").splitlines() if not entry.startswith("#")
    ]
    bare = [entry for entry in entries if "==" not in entry or not HASH.search(entry)]
    assert entries
    assert bare == []
    assert re.search(r"://|^-|@", text, re.M) is None


@pytest.mark.parametrize("name", ["api.txt", "worker-cuda.txt", "worker-cpu.txt"])
def test_pins_are_those_of_pyproject(name: str) -> None:
    wanted = pins() | pins("tracing") | (pins("worker") if name.startswith("worker") else {})
    found = {package: version.partition("+")[0] for package, version in locked(name).items()}
    assert {package: found.get(normal(package)) for package in wanted} == wanted, "run `make locks`"


def test_the_api_gets_nothing_of_a_worker() -> None:
    heavy = re.compile(
        r"torch|diffusers|transformers|accelerate|peft|safetensors|nvidia-|cuda|triton"
    )
    assert [package for package in locked("api.txt") if heavy.match(package)] == []


def test_api_and_workers_run_the_same_versions() -> None:
    api = locked("api.txt")
    for name in ("worker-cuda.txt", "worker-cpu.txt"):
        worker = locked(name)
        # Only other operating systems need these.
        differing = {p: (v, worker.get(p)) for p, v in api.items() if worker.get(p) != v}
        assert set(differing) <= {"colorama", "tzdata"}, differing


def test_only_the_gpu_gets_cuda() -> None:
    cpu, cuda = locked("worker-cpu.txt"), locked("worker-cuda.txt")
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    # nvidia-ml-py only asks a driver, where there is one.
    gpu = [p for p in cpu if p.startswith(("nvidia-", "cuda-", "triton")) and p != "nvidia-ml-py"]
    assert gpu == []
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= set(cuda)


def test_what_builds_the_package_agrees_with_what_torch_needs() -> None:
    # One pip run installs both files.
    (setuptools,) = locked("build.txt").values()
    for name in ("worker-cuda.txt", "worker-cpu.txt"):
        assert locked(name)["setuptools"] == setuptools

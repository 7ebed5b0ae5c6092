"""Write docs/dependencies.md: every package of the images, its licence, and why it is there.

    python -m tools.make_dependencies

Versions come from the locks, licences from the metadata of what is installed here. What is only
installed on a machine with CUDA is listed by name. tests/test_dependencies.py fails where the page
is no longer what this writes.
"""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from tools.lock import pins

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "dependencies.md"
LOCKED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)(?: ; ([^\\]+))?", re.M)
PINNED = re.compile(r'^ +"([A-Za-z0-9._-]+)(?:\[\w+\])?==[^"]+",\s*# (.+)$', re.M)
# Whose metadata tells none; read from the licence file that the package carries.
READ = {"torchao": "BSD-3-Clause"}
# What older metadata calls a licence, and SPDX. Of "BSD License" nobody knows which.
NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
HEAD = """\
# Dependencies

What the images hold besides Python and the system: every package, its licence as its own metadata
tells it, and, for those that `pyproject.toml` asks for, why it is there. The others are what these
need. Exact files, with their hashes, are in `deploy/locks/`; `make sbom` writes them down as
CycloneDX documents, and `make audit` asks for known vulnerabilities.

Development has some more, each with its reason in `pyproject.toml`; they are in no image.

This page is written by `python -m tools.make_dependencies`.
"""
WORKER_HEAD = """
## A worker has besides

torch is the build without CUDA on a machine without a GPU; its licence is the same.
"""
CUDA_HEAD = """
## A worker with a GPU has besides

These come with torch. NVIDIA's are proprietary: free to use and to redistribute within an
application, under the licences of the CUDA Toolkit, cuDNN and NCCL that each package carries.
Look at them before you give an image with CUDA to others.

"""
CLASSIFIER = "License :: OSI Approved :: "


def page() -> str:
    """The whole page."""
    asked_for = [name.partition("[")[0] for name in (*pins(), *pins("worker"))]
    told = dict(PINNED.findall((REPOSITORY / "pyproject.toml").read_text()))
    reasons = {normal(name): told[name] for name in asked_for}
    api, cpu, cuda = (locked(f"{name}.txt") for name in ("api", "worker-cpu", "worker-cuda"))
    lines = [HEAD, "## The API, and every worker\n", *_table(api, reasons), WORKER_HEAD]
    lines += _table({name: cpu[name] for name in cpu if name not in api}, reasons)
    only_cuda = [name for name in cuda if name not in cpu and name not in api]
    lines += [CUDA_HEAD + ", ".join(f"`{name}` {cuda[name]}" for name in only_cuda) + "."]
    return "\n".join(lines) + "\n"


def locked(name: str) -> dict[str, str]:
    """Package to version of one lock, for Linux; without local parts."""
    text = (REPOSITORY / "deploy" / "locks" / name).read_text()
    return {
        package: version.partition("+")[0]
        for package, version, marker in LOCKED.findall(text)
        if "'win32'" not in marker and "== 'emscripten'" not in marker
    }


def normal(name: str) -> str:
    """A name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: str) -> str:
    """An installed package's licence, in as few words as its metadata allows.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    told: Message = metadata(package)  # type: ignore[assignment]
    if package in READ:
        return READ[package]
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        value.removeprefix(CLASSIFIER)
        for value in told.get_all("Classifier", [])
        if value.startswith(CLASSIFIER)
    ]
    if classifiers:
        return ", ".join(NAMES.get(name, name) for name in classifiers)
    # Some put the whole text there; its first line is its name, where it has one.
    lines = str(told.get("License") or "").strip().splitlines()
    return NAMES.get(lines[0], lines[0]) if lines else "not told"


def _table(packages: dict[str, str], reasons: dict[str, str]) -> list[str]:
    rows = ["| package | version | licence | why |", "|---|---|---|---|"]
    for name, version in packages.items():
        rows.append(f"| {name} | {version} | {_told(name)} | {reasons.get(name, '')} |")
    return rows


def _told(package: str) -> str:
    try:
        return licence(package)
    except PackageNotFoundError:
        return ELSEWHERE[package]


# What this environment may lack, as another Python or platform needs it.
ELSEWHERE = {"async-timeout": "Apache-2.0"}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()

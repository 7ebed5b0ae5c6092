"""Install the pinned torch without pulling gigabytes of CUDA onto a machine that has no GPU.

With an NVIDIA GPU: plain `torch`. Without one: the `+cpu` build where pip finds it; else plain
`torch` where it comes without CUDA packages, as on macOS and ARM; else stop and say what to do.

Run with the Python of the environment to install into: `python -m tools.install_torch`. It needs
nothing but that Python's pip.
"""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from app.cli.nvidia import has_nvidia_gpu

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
ADVICE = """\
No CPU build of torch {version} was found, and the plain one would bring CUDA ({packages} …),
gigabytes that a machine without an NVIDIA GPU cannot use.
Point pip at PyTorch's CPU wheel index and try again, for instance:
    PIP_EXTRA_INDEX_URL=<the address of that index> make
The address is given on PyTorch's page "Get started", under pip and CPU."""


def main() -> None:
    """Install torch unless the right version is there already."""
    version = pinned_version()
    if installed_version() == version:
        print(f"torch {version} is installed already")
        return
    if has_nvidia_gpu():
        requirement = f"torch=={version}"
    elif is_available(f"torch=={version}+cpu"):
        requirement = f"torch=={version}+cpu"
    else:
        requirement = f"torch=={version}"
        unwanted = cuda_packages(resolved_packages(requirement))
        if unwanted:
            sys.exit(ADVICE.format(version=version, packages=", ".join(unwanted[:3])))
    print(f"Installing {requirement}", flush=True)
    sys.exit(subprocess.run(pip("install", requirement), check=False).returncode)


def pinned_version() -> str:
    """torch's version in pyproject.toml."""
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    return next(
        line.removeprefix("torch==") for line in extras["worker"] if line.startswith("torch==")
    )


def installed_version() -> str | None:
    """torch's version without its local suffix (`+cpu`), or None."""
    try:
        return importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def is_available(requirement: str) -> bool:
    """Whether pip finds it; nothing is installed."""
    command = pip("install", "--dry-run", "--no-deps", "--quiet", requirement)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def resolved_packages(requirement: str) -> list[str]:
    """Names of all that pip would install for it; nothing is installed.

    Raises:
        SystemExit: pip cannot tell; its own words are passed on.
    """
    command = pip("install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-")
    finished = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        sys.exit(f"{requirement} cannot be installed:\n{finished.stderr.strip()}")
    report = json.loads(finished.stdout)
    return [item["metadata"]["name"].lower() for item in report["install"]]


def cuda_packages(names: list[str]) -> list[str]:
    """Those that only an NVIDIA GPU can use."""
    return sorted(name for name in names if name.startswith(CUDA_PREFIXES))


def pip(*arguments: str) -> list[str]:
    """This Python's pip."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]


if __name__ == "__main__":
    main()

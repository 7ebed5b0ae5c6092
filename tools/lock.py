"""Write deploy/locks/: every package of the images, with its version and the hashes of its files.

    python tools/lock.py

Run with a Python that has uv (tools/supply_chain.txt); `make locks` does. Nothing is installed, and
of most packages nothing but metadata is fetched. What pip knows of where packages are, uv is told
too; none of it gets into the locks. The versions of a lock stay as they are as long as
pyproject.toml allows; --upgrade looks for newer ones. PyTorch's CPU wheels are on an index of their
own: `--find-links` names its page of torch, or a folder that holds the wheel.
"""

import argparse
import ast
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCKS = REPOSITORY / "deploy" / "locks"
HEAD = """\
# {title}
# Written by `make locks` from pyproject.toml; not to be edited.
"""
# What pip calls it, and uv. Not the extra indexes: where one has a few of a version's files, uv
# would lock those alone.
INDEX = {"index-url": "--default-index"}
# Only for torch without CUDA, which elsewhere would be taken for a newer version.
LINKS = {"find-links": "--find-links"}
ANYWHERE = ("--universal",)


@dataclass(frozen=True)
class Lock:
    """One file of locked requirements."""

    title: str
    extras: tuple[str, ...] = ()
    # Of what builds the package, not of the package.
    build: bool = False
    constraint: str | None = None
    # The machines that it is for.
    machines: tuple[str, ...] = ANYWHERE


def locks() -> dict[str, Lock]:
    """Each lock by the name of its file."""
    return {
        "build.txt": Lock("What makes a package of the source, in the images alone.", build=True),
        "api.txt": Lock("The API, beat, migrations and the command line: no torch.", ("tracing",)),
        "worker-cuda.txt": Lock(
            "A worker with a GPU: torch brings CUDA's libraries.", ("worker", "tracing")
        ),
        "worker-cpu.txt": Lock(
            "A worker without a GPU: torch without CUDA, which is on PyTorch's own index.",
            ("worker", "tracing"),
            # Both builds satisfy pyproject.toml's pin. This one has a wheel for each Python.
            constraint=f"torch=={pins('worker')['torch']}+cpu",
            machines=("--python-platform", "x86_64-manylinux_2_28"),
        ),
    }


def pins(extra: str | None = None) -> dict[str, str]:
    """Package to version, as pyproject.toml pins what an extra, or the package itself, needs."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    told = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return dict(requirement.split("==") for requirement in told)


def places(options_of: dict[str, str]) -> list[str]:
    """uv's options for where this machine's pip finds packages, as far as they are asked for."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options = []
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        option = options_of.get(name.rpartition(".")[2])
        if option is not None:
            options += [
                word for place in ast.literal_eval(value).split() for word in (option, place)
            ]
    return options


def compile_lock(lock: Lock, target: Path, links: list[str], *, upgrade: bool) -> None:
    """Resolve and write one lock.

    Args:
        links: options for where torch without CUDA is.

    Raises:
        SystemExit: uv cannot resolve it; its own words have been shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [word for extra in lock.extras for word in ("--extra", extra)]
        if lock.constraint is not None:
            constraint = Path(folder, "constraint.txt")
            constraint.write_text(lock.constraint + "\n")
            options += ["--constraint", str(constraint), *links]
        source = REPOSITORY / "pyproject.toml"
        if lock.build:
            wanted = tomllib.loads(source.read_text())["build-system"]["requires"]
            source = Path(folder, "build.in")
            source.write_text("\n".join(wanted) + "\n")
        # uv keeps the versions of the file that it writes over.
        fresh = Path(folder, "lock.txt")
        if target.exists() and not upgrade:
            fresh.write_bytes(target.read_bytes())
        command = [
            *[sys.executable, "-m", "uv", "pip", "compile", str(source), "--quiet"],
            *["--python-version", "3.11", *lock.machines, *options, *places(INDEX)],
            *["--generate-hashes", "--no-header", "--no-annotate"],
            *["--no-emit-index-url", "--no-emit-find-links"],
            *["--output-file", str(fresh)],
        ]
        if subprocess.run(command, cwd=REPOSITORY, check=False).returncode != 0:
            sys.exit(f"{target.name} could not be resolved")
        target.write_text(HEAD.format(title=lock.title) + fresh.read_text())


def main() -> None:
    """Write every lock."""
    parser = argparse.ArgumentParser(description="Write the locks of the images.")
    parser.add_argument("--upgrade", action="store_true", help="look for newer versions")
    parser.add_argument(
        "--find-links",
        action="append",
        default=[],
        metavar="PLACE",
        help="a folder or page with PyTorch's CPU wheel, where pip's own settings name none",
    )
    arguments = parser.parse_args()
    told = [word for place in arguments.find_links for word in ("--find-links", place)]
    links = [*places(LINKS), *told]
    LOCKS.mkdir(parents=True, exist_ok=True)
    for name, lock in locks().items():
        compile_lock(lock, LOCKS / name, links, upgrade=arguments.upgrade)
        print(f"deploy/locks/{name}")


if __name__ == "__main__":
    main()

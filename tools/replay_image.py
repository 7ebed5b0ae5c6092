"""Replay a Dockerfile without Docker: every step for real, in a minimal Debian under chroot.

    python tools/replay_image.py Dockerfile.api --volume /var/lib/lorawright/uploads \\
        --check deploy/checks/api.py

Debian of debootstrap stands for the official Python image of the same Debian and the same minor
Python. Each stage gets a tree of its own, COPY obeys .dockerignore, and only stages that the last
one needs are made, as the builder does. Then the finished image is tried as its own user, with a
read-only root and a network of its own: the check is run with the image's Python, and if there is a
HEALTHCHECK, CMD is started and must become healthy, and end when it is asked to.

Needs root, debootstrap, and a way to packages. What pip knows here of where packages are
(`pip config list`), pip in the image is told too, while RUN lasts; files and folders that it names
are shown there at the same place. Debian is kept in --cache, all else is removed in the end.
"""

import argparse
import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parent.parent
# Run as a file, by whichever Python is there; its neighbours are found from here.
sys.path.insert(0, str(REPOSITORY))

from tools.replay import context, dockerfile  # noqa: E402 (see above)
from tools.replay.root import (  # noqa: E402
    BaseUnknown,
    Root,
    copy_tree,
    debian_of,
    leave_the_network,
    make_base,
)

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lorawright" / "images"
IN_A_NAMESPACE = "LORAWRIGHT_REPLAYING"
HEALTHY_SECONDS = 60.0
STOP_SECONDS = 40.0


class ReplayFailed(Exception):
    """A step or a check did not do what it should."""


@dataclass
class Image:
    """A stage as it is so far."""

    root: Root
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


@dataclass
class Replay:
    """One Dockerfile, from its first step to its last check."""

    file: dockerfile.Dockerfile
    name: str
    given: dict[str, str]
    cache: Path
    mirror: str | None
    # Images that no Debian stands for by itself, and the Debian that shall.
    stand_ins: dict[str, str]
    scratch: Path
    rules: context.Rules
    images: dict[int, Image] = field(default_factory=dict)
    steps: int = 0

    def image(self, stage: dockerfile.Stage) -> Image:
        """The stage, made with all that it needs."""
        number = self.file.stages.index(stage)
        if number not in self.images:
            self.images[number] = self._make(stage, number)
        return self.images[number]

    def _make(self, stage: dockerfile.Stage, number: int) -> Image:
        path = self.scratch / str(number)
        named = self.file.find(stage.base)
        # What it copies from is made first, so that its steps are seen in one piece.
        for step in stage.instructions:
            if (source := self._stage_copied_from(step)) is not None:
                self.image(source)
        if named is not None:
            base = self.image(named)
            self._say(f"FROM {stage.base}")
            copy_tree(base.root.path, path)
            inherited = base.root
            root = Root(path, dict(inherited.environment), inherited.workdir, inherited.user)
            image = Image(root, base.command, base.healthcheck)
        else:
            suite = self.stand_ins.get(stage.base) or debian_of(stage.base)
            self._say(f"FROM {stage.base}", f"Debian {suite} stands for it")
            copy_tree(make_base(suite, self.cache, self.mirror), path)
            image = Image(Root(path))
        arguments: dict[str, str] = {}
        for step in stage.instructions:
            self._say(str(step))
            try:
                self._do(step, image, arguments)
            except (ReplayFailed, FileNotFoundError) as error:
                raise ReplayFailed(f"{self.name}, line {step.line}: {error}") from error
        return image

    def _do(self, step: dockerfile.Instruction, image: Image, arguments: dict[str, str]) -> None:
        root = image.root
        # ENV wins over an ARG of the same name.
        variables = {**arguments, **root.environment}
        if step.word == "ARG":
            name, _, default = step.rest.partition("=")
            value = self.given.get(name, self.file.arguments.get(name))
            value = dockerfile.expand(default, variables) if value is None else value
            if value:
                arguments[name] = value
        elif step.word == "ENV":
            root.environment |= dockerfile.pairs(step, variables)
        elif step.word == "LABEL":
            dockerfile.pairs(step, variables)
        elif step.word == "WORKDIR":
            root.workdir = os.path.join(root.workdir, dockerfile.expand(step.rest, variables))
            root.inside(".").mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            root.user = dockerfile.expand(step.rest, variables)
            root.ids()
        elif step.word == "COPY":
            self._copy(step, root, variables)
        elif step.word == "RUN":
            self._run(step, root, arguments)
        elif step.word == "HEALTHCHECK":
            image.healthcheck = dockerfile.command(step.rest.partition("CMD")[2].strip())
        elif step.word == "CMD":
            image.command = dockerfile.command(step.rest)

    def _stage_copied_from(self, step: dockerfile.Instruction) -> dockerfile.Stage | None:
        name = step.flags.get("from") if step.word == "COPY" else None
        if name is None:
            return None
        stage = self.file.find(name)
        if stage is None:
            raise ReplayFailed(f"{self.name}, line {step.line}: there is no stage {name}")
        return stage

    def _copy(self, step: dockerfile.Instruction, root: Root, variables: dict[str, str]) -> None:
        *sources, target = dockerfile.expand(step.rest, variables).split()
        place = root.inside(target)
        stage = self._stage_copied_from(step)
        if stage is not None:
            # With owners and modes; a folder's content, as COPY does.
            for source in sources:
                inside = self.image(stage).root.inside(source)
                if not inside.is_dir():
                    raise ReplayFailed(f"{source} is no folder of the stage {stage.name}")
                place.mkdir(parents=True, exist_ok=True)
                command = ["cp", "--archive", "--reflink=auto", f"{inside}/.", str(place)]
                subprocess.run(command, check=True)
            return
        if target.endswith("/") or len(sources) > 1:
            place.mkdir(parents=True, exist_ok=True)
        count = context.copy(REPOSITORY, self.rules, sources, place)
        # The builder gives root what it copies.
        subprocess.run(["chown", "--recursive", "--no-dereference", "0:0", str(place)], check=True)
        print(f"    {count} files", flush=True)

    def _run(self, step: dockerfile.Instruction, root: Root, arguments: dict[str, str]) -> None:
        told, binds = pip_settings()
        began = time.monotonic()
        with root.mounted(binds):
            command = root.command(dockerfile.command(step.rest), {**arguments, **told})
            ended = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
        if ended.returncode != 0:
            raise ReplayFailed(f"it ended with {ended.returncode}")
        print(f"    {time.monotonic() - began:.1f} s", flush=True)

    def _say(self, text: str, note: str = "") -> None:
        self.steps += 1
        print(f"[{self.steps}] {text}{f' ({note})' if note else ''}", flush=True)


def pip_settings() -> tuple[dict[str, str], tuple[Path, ...]]:
    """This machine's pip settings as variables, and what of its disk they name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    variables: dict[str, str] = {}
    places: set[Path] = set()
    for line in listed.splitlines():
        name, _, told = line.partition("=")
        value = " ".join(str(ast.literal_eval(told)).split())
        # Of `:env:.cert` and `global.cert` the first is listed first, and wins with pip.
        option = name.rpartition(".")[2]
        variables.setdefault("PIP_" + option.upper().replace("-", "_"), value)
        for word in value.split():
            if word.startswith("file:"):
                # An index's pages point to files that lie beside it.
                places.add(Path(urlsplit(word).path.rstrip("/")).parent)
            elif word.startswith("/") and Path(word).exists():
                places.add(Path(word))
    return variables, tuple(sorted(places))


def try_image(image: Image, volumes: tuple[str, ...], check: Path | None) -> None:
    """Run the check, then the command until it is healthy, as the image's user.

    Raises:
        ReplayFailed: either fails.
    """
    root = image.root
    leave_the_network()
    with root.mounted(read_only=True, volumes=volumes):
        print(f"Trying it as {root.ids()}, with a read-only root", flush=True)
        if check is not None:
            with check.open() as program:
                ended = subprocess.run(root.command(["python", "-"]), stdin=program, check=False)
            if ended.returncode != 0:
                raise ReplayFailed(f"{check.name} ended with {ended.returncode}")
        if image.healthcheck:
            _serve(image)


def _serve(image: Image) -> None:
    print("$ " + " ".join(image.command), flush=True)
    server = subprocess.Popen(image.root.command(image.command), stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + HEALTHY_SECONDS
        probe = image.root.command(image.healthcheck)
        while subprocess.run(probe, check=False, capture_output=True).returncode != 0:
            if server.poll() is not None:
                raise ReplayFailed(f"CMD ended with {server.returncode}")
            if time.monotonic() > deadline:
                raise ReplayFailed(f"HEALTHCHECK has not passed within {HEALTHY_SECONDS:.0f} s")
            time.sleep(0.5)
        if server.poll() is not None:
            raise ReplayFailed("HEALTHCHECK passed, though CMD has ended: who answers there?")
        print("HEALTHCHECK passed", flush=True)
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ReplayFailed(f"CMD has not ended {STOP_SECONDS:.0f} s after SIGTERM") from error
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def main() -> None:
    """Replay one Dockerfile."""
    parser = argparse.ArgumentParser(description="Replay a Dockerfile in a chroot.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--stand-in",
        action="append",
        default=[],
        metavar="IMAGE=SUITE",
        help="let this Debian stand for an image that is not Python's own",
    )
    parser.add_argument("--volume", action="append", default=[], help="a folder that is writable")
    parser.add_argument("--check", type=Path, help="a program for the image's Python")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where Debian is kept")
    parser.add_argument("--mirror", help="where debootstrap gets Debian from, if not as usual")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("chroot and mount need root: run it as root, or with sudo")
    if shutil.which("debootstrap") is None:
        sys.exit("debootstrap is missing: apt-get install debootstrap")
    if IN_A_NAMESPACE not in os.environ:
        # Whatever becomes of this process, its mounts end with it.
        unshared = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(unshared[0], unshared, {**os.environ, IN_A_NAMESPACE: "1"})
    given = dict(pair.split("=", 1) for pair in arguments.build_arg)
    try:
        parsed = dockerfile.parse(arguments.file.read_text(), given)
        rules = context.read_rules((REPOSITORY / ".dockerignore").read_text())
        with tempfile.TemporaryDirectory(prefix="replay-", dir=_ready(arguments.cache)) as folder:
            replay = Replay(
                parsed,
                arguments.file.name,
                given,
                arguments.cache,
                arguments.mirror,
                dict(pair.split("=", 1) for pair in arguments.stand_in),
                Path(folder),
                rules,
            )
            image = replay.image(parsed.stages[-1])
            try_image(image, tuple(arguments.volume), arguments.check)
    except (ReplayFailed, BaseUnknown, dockerfile.DockerfileError) as error:
        sys.exit(f"error: {error}")
    print(f"replayed {replay.steps} steps of {arguments.file.name}")


def _ready(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return cache


if __name__ == "__main__":
    main()

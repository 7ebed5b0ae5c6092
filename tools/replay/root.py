"""A folder as an image's root: its mounts while something runs in it, and Debian to begin with.

Everything here needs root, and a mount namespace of its own, so that no mount outlives the process.
"""

import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The Python of each Debian, which stands for the same Python of the official images.
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# What the official Python images have on top of Debian's own minimum.
INCLUDED = ("ca-certificates", "python3", "python3-venv")
# Of Linux' headers.
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class BaseUnknown(Exception):
    """An image that Debian cannot stand for."""


def debian_of(image: str) -> str:
    """The Debian that stands for `python:3.11-slim-bookworm`.

    Raises:
        BaseUnknown: it is another kind of image, or Debian's Python is another one.
    """
    match = re.fullmatch(r"python:(\d+\.\d+)(?:\.\d+)?-slim-(\w+)", image)
    if match is None:
        raise BaseUnknown(f"{image} is no python:…-slim-…, which Debian could stand for")
    python, suite = match[1], match[2]
    if PYTHONS.get(suite) != python:
        raise BaseUnknown(f"{image}: the Python of {suite} is {PYTHONS.get(suite, 'not known')}")
    return suite


def make_base(suite: str, cache: Path, mirror: str | None) -> Path:
    """A minimal Debian from the cache, made by debootstrap where it is missing."""
    base = cache / suite
    if not base.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{suite}-", dir=cache))
        try:
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(INCLUDED)}"]
            subprocess.run(
                [*command, suite, str(fresh), *([mirror] if mirror else [])],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            fresh.chmod(0o755)
            fresh.rename(base)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return base


def copy_tree(source: Path, target: Path) -> None:
    """Everything, with owners and modes."""
    command = ["cp", "--archive", "--reflink=auto", "--one-file-system", f"{source}/.", str(target)]
    target.mkdir(parents=True)
    subprocess.run(command, check=True)


@dataclass
class Root:
    """A root folder, and how processes in it are started."""

    path: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    workdir: str = "/"
    user: str = "0:0"

    def inside(self, path: str) -> Path:
        """Where a path of the image is on this machine; relative ones begin at the workdir."""
        return self.path / os.path.join(self.workdir, path).lstrip("/")

    def ids(self) -> str:
        """`user` in numbers, as `uid:gid`."""
        name, _, group = self.user.partition(":")
        uid, gid = self._lookup("passwd", name), self._lookup("group", group or name)
        return f"{uid}:{gid}"

    def _lookup(self, table: str, name: str) -> str:
        if name.isdigit():
            return name
        for line in (self.path / "etc" / table).read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return fields[2]
        raise BaseUnknown(f"{name} is in no /etc/{table} of the image")

    def command(self, words: list[str], extra: dict[str, str] | None = None) -> list[str]:
        """The words by which this machine runs a command in the image."""
        variables = {**self.environment, **(extra or {})}
        return [
            *["chroot", f"--userspec={self.ids()}", "--groups=", str(self.path)],
            *["/usr/bin/env", "--ignore-environment", f"--chdir={self.workdir}"],
            *[f"{name}={value}" for name, value in variables.items()],
            *words,
        ]

    @contextmanager
    def mounted(
        self,
        binds: tuple[Path, ...] = (),
        *,
        read_only: bool = False,
        volumes: tuple[str, ...] = (),
    ) -> Iterator[None]:
        """What a container has while it runs: /proc, /dev, names of hosts.

        Args:
            binds: files and folders of this machine that are seen at the same place, read-only.
            read_only: nothing can be written but /tmp and the volumes.
            volumes: folders of the image that can be written nevertheless; what is there already
                is as in the image, and what is written is gone afterwards.
        """
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if read_only:
                stack.enter_context(_mount(self.path, "--bind", str(self.path)))
            for place in ("proc", "dev", "tmp"):
                (self.path / place).mkdir(exist_ok=True)
            stack.enter_context(self._proc())
            stack.enter_context(_mount(self.path / "dev", "-t", "tmpfs", "dev"))
            (self.path / "dev/shm").mkdir(mode=0o1777)
            (self.path / "dev/shm").chmod(0o1777)
            for name in DEVICES:
                (self.path / "dev" / name).touch()
                stack.enter_context(_mount(self.path / "dev" / name, "--bind", f"/dev/{name}"))
            for source in (Path("/etc/resolv.conf"), Path("/etc/hosts"), *binds):
                stack.enter_context(self._bound(source))
            for number, volume in enumerate(volumes):
                copy_tree(self.inside(volume), scratch / str(number))
                stack.enter_context(
                    _mount(self.inside(volume), "--bind", str(scratch / str(number)))
                )
            if read_only:
                stack.enter_context(_mount(self.path / "tmp", "-t", "tmpfs", "tmp"))
                _run("mount", "-o", "remount,bind,ro", str(self.path))
                stack.callback(_run, "mount", "-o", "remount,bind,rw", str(self.path))
            yield

    @contextmanager
    def _proc(self) -> Iterator[None]:
        target = str(self.path / "proc")
        # Within some containers only the one that is there can be shown again.
        for options in (("-t", "proc", "proc"), ("--rbind", "/proc")):
            if subprocess.run(["mount", *options, target], check=False).returncode == 0:
                break
        try:
            yield
        finally:
            _unmount(target)

    @contextmanager
    def _bound(self, source: Path) -> Iterator[None]:
        """A file or folder of this machine at the same place; what has to be made for it goes."""
        target = self.path / str(source).lstrip("/")
        missing = [place for place in (target, *target.parents) if not place.exists()]
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        try:
            with _mount(target, "--bind", "-o", "ro", str(source)):
                yield
        finally:
            for place in missing:
                place.rmdir() if place.is_dir() else place.unlink()


def leave_the_network() -> None:
    """From now on this process and its children have a network of their own: loopback alone.

    What listens within is seen by nobody else, and no other server can answer in its place.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace cannot be made")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh22x", b"lo", IFF_UP)
        fcntl.ioctl(probe, SIOCSIFFLAGS, request)


@contextmanager
def _mount(target: Path, *options: str) -> Iterator[None]:
    _run("mount", *options, str(target))
    try:
        yield
    finally:
        _unmount(str(target))


def _unmount(target: str) -> None:
    # Lazily: a process that is just ending may have a file open.
    _run("umount", "--lazy", "--recursive", target)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)

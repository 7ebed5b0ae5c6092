"""A network of machines on this one: each a namespace with a cable that can be pulled out."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

# Networks for tests between devices (RFC 2544): nobody's own.
NETWORK = "198.18"
# The bridge, a cable, or a machine of the test that this process runs.
NAME = re.compile(r"lw(?P<pid>\d+)(?P<what>br|c|m)\d*")


@dataclass(frozen=True)
class Machine:
    """A namespace.

    Attributes:
        cable: the end of its cable at the bridge.
    """

    name: str
    cable: str

    def command(self, command: list[str]) -> list[str]:
        """The same command on this machine, which has a host name of its own."""
        rename = "import os, socket, sys; socket.sethostname(sys.argv[1]); "
        rename += "os.execv(sys.argv[2], sys.argv[2:])"
        return [
            *[_tool("ip"), "netns", "exec", self.name, _tool("unshare"), "--uts"],
            *[sys.executable, "-I", "-S", "-c", rename, self.name, *command],
        ]

    def pull_out(self) -> None:
        """Cut the machine off: nothing reaches it or comes from it, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug_in(self) -> None:
        """Undo that."""
        _ip("link", "set", self.cable, "up")


@dataclass(frozen=True)
class Network:
    """The machines and the address at which they reach this one."""

    address: str
    machines: list[Machine]


@contextmanager
def network(count: int) -> Iterator[Network]:
    """So many machines for a block; nothing is left of them, however it ends."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root alone, and this is not root")
    _remove_left()
    number = os.getpid() % 250
    prefix = f"{NETWORK}.{number}"
    # Names of devices have 15 characters at most.
    tag = f"lw{os.getpid()}"
    bridge = f"{tag}br"
    machines = [Machine(f"{tag}m{n}", f"{tag}c{n}") for n in range(count)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{prefix}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for place, machine in enumerate(machines, start=2):
            _ip("netns", "add", machine.name)
            inside = f"{machine.cable}i"
            pair = ["link", "add", machine.cable, "type", "veth", "peer", "name", inside]
            _ip(*pair, "netns", machine.name)
            _ip("link", "set", machine.cable, "master", bridge, "up")
            _ip("-n", machine.name, "link", "set", "lo", "up")
            _ip("-n", machine.name, "address", "add", f"{prefix}.{place}/24", "dev", inside)
            _ip("-n", machine.name, "link", "set", inside, "up")
        yield Network(f"{prefix}.1", machines)
    finally:
        _remove(tag)


def _remove_left() -> None:
    """Remove the machines of a test that was killed."""
    for name in _names():
        found = NAME.fullmatch(name)
        if found is not None and not Path(f"/proc/{found['pid']}").exists():
            _remove(f"lw{found['pid']}")


def _remove(tag: str) -> None:
    for name in _names():
        if (found := NAME.fullmatch(name)) is None or f"lw{found['pid']}" != tag:
            continue
        # A cable goes with its end in a namespace, but only once no process is left there.
        with suppress(AssertionError):
            _ip(*(("netns", "del", name) if found["what"] == "m" else ("link", "del", name)))


def _names() -> list[str]:
    """Of the machines, cables and bridges that there are, whoever made them."""
    devices = [path.name for path in Path("/sys/class/net").iterdir()]
    machines = Path("/run/netns")
    return devices + ([path.name for path in machines.iterdir()] if machines.is_dir() else [])


def _ip(*words: str) -> None:
    done = subprocess.run([_tool("ip"), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(
            f"`ip {' '.join(words)}` failed, which needs the right to make network namespaces "
            f"(CAP_SYS_ADMIN, CAP_NET_ADMIN): {done.stderr.strip()}"
        )


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert found is not None, f"there is no `{name}` here: install iproute2 and util-linux"
    return found

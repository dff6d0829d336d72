"""Hosts with networks of their own on one machine, each with a cable to a switch, and cables can be cut.

The hosts are anonymous network namespaces: each lasts as long as a process is in it, and the first one in it ends with
the test. Nothing is made outside of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Host:
    """A network namespace, or by default the one that this process is in.

    Attributes:
        address: its own.
        enter: what to put before a command to run it there.
    """

    address: str
    enter: tuple[str, ...] = ()

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True, capture_output=True, timeout=10)


@dataclass
class Network:
    """Hosts on a switch.

    Attributes:
        cuts: how many cables were cut so far.
    """

    hosts: list[Host]
    _switch: Host = field(repr=False)
    cuts: int = 0

    def cut(self, host: Host) -> None:
        """From now on nothing passes, and neither side is told."""
        self._switch.run("ip", "link", "set", f"port{self.hosts.index(host)}", "down")
        self.cuts += 1

    def mend(self, host: Host) -> None:
        self._switch.run("ip", "link", "set", f"port{self.hosts.index(host)}", "up")


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """So many hosts; the test is skipped where they cannot be made."""
    if not _permitted():
        pytest.skip("making network namespaces with bridges is not permitted here, or iproute2 is missing")
    with ExitStack() as stack:
        pids = [stack.enter_context(_namespace()) for _ in range(hosts + 1)]
        addresses = ["", *(f"10.99.0.{number}" for number in range(1, hosts + 1))]
        switch, *made = [
            Host(address, ("nsenter", "--target", str(pid), "--net"))
            for address, pid in zip(addresses, pids, strict=True)
        ]
        switch.run("ip", "link", "add", "switch", "type", "bridge")
        switch.run("ip", "link", "set", "switch", "up")
        for number, host in enumerate(made):
            peer = ("peer", "name", "cable", "netns", str(pids[number + 1]))
            switch.run("ip", "link", "add", f"port{number}", "type", "veth", *peer)
            switch.run("ip", "link", "set", f"port{number}", "master", "switch", "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                host.run("ip", "link", "set", device, "up")
        yield Network(made, switch)


def _permitted() -> bool:
    make = "ip link add type veth && ip link add type bridge"
    try:
        return subprocess.run(["unshare", "--net", "sh", "-c", make], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def _namespace() -> Iterator[int]:
    """A new network namespace: the process id of somebody who is in it."""
    with subprocess.Popen(
        ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as inside:
        assert inside.stdin is not None and inside.stdout is not None
        inside.stdin.write(b"it is in\n")
        inside.stdin.flush()
        inside.stdout.readline()
        try:
            yield inside.pid
        finally:
            inside.kill()

"""A worker of `test_rendezvous.py`: it joins and adds 40 times, unless the group ends, or it comes to where it dies.

Arguments: the node of each worker, a letter each; rank; place ("" for none). It tells its port, and is told all ports.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import numpy as np

from runtime.group import GroupBroken
from runtime.transports import rendezvous
from runtime.transports.tcp import Listener, TcpGroup


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def main(nodes: str, rank: int, place: str) -> None:
    with Listener() as listener:
        print(listener.address[1], flush=True)
        addresses = [("127.0.0.1", int(port)) for port in input().split()]
        if place == "rendezvous":
            TcpGroup.gather_objects = die  # type: ignore[method-assign]
        try:
            group = rendezvous.join(listener, addresses, nodes, rank, 1, b"secret", timeout=2.0)
            TcpGroup.gather_objects = super(TcpGroup, TcpGroup).gather_objects  # type: ignore[method-assign]
            for turn in range(40):
                if place == "exchange" and turn == 20:
                    die()
                group.all_reduce(np.ones(1000))
            print("ended")
        except GroupBroken:
            print("broken")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])

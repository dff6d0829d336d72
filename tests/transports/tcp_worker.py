"""A worker of `test_tcp_link.py`, in a network of its own.

Arguments: rank, timeout, how many exchanges to take part in before it waits for a line (-1: go on for ever), the
address of its interface. Input: the addresses of both listeners. Output: its address; "exchanged" after each exchange;
at the end how many totals it holds, the pending one with them, and why it ended.
"""

from __future__ import annotations

import json
import sys

from runtime.group import GroupBroken
from runtime.transports.tcp import Listener, TcpGroup


def main(rank: int, timeout: float, turns: int, interface: str) -> None:
    with Listener(interface) as listener:
        print(json.dumps(listener.address), flush=True)
        addresses = [(host, port) for host, port in json.loads(input())]
        group = TcpGroup(listener, addresses, rank, 1, b"secret", timeout)
    memory = group.reserve((("<f4", 1 << 20),), 1)
    memory.buffers[0][0][:] = 1
    held = 0
    try:
        while True:
            if held == turns:
                input()
            total = group.start(memory, {(rank, rank + 1): 0}, 2).finish()
            assert total.arrays is not None and (total.arrays[0] == 2).all()
            held += 1
            print("exchanged", flush=True)
    except GroupBroken as error:
        print(held + (group.pending() is not None), error, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

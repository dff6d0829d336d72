"""A worker of `test_shm.py`: 200 exchanges, unless it comes to the place where it waits to be killed.

Arguments: descriptor, rank, size, place ("" for none; turn 2 is the third exchange). At the end it says how many totals
it holds, the pending one with them, and how many files with a name it has mapped to share memory.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from runtime.group import GroupBroken, Total
from runtime.transports.shm import ShmGroup


def main(descriptor: int, rank: int, size: int, place: str) -> None:
    def at(here: str) -> None:
        if here == place:
            print("here", flush=True)
            signal.pause()

    group = ShmGroup(descriptor, rank, size)
    segment, publish = group.segment, group.segment.publish

    def publishing(word: int, value: int) -> None:
        folded = word == segment.folded[rank] and value == 3
        if folded:
            at("before folded")
        publish(word, value)
        if folded:
            at("after folded")

    segment.publish = publishing  # type: ignore[method-assign]

    def check(total: Total, turn: int) -> None:
        assert total.arrays is not None
        assert (total.arrays[0] == sum(range(size)) + size * turn).all()

    held = 0
    try:
        at("reserve")
        memory = group.reserve((("<f4", 10_000),), 1, bucket_bytes=8192)
        for turn in range(200):
            memory.buffers[0][0][...] = rank + turn
            exchange = group.start(memory, {(rank, rank + 1): 0}, size)
            at(f"start {turn}")
            exchange.ready(2)
            at(f"ready {turn}")
            exchange.ready(5)
            at(f"finish {turn}")
            check(exchange.finish(), turn)
            held += 1
    except GroupBroken:
        print("stopped", flush=True)
        sys.stdin.readline()  # until all have: what is pending is asked only then
        total = group.pending()
        if total is not None:
            check(total, held)
            held += 1
    maps = Path("/proc/self/maps")
    named = [line for line in maps.read_text().splitlines() if "/dev/shm/" in line] if maps.exists() else []
    print("held", held, "files", len(named))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4])

"""A thousand workers on paper: what they say, what that costs, and that the sum keeps its bits:
`python -m benchmarks scale`. Takes about a quarter of an hour and 4 GB of memory on two cores.

The coordinator and the exchange are the real ones, without sockets (`scale_membership`, `scale_exchange`); what a
message and a handshake cost is measured over loopback; a cost model turns both into seconds.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.fold import balanced_ranges, subtrees
from runtime.transports.message_passing import SHARE_BYTES, WINDOW
from runtime.transports.tcp import Listener, TcpGroup

from .scale_exchange import Shape, barrier_seconds, digest, exchange, partials
from .scale_membership import LATENCY, LOCAL, NOTICED, RAY, STARTING, STEP, begin, cost_of_form, lose, steady

TABLE = Path(__file__).parent.parent / "docs" / "benchmarks" / "scale.md"
SIZES = (2, 8, 32, 128, 512, 1000)
COORDINATED = (*SIZES, 4000)
DIRECT, HOSTS, BY_LEADERS, RACKS = Shape(), Shape((32,)), Shape((32,), True), Shape((32, 8), True)
MODELLED = (DIRECT, HOSTS, BY_LEADERS, RACKS)
SHAPES = (*MODELLED, Shape((8,)), Shape((64,)))
ONE_MACHINE = 128  # workers at most
ELEMENTS = 16_000
HOST = 32  # workers of a host, in the cost model
MEMORY = 100e9  # bytes a second that a host's memory moves: assumed
ALPHA = 25e-6  # seconds of a message, one way, between hosts: assumed
MIB = 1 << 20


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--most", type=int, default=COORDINATED[-1], help="leave out what has more workers")
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.most):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(most: int) -> Iterator[str]:
    gc.disable()  # many workers in one process: a collection would look at what none of them alone has
    yield "# A thousand workers\n"
    yield "Made by `python -m benchmarks scale`; what it means stands in [scale.md](../scale.md)."
    yield f"Python {platform.python_version()}, NumPy {np.__version__}, {os.cpu_count()} cores. *max* is of the worker"
    yield "that has most.\n"
    yield from coordinator(most)
    rows = exchanges(most)
    yield from messages(rows)
    yield from spans()
    costs = Costs.measured()
    yield from forming(costs)
    yield from seconds_a_step(costs, rows)


# --- the coordinator --------------------------------------------------------------------------------------------------


def coordinator(most: int) -> Iterator[str]:
    yield "## The coordinator while nothing happens\n"
    yield f"Each worker sends a heartbeat every {LOCAL.beat(2)} s. *local*: as the launcher of one machine serves it,"
    yield f"which looks at the time whenever something has come; *ray*: as the actor does, every {RAY.looks} s, and of"
    yield f"more than {RAY.many} workers each sends fewer. *a look*: CPU of `tick` and `deadline`. *busy*: part of a"
    yield "core, in `Coordinator` alone. *late*: the longest that a message waited.\n"
    yield "| workers | host | they | heartbeats/s | CPU of one µs | looks/s | CPU of a look µs | busy | late ms |"
    yield "|---" * 9 + "|"
    for size in (s for s in COORDINATED if s <= most):
        hosts = (LOCAL, RAY) if size <= 1000 else (RAY,)
        for host, waiting in product(hosts, (False, True)):
            load = steady(size, host, waiting)
            they = "wait" if waiting else "compute"
            yield (
                f"| {size:,} | {host.name} | {they} | {load.heartbeats:,.0f} | {load.heartbeat * 1e6:.1f} "
                f"| {load.looks:,.0f} | {load.look * 1e6:,.0f} | {load.busy:.1%} | {load.longest * 1e3:.1f} |"
            )
    yield "\n## Forming, and forming again\n"
    yield f"Messages take {LATENCY * 1e6:.0f} µs, a death is reported after {NOTICED * 1e3:.0f} ms, a new process"
    yield f"asks after {STARTING[0]:g} to {STARTING[1]:g} s, a step takes {STEP:g} s. *survivors*: from the death until"
    yield "the last of them was told of the next generation; *all*: until the replacements were in one, which begins at"
    yield "the end of a step; of the start, both from when the last worker asks. *deciding*, *telling*: CPU of the"
    yield "coordinator's process in `Coordinator`, and in encoding what each member is told of a generation, one by"
    yield "one as the hosts do: JSON (local) or a pickle (ray, of which Ray itself makes more). *needless*: sound"
    yield "workers that were ended. Connecting comes on top, see below.\n"
    yield (
        "| workers | host | what | survivors s | all s | generations | events | messages to workers | deciding s "
        "| telling s | bytes a worker is told | needless |"
    )
    yield "|---" * 12 + "|"
    for size in (s for s in COORDINATED if s <= most):
        for host in (LOCAL, RAY) if size <= ONE_MACHINE else (RAY,):
            cases = [("start", begin(size, host)[1])]
            for name, count in (("one dies", 1), ("32 die", 32), ("a tenth dies", size // 10)):
                if count and 2 * count <= size and (count == 1 or 128 <= size <= 1000):
                    cases.append((name, lose(size, count, host)))
            for name, it in cases:
                yield (
                    f"| {size:,} | {host.name} | {name} | {it.survivors:.3f} | {it.everybody:.3f} | {it.generations} "
                    f"| {it.spent.calls:,} | {it.spent.told:,} | {it.spent.deciding:.3f} | {it.spent.encoding:.3f} "
                    f"| {cost_of_form(size, host)[1]:,} | {it.needless} |"
                )


# --- the exchange -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """Counts of one exchange; `most` is of the worker with most of them."""

    size: int
    shape: Shape
    digest: str
    mean_sent: float  # messages
    most_sent: int
    most_came: int
    gradient: float  # of the busiest worker, sent, in gradients
    mean_gradient: float
    small_sent: int  # bytes that are no gradient, most
    small_came: float  # bytes that are no gradient, mean
    connections: int
    seconds: float  # of CPU, for all workers together


def row(size: int, shape: Shape) -> Row:
    gc.disable()
    result = exchange(size, shape, elements=ELEMENTS)
    counts = [worker.network for worker in result.workers]
    whole = ELEMENTS * 4
    gradient = sum(c.gradient_bytes for c in counts)
    return Row(
        size,
        shape,
        result.digest,
        sum(c.sent for c in counts) / size,
        max(c.sent for c in counts),
        max(c.came for c in counts),
        max(c.gradient_bytes for c in counts) / whole,
        gradient / size / whole,
        max(c.sent_bytes - c.gradient_bytes for c in counts),
        (sum(c.came_bytes for c in counts) - gradient) / size,
        max(worker.connections for worker in result.workers),
        result.seconds,
    )


def exchanges(most: int) -> list[Row]:
    """Each size in each shape, none twice: a shape with one host is that of shared memory alone, and is left out."""
    asked = [(n, s) for n in SIZES if n <= most for s in SHAPES if n > math.prod(s.levels)]
    asked = [(n, s) for n, s in asked if n <= 128 or s in MODELLED]  # the larger ones take minutes each
    begun = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=begun, max_tasks_per_child=1) as pool:
        longest_first = sorted(asked, key=lambda a: -a[0])
        rows = dict(zip(longest_first, pool.map(row, *zip(*longest_first, strict=True)), strict=True))
    return [rows[key] for key in asked]


def messages(rows: Sequence[Row]) -> Iterator[str]:
    yield "\n## One exchange\n"
    yield f"A shard a worker, a gradient of {ELEMENTS:,} float32, notes of 200 bytes. Counted is what crosses the"
    yield "network; workers of a host (the first number of *levels of*) share memory. *gradients sent*: bytes of"
    yield "partial sums and results over those of the gradient, of the busiest worker and on average. *small bytes*:"
    yield "all others. It is the first exchange: leaders send one another one message more than in later ones."
    yield "*digest*: SHA-256 of the sum, compared on every worker with the fold of one process.\n"
    yield (
        "| workers | shape | messages sent, max | mean | came, max | gradients sent, max | mean "
        "| small bytes sent, max | came, mean | connections, max | digest | CPU of all s |"
    )
    yield "|---" * 12 + "|"
    for size in sorted({r.size for r in rows}):
        expected = digest(partials(0, size, size, ELEMENTS)[0, size])
        for r in (r for r in rows if r.size == size):
            assert r.digest == expected, f"other bits: {r}"
            yield (
                f"| {size:,} | {r.shape} | {r.most_sent:,} | {r.mean_sent:,.1f} | {r.most_came:,} | {r.gradient:.3f} "
                f"| {r.mean_gradient:.3f} | {r.small_sent:,} | {r.small_came:,.0f} | {r.connections:,} "
                f"| {r.digest[:12]} | {r.seconds:.1f} |"
            )


def spans() -> Iterator[str]:
    yield "\n## Partial sums that a host holds\n"
    yield "A host hands over one partial sum for each maximal subtree of its shards, and each is a gradient to send."
    yield "Hosts of so many workers, 1,000 workers; by the real arithmetic (`balanced_ranges`, `subtrees`).\n"
    yield "| shards | workers a host | live workers | mean | most |"
    yield "|---" * 5 + "|"
    for shards in (1000, 1024, 4096):
        for host in (8, 24, 32, 48):
            for live in (1000, 999):
                held = held_by_hosts(shards, host, live)
                yield f"| {shards:,} | {host} | {live:,} | {sum(held) / len(held):.2f} | {max(held)} |"


def held_by_hosts(shards: int, host: int, live: int) -> list[int]:
    """How many partial sums each host holds; if a worker is missing, it is one of the first host."""
    ranges = balanced_ranges(shards, live)
    borders = [0, *range(host - (1000 - live), live, host), live]
    return [len(subtrees(ranges[a][0], ranges[b - 1][1], shards)) for a, b in pairwise(borders)]


# --- what it costs ----------------------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """Seconds of CPU, measured over loopback, both sides together."""

    handshake: float  # of a pair
    message: float  # small
    byte: float  # of a long message, its addition among it
    copied: float  # a byte, by one thread, in memory

    @classmethod
    def measured(cls) -> Costs:
        # The least of some: the machine may do other things meanwhile.
        handshake, message = map(min, zip(*(_over_loopback(48, 16 * 48, 5) for _ in range(5)), strict=True))
        size = 64 * MIB
        long = min(_over_loopback(2, size // 4, 2)[1] for _ in range(5))
        source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
        np.copyto(target, source)
        begin = time.process_time()
        for _ in range(5):
            np.copyto(target, source)
        copied = (time.process_time() - begin) / 5 / size
        # Two workers send five messages each; two of them carry half a gradient.
        return cls(handshake, message, (long * 10) / (2 * size), copied)


def _over_loopback(size: int, elements: int, times: int) -> tuple[float, float]:
    """CPU of a handshake, and of a message of an exchange."""
    listeners = [Listener() for _ in range(size)]
    addresses = [listener.address for listener in listeners]
    with ThreadPoolExecutor(size) as pool:

        def both(rank: int) -> TcpGroup:
            return TcpGroup(listeners[rank], addresses, rank, 1, b"of the benchmark")

        begin = time.process_time()
        groups = list(pool.map(both, range(size)))
        handshake = (time.process_time() - begin) / (size * (size - 1) / 2)
        memories = list(pool.map(lambda g: g.reserve((("<f4", elements),), 1), groups))

        def steps(rank: int, count: int) -> None:
            memories[rank].buffers[0][0][:] = 1
            for _ in range(count):
                groups[rank].start(memories[rank], {(rank, rank + 1): 0}, size).finish()

        list(pool.map(steps, range(size), [1] * size))
        begin = time.process_time()
        list(pool.map(steps, range(size), [times] * size))
        message = (time.process_time() - begin) / (times * 5 * size * (size - 1))
    for closed in (*groups, *listeners):
        closed.close()
    return handshake, message


def forming(costs: Costs) -> Iterator[str]:
    yield "\n## Connecting\n"
    yield f"CPU over loopback, both sides: {costs.handshake * 1e6:.0f} µs a pair to connect and prove that it belongs"
    yield f"(48 workers, all pairs), {costs.message * 1e6:.0f} µs a small message of an exchange,"
    yield f"{costs.byte * 1e9:.2f} ns a byte of a long one with its addition ({1 / costs.byte / 1e9:.1f} GB/s),"
    yield f"{costs.copied * 1e9:.2f} ns a byte copied in memory. Extrapolated: half of the pairs' CPU is a worker's."
    yield "*receive buffers*: 64 KiB a link. *scratch*: for the partial sums of others, of a gradient of 100 MiB and of"
    yield "1 GiB, one a worker. *barrier*: CPU of one worker in `MessageGroup` for a barrier, measured, if all messages"
    yield "are there when it looks, and if it looks after each of them.\n"
    yield (
        "| workers | pairs | sockets of a worker | CPU of a worker s | CPU of all s | receive buffers MiB "
        "| scratch MiB | barrier ms, at once | one by one |"
    )
    yield "|---" * 9 + "|"
    for size in SIZES:
        pairs = size * (size - 1) // 2
        rooms = [scratch_bytes(size, v * MIB) / MIB for v in (100, 1024)]
        yield (
            f"| {size:,} | {pairs:,} | {size - 1:,} | {(size - 1) * costs.handshake / 2:.2f} "
            f"| {pairs * costs.handshake:,.1f} | {(size - 1) / 16:.1f} | {rooms[0]:,.0f}, {rooms[1]:,.0f} "
            f"| {barrier_seconds(size, size) * 1e3:.1f} | {barrier_seconds(size, 1) * 1e3:.1f} |"
        )


def scratch_bytes(size: int, gradient: int) -> int:
    """What `_Exchange._reserve_scratch` makes, one partial sum a worker."""
    return WINDOW * (size - 1) * min(_share_bytes(size), -(-gradient // size))


def _share_bytes(size: int) -> int:
    return max(SHARE_BYTES, (1 << 22) // size)


def pieces(size: int, gradient: int) -> int:
    return math.ceil(gradient / (size * _share_bytes(size)))


class Seconds(NamedTuple):
    """A step's exchange: waiting for messages, CPU of the busiest worker for small messages, the wire or the CPU of the
    bytes (what takes longer, for they overlap), and inside the host."""

    latency: float
    messages: float
    wire: float
    bytes: float
    inside: float

    @property
    def all(self) -> float:
        return self.latency + self.messages + max(self.wire, self.bytes) + self.inside


def modelled(costs: Costs, counted: Row, gradient: int, gigabits: float) -> Seconds:
    """Of counts, what the network and the CPU make of them, with HOST workers a host and one network card each host."""
    n, hosts = counted.size, -(-counted.size // HOST)
    talking = hosts if counted.shape.levels else n  # workers in the exchange of gradients
    if len(counted.shape.levels) > 1:
        talking = counted.shape.levels[1]
    further = 2 * (pieces(talking, gradient) - 1) * (talking - 1)
    sent = counted.gradient * gradient
    on_card = sent if counted.shape.levels else sent * min(n, HOST) * (n - HOST) / (n - 1)
    rounds = {DIRECT: 5, HOSTS: 7, BY_LEADERS: 7, RACKS: 27}[counted.shape]
    inside = 0.0
    if counted.shape.levels:
        inside = (HOST + 3) * gradient / MEMORY + 2 * gradient * costs.copied
    return Seconds(
        rounds * ALPHA,
        (counted.most_sent + further) * costs.message,
        on_card * 8 / (gigabits * 1e9),
        sent * costs.byte,
        inside,
    )


def seconds_a_step(costs: Costs, rows: Sequence[Row]) -> Iterator[str]:
    yield "\n## Seconds of one exchange, by the model\n"
    yield f"{HOST} workers a host, one network card a host, {ALPHA * 1e6:.0f} µs a message, {MEMORY / 1e9:.0f} GB/s of"
    yield "memory a host; the counts and CPU costs above. Time = rounds x latency + small messages x CPU + the longer"
    yield "of wire and CPU for the gradient's bytes + additions and copies in the host's memory.\n"
    yield ("| workers | gradient | Gbit/s | " + " | ".join(str(s) for s in MODELLED) + " |")
    yield "|---" * 7 + "|"
    by_key = {(r.size, r.shape): r for r in rows}
    last = max(r.size for r in rows)
    cases = [(last, v, g) for v in (1, 100, 1024) for g in (10, 25, 100)]
    cases += [(n, 100, 25) for n in SIZES if HOST < n < last]
    for size, mib, gigabits in sorted(cases):
        cells = []
        for shape in MODELLED:
            found = by_key.get((size, shape))
            cells.append(f"{modelled(costs, found, mib * MIB, gigabits).all:.3f}" if found else "")
        yield f"| {size:,} | {mib:,} MiB | {gigabits} | " + " | ".join(cells) + " |"
    yield f"\nOf {last:,} workers, 100 MiB, 25 Gbit/s, what it is made of:\n"
    yield "| shape | latency | small messages | wire | CPU of bytes | inside a host |"
    yield "|---" * 6 + "|"
    for shape in MODELLED:
        if (found := by_key.get((last, shape))) is not None:
            it = modelled(costs, found, 100 * MIB, 25)
            yield f"| {shape} | " + " | ".join(f"{s:.4f}" for s in it) + " |"

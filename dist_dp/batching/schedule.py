"""In which order calls are computed, and which of them together.

The schedule is the agenda of Neubig, Goldberg and Dyer, "On-the-fly operation batching in dynamic computation graphs"
(NIPS 2017), section 3: of the signatures that have calls whose inputs are computed, take the one whose calls lie
lowest in the graph on average, and compute all of them that are ready. Taking the lowest average leaves calls that lie
high (the losses of all examples, say) until all of them are ready.

Every call is looked at a fixed number of times, and every batch costs the logarithm of the number of signatures.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .lazy import UNSEEN, Call, Lazy, Written

if TYPE_CHECKING:
    from .recorder import Recorder, Signature


SEEN = -1  # on the way to what it waits for


def needed(wanted: Iterable[Lazy], recorder: Recorder | None = None) -> list[Call]:
    """The calls behind these values that are not computed yet, each after those that it waits for.

    Calls of another recorder than `recorder`, left over from a `dp.batched` that failed, are computed by theirs first.
    """
    found: list[Call] = []
    stack = [v.call for v in wanted if v.call is not None]
    stack.reverse()
    while stack:
        call = stack[-1]
        if call.waits == UNSEEN:
            if recorder is not None and call.signature.recorder is not recorder:
                try:
                    call.signature.recorder.flush(call.outs)
                except BaseException:
                    forget([*found, *stack])
                    raise
                stack.pop()
                continue
            call.waits = SEEN
            call.users = []
            before = len(stack)
            for i, v in enumerate(call.values):
                kind = type(v)
                if kind is Written:
                    v = call.values[i] = v.first  # the call was made before the write
                    kind = Lazy
                if kind is Lazy and (behind := v.call) is not None and behind.waits == UNSEEN:
                    stack.append(behind)
            if len(stack) > before:
                continue
        stack.pop()
        if call.waits == SEEN:
            _place(call)
            found.append(call)
    return found


def forget(calls: Iterable[Call]) -> None:
    """Leave calls as if nobody had asked for them: whoever does later has them computed, or fails again."""
    for call in calls:
        call.waits = UNSEEN
        call.signature.ready = []
        call.signature.total = call.signature.count = 0


def _place(call: Call) -> None:
    """Count what `call` waits for, say so to those, and find its depth: all that it waits for is placed."""
    waits = depth = 0
    for v in call.values:
        if type(v) is Lazy and v.call is not None:
            behind = v.call
            waits += 1
            behind.users.append(call)
            if behind.depth >= depth:
                depth = behind.depth + 1
    call.waits, call.depth = waits, depth
    signature = call.signature
    signature.total += depth
    signature.count += 1


def batches(calls: Sequence[Call], most: int | None) -> Iterator[tuple[Signature, list[Call]]]:
    """The batches, each to be computed before the next is asked for; none of more than `most` calls."""
    order: dict[Signature, int] = {}
    for call in calls:
        signature = call.signature
        if signature not in order:
            order[signature] = len(order)
        if not call.waits:
            signature.ready.append(call)
    average = {signature: signature.total / signature.count for signature in order}
    for signature in order:
        signature.total = signature.count = 0
    agenda = [(average[s], i, s) for s, i in order.items() if s.ready]
    heapq.heapify(agenda)
    while agenda:
        _, _, signature = heapq.heappop(agenda)
        ready, signature.ready = signature.ready, []
        size = most or len(ready)
        for start in range(0, len(ready), size):
            yield signature, ready[start : start + size]
        for call in ready:
            for user in call.users:
                user.waits -= 1
                if not user.waits:
                    its = user.signature
                    if not its.ready:
                        heapq.heappush(agenda, (average[its], order[its], its))
                    its.ready.append(user)

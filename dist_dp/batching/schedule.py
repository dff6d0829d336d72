"""In which order calls are computed, and which of them together.

A signature is *complete* when each of its calls is ready or waits for another one of them. Computing it then spoils
nothing: no other order makes fewer batches of it (Chen, Fegade, Chen, Gibbons and Mowry, "ED-Batch: efficient automatic
batching of dynamic neural networks via learned finite state machines", ICML 2023). That a call waits for another one
of its signature is seen at its own inputs alone, so where signatures wait for each other in a circle, such as a node
with a left child and one with both, none of them may be complete. Those of a circle are a *group*, any other signature
is one by itself, and no group waits for a later one.

The next batch is a complete signature, and where there is none, of the first group that has calls left, the one that
has waited longest. So the losses of all examples wait until all of them are ready.

Every call is looked at a fixed number of times, and every batch costs the same, however many signatures there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        call.signature.front = 0


def _place(call: Call) -> None:
    """Count what `call` waits for, and say so to those: all that it waits for is placed."""
    signature = call.signature
    waits = alike = 0
    for v in call.values:
        if type(v) is Lazy and v.call is not None:
            behind = v.call
            waits += 1
            behind.users.append(call)
            if behind.signature is signature:
                alike += 1
    call.waits, call.alike = waits, alike
    if not alike:
        signature.front += 1


def batches(calls: Sequence[Call], most: int | None) -> Iterator[tuple[Signature, list[Call]]]:
    """The batches, each to be computed before the next is asked for; none of more than `most` calls."""
    group = _groups(calls)
    # Of each group those with ready calls, the oldest first.
    waiting: list[dict[Signature, None]] = [{} for _ in group]
    first = 0  # that has calls left
    complete: list[Signature] = []  # of those waiting
    woken = [call for call in calls if not call.waits]
    left = len(calls)
    while left:
        for call in woken:
            its = call.signature
            if not its.ready:
                waiting[group[its]][its] = None
            its.ready.append(call)
            if len(its.ready) == its.front:  # which stays as it is until they are computed
                complete.append(its)
        while not waiting[first]:
            first += 1
        signature = complete.pop() if complete else next(iter(waiting[first]))
        del waiting[group[signature]][signature]
        ready, signature.ready = signature.ready, []
        left -= len(ready)
        size = most or len(ready)
        for start in range(0, len(ready), size):
            yield signature, ready[start : start + size]
        signature.front -= len(ready)
        woken = []
        for call in ready:
            for user in call.users:
                user.waits -= 1
                if user.signature is signature:
                    user.alike -= 1
                    if not user.alike:
                        signature.front += 1
                if not user.waits:
                    woken.append(user)


def _groups(calls: Iterable[Call]) -> dict[Signature, int]:
    """The number of the group of each signature: those that wait for it have larger ones.

    They are the strongly connected components, found by Kosaraju's algorithm.
    """
    users: dict[Signature, dict[Signature, None]] = {}  # not sets, whose order differs from run to run
    for call in calls:
        its = users.setdefault(call.signature, {})
        for user in call.users:
            its[user.signature] = None
    inputs: dict[Signature, list[Signature]] = {signature: [] for signature in users}
    for signature, those in users.items():
        for user_signature in those:
            inputs[user_signature].append(signature)
    seen: set[Signature] = set()
    ends_first = [found for signature in users for found in _reached(signature, users, seen)]
    groups: dict[Signature, int] = {}
    seen = set()
    for number, signature in enumerate(reversed(ends_first)):
        for found in _reached(signature, inputs, seen):
            groups[found] = number
    return groups


def _reached(
    start: Signature, ways: Mapping[Signature, Iterable[Signature]], seen: set[Signature]
) -> Iterator[Signature]:
    """What `start` leads to and nobody has seen yet, each after all that it leads to itself."""
    if start in seen:
        return
    seen.add(start)
    path = [(start, iter(ways[start]))]
    while path:
        at, rest = path[-1]
        for further in rest:
            if further not in seen:
                seen.add(further)
                path.append((further, iter(ways[further])))
                break
        else:
            path.pop()
            yield at

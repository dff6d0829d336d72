"""`batched`: a program for one example, run for many whose graphs differ, and computed in batches."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greenlet import getcurrent, greenlet

from .. import ops, random
from ..arguments import check_function
from ..opaque import checkpoint
from ..ops.core import as_array
from ..pytree import Structure, described, flatten, unflatten
from ..random import Stream, integer_argument
from ..tape import INTERPRET, applying, mode
from ..tensor import Tensor
from .lazy import Lazy, Written, body
from .recorder import Recorder
from .report import Report
from .vectorize import Level


class _Last(threading.local):
    report: Report | None = None


_last = _Last()


def batched(
    fun: Callable[[Any], Any],
    examples: Sequence[Any],
    *,
    enabled: bool = True,
    max_batch: int | None = None,
    wave: int | None = None,
) -> Any:
    """[fun(example) for example in examples], stacked, with the same steps of different examples computed together.

    `fun` is plain Python: recursion, loops and conditionals on the structure of its example, and on values. Nothing is
    computed while it runs. When a value is needed, all calls so far that have the same signature and whose inputs are
    known are computed as one batch, then the next ones (`schedule`): calls of a `cell` by running its body once,
    operations outside cells by their batch rules. An example that reads a value (`if score > 0`, `.item()`, argmax of a
    decoder) waits until all others wait as well or have come to their end.

    Gradients flow through everything; they and the values equal those of one example after another up to rounding,
    since the shapes of the matrix products differ. Batches depend on the examples alone, so the result is the same
    bits every time, whatever the number of workers. Random numbers are drawn from a key of the example: the same as
    unbatched.

    Args:
        fun: takes an example; returns a tensor, a number, or a nesting of them of one form for all examples.
        examples: the examples; at least one.
        enabled: False runs one example after another, for debugging.
        max_batch: the largest number of calls in one batch; None for as many as are ready. It bounds the memory that
            the inside of a batch needs.
        wave: how many examples are recorded at a time; None for all. Of a wave nothing is kept but its result, and
            backward computes it again (`dp.checkpoint`), so that examples whose graphs are larger than the memory
            together can be trained on, for the time of another forward pass.

    Returns:
        What `fun` returned, every tensor with the examples on its first axis.

    Raises:
        ValueError: no examples, or results whose shapes or nesting differ between examples.
        TypeError: called inside `vmap` or in the body of a cell.

    >>> import dist_dp as dp
    >>> dp.batched(lambda n: sum(dp.tensor(1.0) for _ in range(n)), [1, 3, 2])
    tensor([1., 3., 2.])
    """
    check_function(fun)
    for name, limit in (("max_batch", max_batch), ("wave", wave)):
        if limit is not None:
            integer_argument(name, limit, least=1, expected="an int or None")
    _refuse_inside()
    try:
        examples = list(examples)
    except TypeError:
        raise TypeError(f"examples must be a sequence of examples, got {type(examples).__name__}") from None
    if not examples:
        raise ValueError("examples must hold at least one example, got none")
    base = random.next_key()
    reports: list[Report] = []

    def part(start: int, stop: int) -> Any:
        chosen = {i: (examples[i], Stream(base.fold(i))) for i in range(start, stop)}
        if not enabled or _recording():  # inside another one, which batches these too
            if not _recording():
                reports.append(Report())
                reports[-1].alone["the program", "enabled=False"] = len(chosen)
            return _stacked({i: _one(fun, i, *its) for i, its in chosen.items()})
        recorder = Recorder(max_batch)
        reports.append(recorder.report)
        collecting = gc.isenabled()
        gc.disable()  # thousands of calls that are alive anyway make it look through all of them again and again
        try:
            results = _Examples(recorder, fun, chosen).run()
            recorder.flush(
                [x for result in results.values() for x in flatten(result)[0] if isinstance(x, Lazy)]
            )
            return _stacked(results, recorder)
        finally:
            recorder.report.kinds = Counter(signature.name for signature in recorder.signatures.values())
            recorder.close()
            if collecting:
                gc.enable()

    if wave is None or _recording():
        result = part(0, len(examples))
    else:
        starts = range(0, len(examples), wave)
        parts = {start: checkpoint(part)(start, min(start + wave, len(examples))) for start in starts}
        result = _joined(parts)
    if reports:
        _last.report = reports[0]
        for report in reports[1:]:
            _last.report += report
    return result


def _refuse_inside() -> None:
    """Raise TypeError where many examples stand for one already."""
    if body.running:
        raise TypeError(
            "dp.batched inside the body of a cell, which computes many calls at once as it is; call it outside"
        )
    interpreter = mode.interpreter if mode.state == INTERPRET else None
    while interpreter is not None:
        if isinstance(interpreter, Level):
            raise TypeError(
                "dp.batched inside dp.vmap, which computes all examples at once as it is; leave one away"
            )
        interpreter = interpreter.outer


def _recording() -> bool:
    return mode.state == INTERPRET and type(mode.interpreter) is Recorder


def _joined(parts: Mapping[int, Any]) -> Any:
    """The results of all waves, by their first examples, one after another."""
    structure, columns = _columns(parts)
    return unflatten(structure, [ops.concatenate(list(column.values())) for column in columns])


def explain_batching() -> Report:
    """What the last `batched` of this thread computed in which groups, and what ran one by one, why and where.

    Raises:
        RuntimeError: there was none.

    >>> import dist_dp as dp
    >>> w = dp.tensor(2.0, requires_grad=True)
    >>> _ = dp.batched(lambda x: dp.tensor(x) * w, [1.0, 2.0])
    >>> print(dp.explain_batching())
    2 calls in 1 batch; values were asked for once
      multiply        2 calls of 1 kind   in       1 batch,      2.0 on average,      2 at most
    """
    if _last.report is None:
        raise RuntimeError("explain_batching() before the first dp.batched of this thread")
    return _last.report


def _one(fun: Callable[[Any], Any], i: int, example: Any, stream: Stream) -> Any:
    """What `fun` returns for example i."""
    try:
        with random.scope(stream):
            return fun(example)
    except Exception as error:
        error.add_note(f"in example {i} of dp.batched")
        raise


class _Examples:
    """The examples of one `batched`, each in a coroutine of its own."""

    def __init__(
        self, recorder: Recorder, fun: Callable[[Any], Any], examples: Mapping[int, tuple[Any, Stream]]
    ) -> None:
        self.recorder, self.fun, self.examples = recorder, fun, examples
        self.results: dict[int, Any] = dict.fromkeys(examples)  # in the order of the examples
        self.waiting: deque[tuple[int, greenlet, Lazy]] = deque()
        self.main = getcurrent()
        self.running: greenlet | None = None
        recorder.suspend = self._suspend

    def run(self) -> dict[int, Any]:
        """What each example returned."""
        try:
            for i in self.examples:
                it = greenlet(self._example)
                it.gr_context = contextvars.copy_context()
                self._resume(i, it, i)
            while self.waiting:
                waiting = list(self.waiting)
                self.recorder.flush([value for _, _, value in waiting])
                for i, it, _ in waiting:
                    self.waiting.popleft()
                    self._resume(i, it)
            return self.results
        finally:
            self.recorder.suspend = lambda value: False
            self._close()

    def _resume(self, i: int, it: greenlet, *start: Any) -> None:
        """Let example `i` run until it reads a value or ends."""
        ours = _State()
        self.recorder.example, self.running = i, it
        try:
            value = it.switch(*start)
        finally:
            self.running = None
            ours.restore()
        if not it.dead:
            self.waiting.append((i, it, value))

    def _close(self) -> None:
        """End the examples that still wait, after a failure: what they have open is closed (GreenletExit)."""
        ours = _State()
        while self.waiting:
            i, it, _ = self.waiting.popleft()
            self.recorder.example = i
            with contextlib.suppress(Exception):  # the first failure is the one to tell
                it.throw()
            ours.restore()

    def _example(self, i: int) -> None:
        with random.separate(), applying(self.recorder):
            self.results[i] = _one(self.fun, i, *self.examples[i])

    def _suspend(self, value: Lazy) -> bool:
        """Let the others run until `value` is computed, if this is an example that runs."""
        if self.running is None or getcurrent() is not self.running:
            return False
        mine = _State()
        try:
            self.main.switch(value)
        finally:
            mine.restore()
        return True


class _State:
    """What of this thread belongs to the example that runs: how operations are applied, who watches its sweeps, and
    what it draws from."""

    def __init__(self) -> None:
        self._mode = mode.state, mode.beneath, mode.interpreter, mode.segment
        self._watchers = mode.inspect, mode.watch
        self._scopes = random.scopes.stack

    def restore(self) -> None:
        mode.state, mode.beneath, mode.interpreter, mode.segment = self._mode
        mode.inspect, mode.watch = self._watchers
        random.scopes.stack = self._scopes


def _stacked(results: Mapping[int, Any], recorder: Recorder | None = None) -> Any:
    """The results of all examples as one nesting of tensors, with the examples on the first axis."""
    structure, columns = _columns(results)
    return unflatten(structure, [_column(column, recorder) for column in columns])


def _columns(results: Mapping[int, Any]) -> tuple[Structure, list[dict[int, Any]]]:
    """The nesting that all results have, and for every leaf of it what stands there in each."""
    flat = {i: flatten(result) for i, result in results.items()}
    first, (_, structure) = next(iter(flat.items()))
    for i, (_, its) in flat.items():
        if its != structure:
            raise ValueError(
                f"fun must return results of one form for all examples, got {described(structure)} for example "
                f"{first} and {described(its)} for example {i}"
            )
    columns = zip(*[leaves for leaves, _ in flat.values()], strict=True)
    return structure, [dict(zip(flat, column, strict=True)) for column in columns]


def _column(values: Mapping[int, Any], recorder: Recorder | None) -> Tensor:
    tensors = {
        i: x if isinstance(x, Tensor) else Tensor._of(as_array(x, "the result of fun"), None)
        for i, x in values.items()
    }
    first, like = next(iter(tensors.items()))
    for i, x in tensors.items():
        if x.shape != like.shape:
            raise ValueError(
                f"fun must return results of one shape for all examples, got {like.shape} for example {first} and "
                f"{x.shape} for example {i}"
            )
    column = [x.now if type(x) is Written else x for x in tensors.values()]
    if recorder is not None and all(type(x) is Lazy and x.dtype == like.dtype for x in column):
        rows = recorder.column(column, like.spec)  # type: ignore[attr-defined]
        return Tensor._of(rows.data.copy(), rows.node)  # not a view, which would keep the whole block
    return ops.stack(column)

"""What a batched program does: calls are noted, and computed together when a value is needed.

While examples run, every operation and every cell comes to the `Recorder`. It finds the *signature* of the call: what
it calls, and for each input its shape and dtype, or which object it is, or its value, compared by equality down to
types. Calls of one signature can run as one batch. Shapes and dtypes of the results are found once for a signature by
a run on zeros, so that a shape that does not fit is refused on the line that caused it.

What is computed when a value is needed are the calls that it needs and no others: a loss that nobody has asked for yet
waits, and will make a larger batch later. `schedule.batches` says in which order.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from runtime.timeline import span

from .. import ops
from ..ops.core import Op, apply
from ..pytree import Structure
from ..tape import OFF, Interpreter, applying, clock, enable_grad, mode, no_grad
from ..tensor import Tensor
from .block import Block
from .lazy import UNSEEN, Call, Lazy, Spec, Written
from .report import Report
from .schedule import batches, forget, needed
from .vectorize import Batched, Level, whole

_new_lazy = Lazy.__new__
_new_call = Call.__new__
_PACKAGES = tuple(str(Path(path).parent) + os.sep for path in (Path(__file__).parent, np.__file__))


class Signature:
    """What calls have in common that can run as one batch.

    Attributes:
        name: of the cell or operation, for reports and messages.
        specs: of the results.
        single: there is one result, not a tuple of them.
        structure: how the results are nested, if otherwise than as a tuple.
        drawing: the body of the cell draws random numbers.
        constant: the results carry no gradient, because `no_grad` was in force.
        ready, front: of the schedule: the calls whose inputs are computed, and how many are to be computed that wait
            for none of this signature.
    """

    __slots__ = (
        "constant",
        "drawing",
        "front",
        "name",
        "ready",
        "recorder",
        "run",
        "single",
        "specs",
        "structure",
    )

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        run: Callable[[Sequence[Call]], Sequence[Tensor]],
        specs: tuple[Spec, ...],
        single: bool,
        structure: Structure | None = None,
        drawing: bool = False,
    ) -> None:
        self.recorder, self.name, self.run = recorder, name, run
        self.specs, self.single, self.structure, self.drawing = specs, single, structure, drawing
        self.constant = mode.beneath == OFF
        self.ready: list[Call] = []
        self.front = 0


class Recorder(Interpreter):
    """Notes the calls of one `dp.batched`, and computes them.

    Where `no_grad` is in force, what is noted is computed without a gradient.

    Attributes:
        example: the index of the example that runs now.
        closed: the `dp.batched` has ended.
        segment: the `checkpoint` that it was made in.
        report: what was computed so far, and how.
        suspend: how an example waits for a value, if others can go on meanwhile.
    """

    postpones = True

    def __init__(self, max_batch: int | None) -> None:
        super().__init__()
        self.max_batch = max_batch
        self.example = 0
        self.closed = False
        self.segment = mode.segment
        self.report = Report()
        self.suspend: Callable[[Lazy], bool] = lambda value: False
        self.signatures: dict[Any, Signature] = {}
        self._batch: object = None  # that is computed now
        self._parameters: dict[Any, Lazy] = {}  # by their nodes
        self._blocks: dict[tuple[Spec, bool], Block] = {}
        self._shared: dict[Any, Any] = {}  # results that are the same for all examples

    # --- recording ------------------------------------------------------------------------------------------------

    def __call__(self, op: Op, inputs: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        """Note an operation outside cells."""
        key: list[Any] = [op, mode.beneath]
        values: list[Any] = []
        recorded = shared = False
        floating = None
        for x in inputs:
            kind = type(x)
            if kind is Written:
                x, kind = x.now, Lazy
            if kind is Lazy:
                key.append(x.spec)
                values.append(x)
                recorded = True
                floating = x.spec.dtype if x.spec.dtype.kind == "f" else floating
            elif kind is np.ndarray or (isinstance(x, Tensor) and x.node is None and kind is not Batched):
                array = kept(x if kind is np.ndarray else x.data)
                key.append((_DATA, array.shape, array.dtype))
                values.append(array)
            elif isinstance(x, Tensor):
                key.append((_SHARED, x.node))
                values.append(x)
                shared = True
            else:
                key.append(constant(x))
                values.append(x)
        if not recorded and not (shared and any(type(v) is np.ndarray for v in values)):
            if shared:
                return self._once(op, inputs, params, key)
            return self._now(op, inputs, params, "its inputs are plain arrays, no recorded values")
        if op.name == "nonzero":
            found = [x.computed() if type(x) is Lazy else x for x in inputs]
            return self._now(op, found, params, "how many there are depends on the values")
        if op.broadcasts and floating is not None:  # a number is data as well, of the dtype of what it meets
            for i, value in enumerate(values):
                if type(value) is float or type(value) is int:
                    key[i + 2] = _NUMBER
        signature = self._signature(key, params, op, values, floating)
        caller = _caller(sys._getframe(1))
        outs = self.note(signature, values, caller.f_code, caller.f_lasti)
        return outs[0] if signature.single else outs

    def note(
        self, signature: Signature, values: list[Any], code: CodeType, instruction: int
    ) -> tuple[Lazy, ...]:
        """Note a call, made at this instruction; returns its results."""
        call = _new_call(Call)
        call.signature, call.values, call.waits = signature, values, UNSEEN
        call.code, call.instruction, call.example = code, instruction, self.example
        specs = signature.specs
        if len(specs) == 1:
            out = _new_lazy(Lazy)
            out.call, out.spec = call, specs[0]
            call.outs = result = (out,)
            return result
        outs = []
        for spec in specs:
            out = _new_lazy(Lazy)
            out.call, out.spec = call, spec
            outs.append(out)
        call.outs = several = tuple(outs)
        return several

    def left_out(self, what: str) -> None:
        self.report.alone[what, "it looks at the tape of its own example"] += 1

    def _now(self, op: Op, inputs: Sequence[Any], params: tuple[Any, ...], why: str) -> Any:
        self.report.alone[op.name, why] += 1
        with applying(self.outer):
            return apply(op, inputs, params)

    def _once(self, op: Op, inputs: Sequence[Any], params: tuple[Any, ...], key: list[Any]) -> Any:
        """An operation on what all examples share, such as the transpose of a weight, is computed once."""
        key.append(frozen(params))
        known = tuple(key)
        if known not in self._shared:
            if any(type(x) in _NUMBERS for x in inputs):
                self.report.alone[op.name, "its inputs are parameters and numbers, other ones each time"] += 1
            with applying(self.outer):
                self._shared[known] = apply(op, inputs, params), inputs  # kept: their nodes stand in the key
        out = self._shared[known][0]  # an example may write into its own
        return (
            tuple([Tensor._of(o.data, o.node) for o in out])
            if type(out) is tuple
            else Tensor._of(out.data, out.node)
        )

    def _signature(
        self, key: list[Any], params: tuple[Any, ...], op: Op, values: list[Any], floating: Any
    ) -> Signature:
        if params:
            kinds = tuple([type(p) for p in params])
            key.append(frozen(params) if float in kinds or tuple in kinds else params)
            key.append(kinds)
        known: Any = tuple(key)
        try:
            found = self.signatures.get(known)
        except TypeError:  # slices and arrays cannot be hashed
            key[-2] = frozen(params)
            known = tuple(key)
            found = self.signatures.get(known)
        if found is None:
            specs, several = _results(op, values, params)
            run = _operation(self, op, params, values, floating)
            found = self.signatures[known] = Signature(self, op.name, run, specs, not several)
        return found

    def close(self) -> None:
        """Let go of all that only this recorder holds; values that somebody kept can still be read."""
        self.signatures.clear()
        self._shared.clear()
        self._blocks.clear()
        self._parameters.clear()
        self.closed = True

    # --- computing ------------------------------------------------------------------------------------------------

    def compute(self, value: Lazy) -> None:
        """Compute `value`; an example that can wait lets the others come as far as they can first."""
        if not self.closed:
            reader = _caller(sys._getframe(1))
            self.report.reads[reader.f_code.co_filename, reader.f_lineno] += 1
        with self._outside_of_segments():
            if not self.suspend(value):
                self.flush([value])

    def flush(self, wanted: Iterable[Lazy]) -> None:
        """Compute these values and all that they need."""
        calls = needed([v.now if type(v) is Written else v for v in wanted], self)
        if not calls:
            return
        self.report.flushes += 1
        try:
            with self._outside_of_segments(), applying(self.outer):
                for signature, batch in batches(calls, self.max_batch):
                    self._run(signature, batch)
        except BaseException:
            forget(calls)
            raise

    @contextlib.contextmanager
    def _outside_of_segments(self) -> Iterator[None]:
        """Tell every `checkpoint` that was entered since the recorder was made that nodes made now are not its own."""
        start = clock()
        try:
            yield
        finally:
            segment = mode.segment
            while segment is not None and segment is not self.segment:
                segment.waits.append((start, clock()))
                segment = segment.outer

    def _run(self, signature: Signature, calls: Sequence[Call]) -> None:
        outer, self._batch = self._batch, object()
        try:
            grad = no_grad() if signature.constant else enable_grad()
            with span(f"{signature.name}, batch"), grad:
                results = _together(signature, calls)
        except Exception as error:
            raise self._located(signature, calls, error) from error.__cause__
        finally:
            batch, self._batch = self._batch, outer
        self.report.add(signature.name, len(calls))
        for i, (spec, result) in enumerate(zip(signature.specs, results, strict=True)):
            if result.shape != (len(calls), *spec.shape) or result.dtype != spec.dtype:
                raise RuntimeError(
                    f"{signature.name} gave {result.dtype} {result.shape} for {len(calls)} calls, and {spec!r} for "
                    "each when it was tried on zeros: the form of a result may depend neither on values nor on the "
                    "number of calls"
                )
            block = self._block(spec, result.node is not None)
            row = block.append(result, batch)
            for call in calls:
                out = call.outs[i]
                out.call, out.block, out.row = None, block, row
                row += 1

    def _block(self, spec: Spec, carries: bool) -> Block:
        """The block for values of this form, with or without a gradient: only the one is on the tape."""
        block = self._blocks.get((spec, carries))
        if block is None:
            block = self._blocks[spec, carries] = Block(self, spec.shape, spec.dtype)
        return block

    def column(self, values: Sequence[Any], spec: Spec, aligned: bool = True) -> Tensor:
        """One input of all calls of a batch, with the calls on its first axis.

        `aligned`: value i belongs to call i, and not to another one, as with the items of ragged lists.
        """
        batch = self._batch if aligned else None
        values = [
            self._parameter(v) if type(v) is not Lazy and isinstance(v, Tensor) and v.node is not None else v
            for v in values
        ]
        groups: dict[Block | None, list[int]] = {}  # which of them stand in which block; None: in none
        for i, value in enumerate(values):
            groups.setdefault(value.block if type(value) is Lazy else None, []).append(i)
        if len(groups) == 1:
            (block,) = groups
            if block is None:
                return _stack(values, spec)
            if block.recorder is self:
                return block.take([value.row for value in values], batch)
        if any(block is not None and block.recorder is not self for block in groups):
            return self.column([self._adopted(v) for v in values], spec, aligned)
        # Of several blocks, such as computed states beside a first one of zeros: copied into one, which has a gradient
        # if any of them has.
        own = self._block(spec, any(block is not None and block.rows.node is not None for block in groups))
        rows = [0] * len(values)
        for block, its in groups.items():
            if block is own:
                places: Iterable[int] = [values[i].row for i in its]
            else:
                chosen, copied = [values[i] for i in its], object()
                start = own.append(
                    _stack(chosen, spec)
                    if block is None
                    else block.take([value.row for value in chosen], copied),
                    copied,
                )
                places = range(start, start + len(its))
            for i, row in zip(its, places, strict=True):
                rows[i] = row
        return own.take(rows, batch)

    def _parameter(self, x: Tensor) -> Lazy:
        """A parameter, or another tensor that carries a gradient, as one row that all calls take."""
        if x.node not in self._parameters:
            with enable_grad():  # calls that come later may want its gradient
                self._parameters[x.node] = self.held(x)
        return self._parameters[x.node]

    def _adopted(self, value: Any) -> Any:
        """A value of another `dp.batched` as a tensor like others, at its own place on the tape."""
        if type(value) is not Lazy or value.block.recorder is self:
            return value
        return Tensor._of(value.data, value.node)

    def held(self, x: Tensor) -> Lazy:
        """A tensor as a row of a block."""
        value = _new_lazy(Lazy)
        value.spec, value.call = Spec(x.shape, x.dtype), None
        value.block = self._block(value.spec, x.node is not None)
        value.row = value.block.append(ops.reshape(x, (1, *x.shape)), object())
        return value

    def _located(self, signature: Signature, calls: Sequence[Call], error: Exception) -> Exception:
        """The error with the example that causes it: the first whose call fails alone."""
        culprit = calls[0]
        if len(calls) > 1:
            for call in calls:
                try:
                    _together(signature, [call])
                except Exception as alone:
                    culprit, error = call, alone
                    break
            else:
                error.add_note(
                    f"in {signature.name}, in a batch of {len(calls)} calls, none of which fails alone"
                )
                return error
        error.add_note(
            f"in {signature.name}, called by example {culprit.example} at {culprit.site} "
            f"({culprit.code.co_qualname}), in a batch of {len(calls)} calls"
        )
        return error


def _together(signature: Signature, calls: Sequence[Call]) -> Sequence[Tensor]:
    before, mode.calls = mode.calls, calls
    try:
        return signature.run(calls)
    finally:
        mode.calls = before


# --- what a signature is made of --------------------------------------------------------------------------------------

_DATA, _SHARED, _NUMBER = "data", "shared", "number"
_NUMBERS = (float, int)

# Arrays of up to so many bytes are copied when a call takes them, so that the user may write into them afterwards.
SMALL = 1 << 14


def kept(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array as a call keeps it until it is computed."""
    return array.copy() if array.nbytes <= SMALL and array.flags.writeable else array


def constant(x: Any) -> Any:
    """A constant as part of a signature: 1, 1.0 and True differ, so do 0.0 and -0.0, and a NaN equals itself."""
    if not isinstance(x, (int, float, complex)):
        return (type(x), x)
    return (type(x), x) if type(x) is not complex and x == x and x != 0 else (type(x), repr(x))


def frozen(x: Any) -> Any:
    """Parameters of an operation, as something that can be compared and hashed."""
    if isinstance(x, (tuple, list)):
        return (type(x), *map(frozen, x))
    if isinstance(x, slice):
        return (slice, x.start, x.stop, x.step)
    if isinstance(x, np.ndarray):
        return (np.ndarray, x.shape, x.dtype, x.tobytes())
    if isinstance(x, dict):
        return (dict, *((k, frozen(v)) for k, v in x.items()))
    return constant(x) if isinstance(x, (int, float, complex)) else (type(x), x)


def _stack(values: Sequence[Any], spec: Spec) -> Tensor:
    """Arrays and numbers of one form, one after another."""
    if spec.shape == () and not any(isinstance(v, Tensor) for v in values):
        return Tensor._of(np.array(values, spec.dtype), None)
    return Tensor._of(
        np.stack([v.data if isinstance(v, Tensor) else np.asarray(v, spec.dtype) for v in values]), None
    )


def _results(op: Op, values: Sequence[Any], params: tuple[Any, ...]) -> tuple[tuple[Spec, ...], bool]:
    """The forms of the results, from a run on zeros; whether there are several."""

    def tried(make: Callable[[Spec], Any]) -> Any:
        arrays = [make(v.spec) if type(v) is Lazy else v.data if isinstance(v, Tensor) else v for v in values]
        with no_grad(), applying(None), np.errstate(all="ignore"):
            return apply(op, arrays, params)

    try:
        outs = tried(lambda spec: np.broadcast_to(np.zeros((), spec.dtype), spec.shape))
    except np.linalg.LinAlgError:
        outs = tried(Spec.identities)
    several = isinstance(outs, tuple)
    return tuple(Spec(o.shape, o.dtype) for o in (outs if several else (outs,))), several


def _operation(
    recorder: Recorder, op: Op, params: tuple[Any, ...], like: Sequence[Any], floating: Any
) -> Callable[[Sequence[Call]], Sequence[Tensor]]:
    """How a batch of one operation is computed: by its batch rule."""
    kinds = [type(v) for v in like]

    def run(calls: Sequence[Call]) -> Sequence[Tensor]:
        level = Level(len(calls), silent=True)
        inputs: list[Any] = []
        for j, kind in enumerate(kinds):
            first = calls[0].values[j]
            if kind is Lazy:
                values = [call.values[j] for call in calls]
                inputs.append(Batched(level, recorder.column(values, first.spec)))
            elif kind is np.ndarray and any(call.values[j] is not first for call in calls):
                stacked = np.stack([call.values[j] for call in calls])
                inputs.append(Batched(level, Tensor._of(stacked, None)))
            elif kind in _NUMBERS and len({constant(call.values[j]) for call in calls}) > 1:
                numbers = np.array([call.values[j] for call in calls], floating)
                inputs.append(Batched(level, Tensor._of(numbers, None)))
            else:
                inputs.append(first)
        if not any(isinstance(x, Batched) for x in inputs):
            inputs = [level.broadcast(x) if isinstance(x, np.ndarray) else x for x in inputs]
        with applying(level):
            out = apply(op, inputs, params)
        return [whole(o) for o in (out if isinstance(out, tuple) else (out,))]

    return run


_OURS: dict[CodeType, bool] = {}


def _caller(frame: Any) -> Any:
    """The innermost frame that is neither in this package nor in NumPy."""
    while True:
        code = frame.f_code
        ours = _OURS.get(code)
        if ours is None:
            ours = _OURS[code] = code.co_filename.startswith(_PACKAGES)
        if not ours or frame.f_back is None:
            return frame
        frame = frame.f_back

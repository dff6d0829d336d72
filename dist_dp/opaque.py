"""Functions that the tape holds as one operation: `checkpoint` and `custom_vjp`.

Both leave a single node for everything the function does. `checkpoint` computes the inside again when its gradient is
asked for; `custom_vjp` calls the rule that the user gave. Inside vmap the node stands below the examples like every
other, and the user's function is handed examples again when it is called in the backward pass.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from . import random
from .arguments import check_function
from .backward import backward, reach
from .batching.vectorize import Level, levels, spread, under, whole
from .ops.core import Op, as_array, identity, one_output
from .pytree import Structure, flatten, flatten_like, paths, unflatten
from .tape import INTERPRET, Leaf, Node, applying, at_once, clock, enable_grad, is_grad_enabled, mode
from .tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class _Inside:
    """A call of a user's function, ready to be made again with other tensors in the places of its inputs.

    Attributes:
        args: the leaves of the arguments and their structure; None in the places of the inputs.
        places: where in the leaves the inputs stand: the Tensors that carry a gradient.
        interpreter, chains: what operations were handed to, and the vmap levels of each input.
    """

    def __init__(self, args: Any) -> None:
        self.leaves, self.structure = flatten(args)
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, Tensor) and x.node is not None]
        self.inputs = [self.leaves[i] for i in self.places]
        self.interpreter = mode.interpreter if mode.state == INTERPRET else None

    def hide(self) -> list[Tensor]:
        """The tensors below all vmaps, which the node saves; this call itself then holds no array of them."""
        self.chains = [levels(x) for x in self.inputs]
        below = [whole(x) for x in self.inputs]
        for i in self.places:
            self.leaves[i] = None
        del self.inputs
        return below

    def filled(self, below: Sequence[Tensor]) -> Any:
        """The arguments with these tensors as inputs, under their vmaps."""
        full = list(self.leaves)
        for i, x, chain in zip(self.places, below, self.chains, strict=True):
            full[i] = under(x, chain)
        return unflatten(self.structure, full)


def _alias(x: Any) -> Tensor:
    """The same value under a new node; an array gets a leaf of its own."""
    x = x if isinstance(x, Tensor) else Tensor._of(x, None)
    node = x.node or Leaf(x.shape, x.dtype)
    return Tensor._of(x.data, Node(identity, (node,), ((),), (), x.shape))


# ----- checkpoint -----


class _Outside:
    """The nodes that were not recorded by what ran since a moment, as a container for `reach`.

    Leaves are older than everything. Inside an example of `dp.batched` what runs may wait for values, which are
    recorded meanwhile: `waits` has the times.
    """

    def __init__(self) -> None:
        self.moment = clock()
        self.waits: list[tuple[int, int]] = []
        self.outer = mode.segment

    def __contains__(self, node: object) -> bool:
        seq: float = node.seq  # type: ignore[attr-defined]
        return seq < self.moment or any(start < seq < stop for start, stop in self.waits)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        mode.segment = self
        try:
            yield
        finally:
            mode.segment = self.outer


class _Segment(_Inside):
    """What a checkpointed function needs to be computed again.

    Attributes:
        captured: nodes of what the function used besides its arguments (parameters it closes over).
        live: which leaves of the result carry a gradient.
    """

    def __init__(self, fun: Callable[..., Any], args: Any) -> None:
        super().__init__(args)
        self.fun = fun
        stream = random.current()
        self.key, self.use = stream.key, stream.use
        self.captured: list[Any] = []
        self.live: list[int] = []

    def run(self, inputs: Sequence[Tensor]) -> tuple[list[Any], Structure]:
        args, kwargs = self.filled(inputs)
        return flatten(self.fun(*args, **kwargs))

    def again(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs that carry a gradient, recorded, from the random numbers of the first time."""
        from .nn.buffers import buffer_proposals  # modules stand above the transforms

        stream = random.Stream(self.key, self.use)
        # What modules propose for their buffers was taken the first time.
        with applying(self.interpreter), enable_grad(), random.scope(stream), buffer_proposals():
            outs, _ = self.run(inputs)
        return [whole(outs[i]) for i in self.live]


def _rematerialised(g: Any, need: Sequence[bool], xs: Sequence[Any], segment: _Segment) -> Sequence[Any]:
    inputs = [_alias(x) for x in xs[: len(segment.places)]]
    outs = segment.again(inputs)
    roots = [(out.node, gi) for out, gi in zip(outs, g, strict=True)]
    targets = [*(x.node for x in inputs), *segment.captured]
    return backward(roots, targets=targets, create_graph=any(isinstance(gi, Tensor) for gi in g))


_checkpoint = Op("checkpoint", lambda *_: None, "*xs", "segment", joint=_rematerialised, outputs=2)


def checkpoint(fun: Callable[P, R]) -> Callable[P, R]:
    """`fun`, keeping only its inputs for the backward pass, which computes the inside again: memory for time.

    Gradients reach the arguments (nested in any way) and whatever else `fun` uses that carries a gradient, such as
    the parameters of a module. Random numbers drawn from `dist_dp.random` are the same when it is computed again.

    `fun` must compute the same thing twice: what it reads must not be written to before the backward pass, and what
    it writes to besides its result (counters, running statistics) it writes to twice.

    >>> import dist_dp as dp
    >>> dp.grad(dp.checkpoint(lambda x: dp.ops.sin(x) * x))(0.0)
    tensor(0.)
    """
    check_function(fun)

    @functools.wraps(fun)
    @at_once("checkpoint")
    def checkpointed(*args: P.args, **kwargs: P.kwargs) -> Any:
        if not is_grad_enabled():
            return fun(*args, **kwargs)
        segment = _Segment(fun, (args, kwargs))
        below = segment.hide()
        inputs = [_alias(x) for x in below]
        outside = _Outside()
        with outside.watching():
            outs, structure = segment.run(inputs)
        segment.live = [i for i, o in enumerate(outs) if isinstance(o, Tensor) and o.node is not None]
        if not segment.live:
            return unflatten(structure, outs)
        own = {x.node for x in inputs}
        used = reach([outs[i].node for i in segment.live], outside)
        segment.captured = [node for node in used if node in outside and node not in own]
        results = [whole(outs[i]) for i in segment.live]
        saved = (*(x.data for x in below), *[None] * len(segment.captured))
        common = Node(
            _checkpoint,
            (*(x.node for x in below), *segment.captured),
            ((saved, segment),),
            (),
            tuple((r.shape, r.dtype) for r in results),
        )
        for k, (i, r) in enumerate(zip(segment.live, results, strict=True)):
            outs[i] = under(one_output(common, k, r.data), levels(outs[i]))
        return unflatten(structure, outs)

    return checkpointed


# ----- custom_vjp -----


class _Ruled(_Inside):
    """A call of a function with a rule of the user's: what the rule is given, and what it must return."""

    def __init__(self, function: custom_vjp, args: Any) -> None:
        super().__init__(args)
        self.function = function
        self.inputs = [spread(x, self.interpreter) for x in self.inputs]
        self.likes = [(x.shape, x.dtype) for x in self.inputs]
        self.out_chains: list[list[Level]] = []
        self.out_structure: Structure
        self.residuals: Any = None

    def forward(self, below: Sequence[Tensor]) -> tuple[list[Tensor], Structure, Any]:
        """fwd on these inputs: the leaves of its result, their nesting, and the residuals."""
        fwd = self.function.fwd
        assert fwd is not None
        with applying(self.interpreter), enable_grad():
            both = fwd(*self.filled(below))
        if not isinstance(both, tuple) or len(both) != 2:
            raise TypeError(
                f"fwd of {self.function} must return (result, residuals), got {type(both).__name__}"
            )
        outs, structure = flatten(both[0])
        return [o if isinstance(o, Tensor) else Tensor(as_array(o)) for o in outs], structure, both[1]

    def backward(self, residuals: Any, g: Sequence[Any]) -> list[Tensor]:
        """bwd on these residuals and gradients of the outputs (below all vmaps): a gradient for each input."""
        bwd = self.function.bwd
        assert bwd is not None
        tensors = [gi if isinstance(gi, Tensor) else Tensor._of(np.asarray(gi), None) for gi in g]
        shown = [under(t, chain) for t, chain in zip(tensors, self.out_chains, strict=True)]
        name = f"the result of bwd of {self.function}"
        with applying(self.interpreter):
            gradients = bwd(residuals, unflatten(self.out_structure, shown))
            if not isinstance(gradients, (tuple, list)):
                raise TypeError(f"{name} must be a tuple, one entry for each argument, got {type(gradients)}")
            leaves = flatten_like(self.structure, tuple(gradients), name, prefix=True)
            places = paths(self.structure)
            out = []
            for i, (shape, dtype) in zip(self.places, self.likes, strict=True):
                d = np.zeros(shape, dtype) if leaves[i] is None else leaves[i]
                d = d if isinstance(d, Tensor) else Tensor(as_array(d))
                if d.shape != shape or d.dtype.kind != "f":
                    raise ValueError(
                        f"{name} must be {dtype} of shape {shape} at {places[i]}, got {d.dtype} {d.shape}"
                    )
                d = d if d.dtype == dtype else d.astype(dtype)
                out.append(spread(d, self.interpreter))
        return [whole(d) for d in out]


def _by_the_users_rule(g: Any, need: Sequence[bool], xs: Sequence[Any], call: _Ruled) -> Sequence[Any]:
    if any(isinstance(gi, Tensor) for gi in g):
        # To be differentiated again: the residuals must be known as functions of the inputs.
        _, _, residuals = call.forward(xs)
        return call.backward(residuals, g)
    return [d.data for d in call.backward(call.residuals, g)]


_custom = Op("custom_vjp", lambda *_: None, "*xs", "call", joint=_by_the_users_rule, outputs=2)


class custom_vjp:
    """A function with a derivative rule of the user's own, as JAX's decorator of this name.

    `f.defvjp(fwd, bwd)` gives the rule: `fwd` takes the arguments of `f` and returns (result, residuals), where
    residuals is anything that bwd wants; `bwd(residuals, g)` takes the gradient g of the result and returns a tuple
    with the gradient of each argument (None for zero, or for an argument that is not floating).

    For derivatives of higher order `fwd` and `bwd` are themselves differentiated, so they must be made of operations
    that have derivatives. What the function closes over gets no gradient: everything that needs one must be an
    argument, and a closed-over tensor that carries one is refused.

    >>> import dist_dp as dp
    >>> @dp.custom_vjp
    ... def clipped(x):
    ...     return x * 1
    >>> clipped.defvjp(lambda x: (x * 1, None), lambda _, g: (dp.ops.clip(g, -1, 1),))
    >>> dp.grad(lambda x: 5 * clipped(x))(2.0)
    tensor(1.)
    """

    def __init__(self, fun: Callable[..., Any]) -> None:
        check_function(fun)
        functools.update_wrapper(self, fun)
        self.fun = fun
        self.fwd: Callable[..., Any] | None = None
        self.bwd: Callable[..., Any] | None = None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Set the rule: `fwd(*args) -> (result, residuals)` and `bwd(residuals, g) -> gradients`."""
        check_function(fwd, "fwd")
        check_function(bwd, "bwd")
        self.fwd, self.bwd = fwd, bwd

    def __repr__(self) -> str:
        return f"custom_vjp {getattr(self.fun, '__name__', self.fun)}"

    @at_once("custom_vjp")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            RuntimeError: no rule was set.
            ValueError: the function closes over a tensor that carries a gradient, or bwd returned gradients of
                another nesting or shape than the arguments.
        """
        if self.fwd is None:
            raise RuntimeError(f"{self} has no rule yet: call defvjp(fwd, bwd) before using it")
        if kwargs:
            bound = inspect.signature(self.fun).bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        call = _Ruled(self, args)
        if not call.inputs or not is_grad_enabled():
            return self.fun(*args)
        below = call.hide()
        outs, call.out_structure, call.residuals = call.forward([x.detach() for x in below])
        if any(o.node is not None for o in outs):
            raise ValueError(
                f"{self} closes over a tensor that carries a gradient, which its rule does not know of: "
                "make that tensor an argument"
            )
        outs = [spread(o, call.interpreter) for o in outs]
        call.out_chains = [levels(o) for o in outs]
        results = [whole(o) for o in outs]
        common = Node(
            _custom,
            tuple(x.node for x in below),
            ((tuple(x.data for x in below), call),),
            (),
            tuple((r.shape, r.dtype) for r in results),
        )
        shown = [
            under(one_output(common, k, r.data), chain)
            for k, (r, chain) in enumerate(zip(results, call.out_chains, strict=True))
        ]
        return unflatten(call.out_structure, shown)

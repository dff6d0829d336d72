"""Functions that make functions: grad, value_and_grad, vjp, jvp, linearize, jacobian, hessian, hvp.

Names and signatures are JAX's. A transform puts each input it differentiates with respect to under a node of its own,
runs the function with recording on, and sweeps from the outputs to exactly those nodes; so transforms nest, and none
mistakes another's derivative for its own. A sweep is itself recorded only if something else that carries a gradient
was reached (an enclosing transform, or a parameter that the function closes over): plain `grad(f)(x)` runs on arrays.

Inputs and outputs may be dicts, lists, tuples and named tuples of arrays, and every result is made of Tensors.
`checkpoint` and `custom_vjp` are in `opaque.py`, `vmap` in `batching/`; this module has their names too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from . import ops
from .arguments import check_argnums, check_function
from .backward import backward, forward, reach
from .batching.vectorize import levels, spread, under, vmap, whole
from .opaque import checkpoint, custom_vjp
from .ops.core import as_array, identity
from .pytree import Structure, flatten, flatten_like, map_leaves, paths, unflatten
from .tape import INTERPRET, Leaf, Node, at_once, enable_grad, is_grad_enabled, mode
from .tensor import Tensor

__all__ = [
    "checkpoint",
    "custom_vjp",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "linearize",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]

Tree = TypeVar("Tree")


# ----- one run of a function, and sweeps over it -----


class _Run:
    """One run of `call` on `xs`, its differentiable inputs, each under a node of its own, for the transform `name`.

    Attributes:
        inputs: the inputs as the function saw them.
        outs, structure: the leaves of its result, and how they are nested.
        aux: the second part of the result, with `has_aux`.
        linked: whether other things that carry a gradient were reached, so that sweeps must be recorded.
    """

    def __init__(
        self, name: str, call: Callable[[list[Tensor]], Any], xs: Sequence[Tensor], has_aux: bool
    ) -> None:
        recording = is_grad_enabled()
        self.inputs = [_alias(x) for x in xs]
        with enable_grad(), at_once(name):
            result = call(self.inputs)
        self.aux = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(f"fun must return (result, aux) with has_aux=True, got {_kind(result)}")
            result, self.aux = result
        self.outs, self.structure = flatten(result)
        for out, path in zip(self.outs, paths(self.structure), strict=True):
            if not isinstance(out, Tensor):
                raise TypeError(
                    f"fun must return Tensors, got {_kind(out)} for result{path}: a value that was taken out of "
                    "its Tensor carries no gradient (return the Tensor, not its item(), float() or numpy())"
                )
        self.ends = {whole(x).node for x in self.inputs}
        self.linked = recording and self._reaches_others(xs)

    def _reaches_others(self, xs: Sequence[Tensor]) -> bool:
        if any(x.node is not None for x in xs):
            return True
        tensors = [*self.outs, *flatten(self.aux)[0]]
        roots = [t.node for t in tensors if isinstance(t, Tensor) and t.node is not None]
        return any(node.op is None for node in reach(roots, self.ends))

    def result(self) -> Any:
        """The function's result for the caller, without a history that only led to our own nodes."""
        return unflatten(self.structure, [self.released(out) for out in self.outs])

    def released(self, x: Any) -> Any:
        return x.detach() if isinstance(x, Tensor) and not self.linked else x

    def pull(self, cotangents: Sequence[Tensor], retain: bool) -> list[Tensor]:
        """Jᵀ applied to cotangents of the outputs: one gradient for each input."""
        recorded = self.linked or (is_grad_enabled() and any(g.node is not None for g in cotangents))
        roots = []
        for out, g in zip(self.outs, cotangents, strict=True):
            root, seed = whole(out), whole(spread(g, _active()))
            if root.node is not None and root.shape == seed.shape:
                roots.append((root.node, seed if recorded else seed.data))
        targets = [whole(x).node for x in self.inputs]
        found = backward(roots, targets=targets, retain_graph=retain, create_graph=recorded)
        owned = _owned(found, [seed for _, seed in roots])
        return [_result(g, x) for g, x in zip(owned, self.inputs, strict=True)]

    def push(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """J applied to tangents of the inputs: one tangent for each output."""
        recorded = self.linked or (is_grad_enabled() and any(t.node is not None for t in tangents))
        seeds = {}
        for x, t in zip(self.inputs, tangents, strict=True):
            seed = whole(spread(t, _active()))
            seeds[whole(x).node] = seed if recorded else seed.data
        found = forward(seeds, [whole(out).node for out in self.outs], create_graph=recorded)
        owned = _owned(found, seeds.values())
        return [_result(t, out) for t, out in zip(owned, self.outs, strict=True)]


def _active() -> Any:
    return mode.interpreter if mode.state == INTERPRET else None


def _alias(x: Tensor) -> Tensor:
    """The same value under a new node, with all examples of every vmap around."""
    x = spread(x, _active())
    below = whole(x)
    behind = Leaf(below.shape, below.dtype) if below.node is None else below.node
    node = Node(identity, (behind,), ((),), (), below.shape)
    return under(Tensor._of(below.data, node), levels(x))


def _result(value: Any, like: Tensor) -> Tensor:
    """A gradient or tangent of `like` as the caller sees it; zeros where no path led to one."""
    if value is None:
        value = np.zeros(whole(like).shape, like.dtype)
    return under(value if isinstance(value, Tensor) else Tensor._of(value, None), levels(like))


def _owned(found: Iterable[Any], seeds: Iterable[Any]) -> list[Any]:
    """Arrays of their own: what a sweep returns may be a view, one array twice, or the seed it was given."""
    seen = {id(seed) for seed in seeds}
    out = []
    for value in found:
        if value is not None and not isinstance(value, Tensor):
            value = np.asarray(value)
            if value.base is not None or id(value) in seen or not value.flags.writeable:
                value = value.copy()
            seen.add(id(value))
        out.append(value)
    return out


# ----- arguments -----


def _kind(x: Any) -> str:
    return f"{type(x).__name__} of dtype {x.dtype}" if hasattr(x, "dtype") else type(x).__name__


def _positions(argnums: int | Sequence[int], count: int) -> list[int]:
    chosen = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in chosen:
        if not -count <= i < count:
            raise ValueError(
                f"argnums={argnums!r} is out of range for a call with {count} positional arguments"
            )
    positions = [i % count for i in chosen]
    if len(set(positions)) != len(positions):
        raise ValueError(f"argnums must name each argument once, got {argnums!r}")
    return positions


def _differentiable(leaf: Any, name: str) -> Tensor:
    try:
        x = leaf if isinstance(leaf, Tensor) else Tensor._of(as_array(leaf), None)
    except TypeError:
        raise TypeError(f"{name} must be a floating array or Tensor, got {_kind(leaf)}") from None
    if x.dtype.kind != "f":
        raise TypeError(
            f"{name} must be floating, got {_kind(leaf)}: integers and booleans carry no gradient; convert it, "
            "or leave it out of what is differentiated (argnums)"
        )
    return x


def _inputs(trees: Sequence[Any], names: Sequence[str]) -> tuple[list[Tensor], Structure]:
    """The leaves of several arguments as Tensors, and the structure of the tuple of them."""
    leaves, structure = flatten(tuple(trees))
    places = [
        name + path for name, tree in zip(names, structure.children, strict=True) for path in paths(tree)
    ]
    return [_differentiable(x, place) for x, place in zip(leaves, places, strict=True)], structure


def _seeds(likes: Sequence[Tensor], structure: Structure, tree: Any, name: str) -> list[Tensor]:
    """Tangents or cotangents, one for each of `likes`, of its shape and dtype."""
    out = []
    values = flatten_like(structure, tree, name)
    for like, value, path in zip(likes, values, paths(structure), strict=True):
        if type(value) in (float, int):
            value = Tensor(np.asarray(value, like.dtype))
        x = value if isinstance(value, Tensor) else Tensor(as_array(value))
        if x.shape != like.shape:
            raise ValueError(f"{name}{path} must have shape {like.shape}, got {x.shape}")
        if x.dtype != like.dtype:
            raise TypeError(
                f"{name}{path} must have dtype {like.dtype}, got {x.dtype}; convert it with astype"
            )
        out.append(x)
    return out


def _run_at(
    name: str,
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    positions: Sequence[int],
    has_aux: bool,
) -> tuple[_Run, list[Tensor], Structure]:
    """A run of `fun` that differentiates with respect to the arguments at `positions`."""
    xs, structure = _inputs([args[i] for i in positions], [f"argument {i}" for i in positions])

    def call(inputs: list[Tensor]) -> Any:
        full = list(args)
        for i, tree in zip(positions, unflatten(structure, inputs), strict=True):
            full[i] = tree
        return fun(*full, **kwargs)

    return _Run(name, call, xs, has_aux), xs, structure


def _run_all(
    name: str, fun: Callable[..., Any], primals: Sequence[Any], has_aux: bool
) -> tuple[_Run, list[Tensor], Structure]:
    xs, structure = _inputs(primals, [f"primals[{i}]" for i in range(len(primals))])
    return _Run(name, lambda inputs: fun(*unflatten(structure, inputs)), xs, has_aux), xs, structure


# ----- the transforms -----


def value_and_grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns the value of `fun` and its gradient.

    Args:
        fun: returns a scalar Tensor of shape (), or a tuple (scalar, aux) with `has_aux`.
        argnums: the positional argument, or arguments, to differentiate with respect to.
        has_aux: `fun` returns something else besides; it is passed on: ((value, aux), gradient).

    Returns:
        A function with the arguments of `fun`. The gradient is nested like the argument, in its dtypes; with a
        sequence of `argnums` it is a tuple.

    Raises:
        TypeError: a chosen argument is not floating, or the result is not a floating scalar Tensor.
        ValueError: `argnums` is out of range.

    >>> import dist_dp as dp
    >>> value, g = dp.value_and_grad(lambda w: (w["a"] * w["b"]).sum())({"a": dp.tensor([1.0, 2.0]), "b": 3.0})
    >>> value, g["b"]
    (tensor(9.), tensor(3.))
    """
    check_function(fun)
    check_argnums(argnums)

    @functools.wraps(fun)
    def with_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        positions = _positions(argnums, len(args))
        run, _, structure = _run_at("grad", fun, args, kwargs, positions, has_aux)
        single = run.structure.kind is None
        if not single or run.outs[0].shape != () or run.outs[0].dtype.kind != "f":
            got = f"{run.outs[0].dtype} {run.outs[0].shape}" if single else f"a nesting of {len(run.outs)}"
            raise TypeError(
                f"fun must return one floating Tensor of shape () to have a gradient, got {got}; "
                "jacobian and vjp are for other results"
            )
        one = Tensor._of(np.ones((), run.outs[0].dtype), None)
        gradients = unflatten(structure, run.pull([one], retain=False))
        value = run.result()
        if has_aux:
            value = value, map_leaves(run.released, run.aux)
        return value, gradients[0] if isinstance(argnums, int) else gradients

    return with_gradient


def grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `fun`; (gradient, aux) with `has_aux`. See `value_and_grad`.

    >>> import dist_dp as dp
    >>> dp.grad(dp.grad(lambda x: x * x * x))(2.0)
    tensor(12.)
    """
    both = value_and_grad(fun, argnums, has_aux)

    @functools.wraps(fun)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return gradient


def vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of `fun` at `primals`, and the function v -> Jᵀv (a vector-Jacobian product).

    Returns:
        (out, f_vjp), or (out, f_vjp, aux) with `has_aux`. `f_vjp(v)` takes a v nested like the result, of its
        shapes and dtypes, and returns a tuple with a gradient for each of `primals`; it can be called repeatedly.

    Raises:
        TypeError: a primal is not floating, or v has another dtype.
        ValueError: v is nested differently, or has another shape.

    >>> import dist_dp as dp
    >>> out, f_vjp = dp.vjp(lambda x, y: x * y, 2.0, 3.0)
    >>> out, f_vjp(1.0)
    (tensor(6.), (tensor(3.), tensor(2.)))
    """
    check_function(fun)
    run, _, structure = _run_all("vjp", fun, primals, has_aux)

    def f_vjp(cotangents: Any) -> Any:
        seeds = _seeds(run.outs, run.structure, cotangents, "cotangents")
        return unflatten(structure, run.pull(seeds, retain=True))

    if has_aux:
        return run.result(), f_vjp, map_leaves(run.released, run.aux)
    return run.result(), f_vjp


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """The value of `fun` at `primals`, and its derivative Jt in the direction of `tangents`.

    Returns:
        (out, tangent_out), or (out, tangent_out, aux) with `has_aux`; the tangent is nested like the result.

    Raises:
        TypeError: `primals` or `tangents` is not a tuple or list, a primal is not floating, or a tangent has
            another dtype.
        ValueError: tangents are nested differently from primals, or have other shapes.

    >>> import dist_dp as dp
    >>> dp.jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 0.0))
    (tensor(6.), tensor(3.))
    """
    check_function(fun)
    for name, value in (("primals", primals), ("tangents", tangents)):
        if not isinstance(value, (tuple, list)):
            raise TypeError(
                f"{name} must be a tuple with an entry for each argument of fun, got {_kind(value)}"
            )
    run, xs, structure = _run_all("jvp", fun, primals, has_aux)
    seeds = _seeds(xs, structure, tuple(tangents), "tangents")
    tangents_out = unflatten(run.structure, run.push(seeds))
    if has_aux:
        return run.result(), tangents_out, map_leaves(run.released, run.aux)
    return run.result(), tangents_out


def linearize(fun: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of `fun` at `primals`, and the linear function t -> Jt there: jvp for many tangents of one run.

    Raises:
        TypeError, ValueError: as `jvp`.

    >>> import dist_dp as dp
    >>> out, f_jvp = dp.linearize(lambda x: x * x, 3.0)
    >>> f_jvp(1.0), f_jvp(2.0)
    (tensor(6.), tensor(12.))
    """
    check_function(fun)
    run, xs, structure = _run_all("linearize", fun, primals, has_aux=False)

    def f_jvp(*tangents: Any) -> Any:
        return unflatten(run.structure, run.push(_seeds(xs, structure, tangents, "tangents")))

    return run.result(), f_jvp


def jacrev(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The Jacobian of `fun` by one backward sweep for each element of the result. See `jacobian`."""
    return _jacobian(fun, argnums, forwards=False)


def jacfwd(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The Jacobian of `fun` by one forward sweep for each element of the arguments. See `jacobian`."""
    return _jacobian(fun, argnums, forwards=True)


def jacobian(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the Jacobian of `fun`, in whichever direction takes fewer sweeps.

    Args:
        fun: returns floating Tensors, nested in any way.
        argnums: the positional argument, or arguments, to differentiate with respect to.

    Returns:
        A function with the arguments of `fun`. Its result is nested like that of `fun`, and in place of each Tensor
        there is the nesting of the argument, with arrays of shape (*shape of the result, *shape of the argument).

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    >>> import dist_dp as dp
    >>> dp.jacobian(lambda x: x * x)(dp.tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    return _jacobian(fun, argnums, forwards=None)


def _jacobian(
    fun: Callable[..., Any], argnums: int | Sequence[int], forwards: bool | None
) -> Callable[..., Any]:
    check_function(fun)
    check_argnums(argnums)

    @functools.wraps(fun)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        positions = _positions(argnums, len(args))
        run, xs, structure = _run_at("jacobian", fun, args, kwargs, positions, has_aux=False)
        for out, path in zip(run.outs, paths(run.structure), strict=True):
            if out.dtype.kind != "f":
                raise TypeError(f"fun must return floating Tensors, got {out.dtype} for result{path}")
        ahead = sum(x.size for x in xs) <= sum(o.size for o in run.outs) if forwards is None else forwards
        if ahead:
            columns = [_stacked(run.push, xs, i, run.outs) for i in range(len(xs))]
            blocks = [[ops.moveaxis(c[k], 0, -1) for c in columns] for k in range(len(run.outs))]
        else:
            blocks = [
                _stacked(lambda gs: run.pull(gs, retain=True), run.outs, k, xs) for k in range(len(run.outs))
            ]
        results = []
        for out, row in zip(run.outs, blocks, strict=True):
            tree = unflatten(
                structure, [ops.reshape(b, (*out.shape, *x.shape)) for b, x in zip(row, xs, strict=True)]
            )
            results.append(tree[0] if isinstance(argnums, int) else tree)
        return unflatten(run.structure, results)

    return jacobian_of


def _stacked(
    sweep: Callable[[list[Tensor]], list[Tensor]],
    seeded: Sequence[Tensor],
    which: int,
    ends: Sequence[Tensor],
) -> list[Tensor]:
    """What a sweep brings to each of `ends` for every unit seed of one tensor, stacked on a new axis 0."""
    seeds = [Tensor._of(np.zeros(s.shape, s.dtype), None) for s in seeded]
    size = seeded[which].size
    results = []
    for k in range(size):
        unit = np.zeros(size, seeded[which].dtype)
        unit[k] = 1
        seeds[which] = Tensor._of(unit.reshape(seeded[which].shape), None)
        results.append(sweep(seeds))
    if not results:
        return [Tensor._of(np.zeros((0, *end.shape), end.dtype), None) for end in ends]
    return [ops.stack(list(parts)) for parts in zip(*results, strict=True)]


def hessian(fun: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of a scalar `fun`: the Jacobian of its gradient.

    In place of each array of the gradient stands the nesting of the argument, with arrays of shape
    (*shape of the one, *shape of the other).

    Raises:
        TypeError, ValueError: as `value_and_grad`.

    >>> import dist_dp as dp
    >>> dp.hessian(lambda x: (x * x * x).sum())(dp.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """
    return jacrev(grad(fun, argnums), argnums)


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of the scalar `f` at `primals` times `tangents`, without forming it: jvp of grad.

    Costs a small multiple of one gradient (Pearlmutter, "Fast exact multiplication by the Hessian", 1994).

    Returns:
        The product, nested like the argument; for several primals a tuple with an entry for each.

    Raises:
        TypeError, ValueError: as `jvp` and `grad`.

    >>> import dist_dp as dp
    >>> dp.hvp(lambda x: (x * x * x).sum(), (dp.tensor([1.0, 2.0]),), (dp.tensor([1.0, 1.0]),))
    tensor([ 6., 12.])
    """
    check_function(f, "f")
    if not isinstance(primals, (tuple, list)):
        raise TypeError(f"primals must be a tuple with an entry for each argument of f, got {_kind(primals)}")
    argnums: int | tuple[int, ...] = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return jvp(grad(f, argnums), primals, tangents)[1]


def stop_gradient(tree: Tree) -> Tree:
    """The same values, through which no gradient flows.

    >>> import dist_dp as dp
    >>> dp.grad(lambda x: x * dp.stop_gradient(x))(3.0)
    tensor(3.)
    """
    return map_leaves(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)  # type: ignore[no-any-return]

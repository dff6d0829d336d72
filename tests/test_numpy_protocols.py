"""dist_dp.numpy has NumPy's names, signatures and values; np.f(tensor) differentiates or says that it does not."""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dist_dp.numpy as dnp
from dist_dp import Tensor, vmap
from dist_dp.debug import gradcheck
from dist_dp.numpy.protocols import like
from dist_dp.pytree import flatten, map_leaves
from dist_dp.tensor import numpy_functions

_random = np.random.default_rng(0)


def uniform(*shape: int, low: float = 0.1) -> Any:
    return _random.uniform(low, 0.9, shape)


A, B, V, S = uniform(2, 3), uniform(2, 3), uniform(3), uniform(3, 3)
INTS = np.array([[3, 1], [2, 1]])
BOOLS = np.array([[True, False, True], [False, False, True]])


def each(names: str, arguments: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), arguments)


# Arguments for the functions that take more, or other, than one array: positional ones, then keywords.
ARGUMENTS: dict[str, Any] = {
    **each(
        "add subtract multiply divide true_divide floor_divide remainder mod fmod power pow maximum minimum arctan2 "
        "atan2 hypot logaddexp copysign equal not_equal less less_equal greater greater_equal isclose allclose "
        "array_equal array_equiv",
        (A, B),
    ),
    **each(
        "logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor isin",
        (BOOLS, BOOLS[0]),
    ),
    **each("logical_not invert bitwise_not bitwise_invert all any nonzero argwhere flatnonzero", (BOOLS,)),
    **each("arccosh acosh", (A + 1,)),
    **each("sum mean prod max min amax amin ptp median", (A, 1, {"keepdims": True})),
    **each("var std", (A, (0, 1), {"ddof": 1})),
    **each("argmax argmin cumsum cumprod sort argsort", (A, 0)),
    **each("concatenate concat stack", ([A, B], 1)),
    **each("hstack vstack dstack column_stack broadcast_arrays", ([A, B],)),
    **each("split array_split hsplit", (V, 3)),
    **each("transpose permute_dims", (A, (1, 0))),
    **each("ravel_multi_index", ((INTS, INTS), (4, 5))),
    **each("shares_memory may_share_memory", (A, A)),
    **each("zeros ones empty", ((2, 3), {"dtype": "float64"})),
    **each("matmul dot", (A, S)),
    **each("inner vdot kron", (A, B)),
    **each("fliplr rot90 diagonal trace tril triu diag matrix_transpose diff", (S,)),
    "append": (A, B, 1),
    "arange": (1, 7, 2),
    "astype": (A, np.float64),
    "average": (A, 0, {"weights": B}),
    "broadcast_arrays": (A, V),
    "broadcast_shapes": ((2, 1), (3,)),
    "broadcast_to": (V, (2, 3)),
    "can_cast": (np.float32, np.float64),
    "clip": (A, 0.3, 0.6),
    "count_nonzero": (BOOLS, {"axis": 1}),
    "cross": (A, B),
    "digitize": (A, np.array([0.2, 0.5])),
    "dsplit": (A.reshape(1, 2, 3), 3),
    "dtype": ("float32",),
    "einsum": ("ij,kj->ik", A, B),
    "expand_dims": (A, 1),
    "eye": (3, {"dtype": "float64"}),
    "finfo": (np.float32,),
    "flip": (A, 1),
    "full": ((2, 3), 1.5, {"dtype": "float64"}),
    "full_like": (A, 2.0),
    "identity": (3, {"dtype": "float64"}),
    "iinfo": (np.int8,),
    "lexsort": ((V, V),),
    "linspace": (0.0, 1.0, 5, {"dtype": "float64"}),
    "meshgrid": (V, V),
    "moveaxis": (A, 0, 1),
    "outer": (V, V),
    "pad": (A, ((1, 0), (0, 2)), {"mode": "edge"}),
    "repeat": (A, 2, {"axis": 0}),
    "reshape": (A, (3, 2)),
    "result_type": (A, 1),
    "roll": (A, 1, {"axis": 1}),
    "round": (A, 1),
    "around": (A, 1),
    "searchsorted": (np.arange(3.0), V),
    "squeeze": (A[None],),
    "swapaxes": (A, 0, 1),
    "take": (A, INTS % 3, {"axis": 1}),
    "take_along_axis": (A, np.array([[0, 2], [1, 1]]), 1),
    "tensordot": (A, B, {"axes": ((0, 1), (0, 1))}),
    "tile": (A, (2, 1)),
    "unique": (INTS,),
    "unravel_index": (INTS, (4, 5)),
    "unstack": (A, {"axis": 1}),
    "vsplit": (A, 2),
    "where": (BOOLS, A, B),
}
LINALG: dict[str, Any] = {
    **each("norm matrix_norm svdvals", (A,)),
    **each("inv det slogdet cholesky eigvalsh eigh", (S @ S.T + np.eye(3),)),
    **each("qr pinv", (A,)),
    "svd": (S,),
    "vector_norm": (A, {"axis": 1}),
    "solve": (S + np.eye(3), V),
    "lstsq": (uniform(4, 2), uniform(4)),
    "multi_dot": ([A, S, V],),
    "matrix_power": (S, 3),
    **each("matmul", (A, S)),
    **each("trace diagonal matrix_transpose", (S,)),
    "outer": (V, V),
    "cross": (A, B),
    "tensordot": (A, B, {"axes": ((0, 1), (0, 1))}),
}
# Not functions of arrays, or of values that NumPy leaves to chance.
OTHER = {
    "bool_",
    "dtype",
    "finfo",
    "iinfo",
    "empty",
    "empty_like",
    "linalg",
    "array_repr",
    "array_str",
    "array2string",
    "result_type",
}
NAMES = [
    n
    for n in dnp.__all__
    if callable(getattr(np, n)) and n not in OTHER and not isinstance(getattr(np, n), type)
]
# Integers and booleans, or values that a gradient does not reach.
STEPS = {"floor_divide", "sign", "floor", "ceil", "trunc", "rint", "round", "around"}


def has_signature(function: Any) -> bool:
    """Whether Python can read it: the compiled functions of older NumPy versions have none."""
    try:
        return isinstance(function, np.ufunc) or bool(inspect.signature(function))
    except ValueError:
        return False


def split_arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (given[:-1], given[-1]) if isinstance(given[-1], dict) else (given, {})


def carrying(tree: Any) -> Any:
    """The same arguments with a tensor that carries a gradient for every array of floats."""
    return map_leaves(
        lambda x: Tensor(x, requires_grad=True) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x,
        tree,
    )


def check(ours: Any, theirs: Any, name: str, given: Any) -> None:
    args, kwargs = split_arguments(given)
    expected = [np.asarray(x) for x in flatten(_as_tuples(theirs(*args, **kwargs)))[0]]
    tensors = carrying([*args])
    for results in (
        ours(*args, **kwargs),
        ours(*tensors, **kwargs),
        _by_protocol(theirs, ours, tensors, kwargs),
    ):
        found = flatten(_as_tuples(results))[0]
        assert len(found) == len(expected)
        for x, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(x.data if isinstance(x, Tensor) else x, value, rtol=1e-12, atol=1e-12)
            assert np.shape(x) == value.shape
            if isinstance(x, Tensor):
                assert x.dtype == value.dtype or x.dtype.kind == value.dtype.kind == "i"
    floats = [x for x in found if isinstance(x, Tensor) and x.dtype.kind == "f"]
    inputs = [x for x in flatten(tensors)[0] if isinstance(x, Tensor)]
    if floats and inputs and name not in STEPS and not name.endswith("_like"):
        assert any(x.node is not None for x in floats), "a gradient was lost"


def _as_tuples(x: Any) -> Any:
    """NumPy's named results (of linalg) as plain tuples."""
    return tuple(map(_as_tuples, x)) if isinstance(x, (tuple, list)) else x


def _by_protocol(theirs: Any, ours: Any, tensors: Any, kwargs: Any) -> Any:
    reaches = any(isinstance(x, Tensor) for x in flatten(tensors)[0]) and theirs in numpy_functions
    return theirs(*tensors, **kwargs) if reaches else ours(*tensors, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_the_values_of_numpy_and_keeps_the_gradient(name: str) -> None:
    check(getattr(dnp, name), getattr(np, name), name, ARGUMENTS.get(name, (A,)))


@pytest.mark.parametrize("name", dnp.linalg.__all__)
def test_every_name_of_linalg_has_the_values_of_numpy_and_keeps_the_gradient(name: str) -> None:
    check(getattr(dnp.linalg, name), getattr(np.linalg, name), name, LINALG[name])


@pytest.mark.parametrize("name", [*NAMES, *(f"linalg.{n}" for n in dnp.linalg.__all__)])
def test_every_name_has_the_signature_of_numpy(name: str) -> None:
    space, _, last = name.rpartition(".")
    ours = getattr(dnp.linalg if space else dnp, last)
    theirs = getattr(np.linalg if space else np, last)
    if isinstance(theirs, np.ufunc):
        assert len(inspect.signature(ours).parameters) == theirs.nin
        return
    if name == "arange" or not has_signature(theirs):
        return  # arange: whose first argument is the start or the stop
    mine = list(inspect.signature(ours).parameters.values())
    known = inspect.signature(theirs).parameters
    assert [p.name for p in mine] == [n for n in known if n in {p.name for p in mine}], (
        "the order of the parameters"
    )
    for p in mine:
        if p.default is not p.empty and known[p.name].default is not np._NoValue:  # type: ignore[attr-defined]
            assert p.default == known[p.name].default or p.name in ("dtype", "casting"), p


def test_constants_are_those_of_numpy() -> None:
    assert (dnp.pi, dnp.e, dnp.inf, dnp.newaxis) == (np.pi, np.e, np.inf, None)
    assert math.isnan(dnp.nan)
    assert dnp.float32 is np.float32


def test_floats_are_float32_unless_said_otherwise() -> None:
    for x in (
        dnp.zeros(2),
        dnp.ones((2, 2)),
        dnp.full(2, 0.5),
        dnp.eye(2),
        dnp.linspace(0, 1, 3),
        dnp.array([0.5]),
    ):
        assert x.dtype == np.float32
    assert dnp.arange(3).dtype == np.int64
    assert dnp.zeros_like(np.zeros(2)).dtype == np.float64
    assert dnp.zeros(2, dtype=np.float64).dtype == np.float64


def test_an_array_of_results_keeps_their_gradients() -> None:
    gradcheck(lambda x: dnp.array([[x[0], 1.0], [x[1] * x[0], x[1]]]), V)
    t = Tensor(V, requires_grad=True)
    assert dnp.asarray(t) is t
    assert not np.shares_memory(dnp.array(t).data, t.data)
    assert dnp.array(t, dtype=np.float32).dtype == np.float32


# ----- what is not supported says so


def public_functions() -> Iterator[tuple[str, Any]]:
    for space in (np, np.linalg, np.fft):
        for name in dir(space):
            function = getattr(space, name)
            if not name.startswith("_") and callable(function) and not isinstance(function, type):
                yield f"{space.__name__.replace('numpy', 'np')}.{name}", function


# Reads or writes files, prints, or changes settings.
ELSEWHERE = {
    "frombuffer",
    "fromfile",
    "fromregex",
    "genfromtxt",
    "load",
    "loadtxt",
    "save",
    "savetxt",
    "savez",
    "savez_compressed",
    "info",
    "show_config",
    "show_runtime",
    "test",
    "set_printoptions",
    "setbufsize",
    "seterr",
    "seterrcall",
    "printoptions",
    "errstate",
    "get_include",
}


@pytest.mark.parametrize(
    ("name", "function"),
    [pytest.param(n, f, id=n) for n, f in public_functions() if n.rpartition(".")[2] not in ELSEWHERE],
)
def test_no_function_of_numpy_takes_a_gradient_and_returns_numbers_without_one(
    name: str, function: Any
) -> None:
    for count in range(1, 5):
        try:
            result = function(*[Tensor(np.full((2, 2), 0.5), requires_grad=True) for _ in range(count)])
        except Exception:  # refused, or called with too few or too many
            continue
        for x in flatten(_as_tuples(result))[0]:
            if (
                isinstance(x, (Tensor, np.ndarray, float))
                and np.asarray(getattr(x, "data", x)).dtype.kind == "f"
            ):
                last = name.rpartition(".")[2]
                assert getattr(x, "node", None) is not None or last.endswith("_like") or last in STEPS


@pytest.mark.parametrize(
    ("name", "function"),
    [
        pytest.param(n, f, id=n)
        for n, f in public_functions()
        if f not in numpy_functions and hasattr(f, "_implementation") and has_signature(f)
    ],
)
def test_an_unsupported_function_names_itself(name: str, function: Any) -> None:
    if name.rpartition(".")[2] in ELSEWHERE:
        return
    required = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    arguments = [Tensor(np.full((2, 2), 0.5), requires_grad=True) for _ in required] or [Tensor(np.ones(2))]
    if name in ("np.block", "np.linalg.multi_dot"):
        arguments = [[arguments[0]]]  # type: ignore[list-item]
    with pytest.raises(TypeError, match=rf"np\..*{name.rpartition('.')[2]}.* is not supported on a Tensor"):
        function(*arguments)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda t: np.sum(t, where=t.data > 0), "where="),
        (lambda t: np.sum(t, initial=1.0), "initial="),
        (lambda t: np.mean(t, out=np.zeros(())), "out="),
        (lambda t: np.reshape(t, (3, 2), order="F"), "order="),
        (lambda t: np.add(t, 1.0, where=False), "where="),
        (lambda t: np.add(t, 1.0, out=np.zeros((2, 3))), "out="),
        (lambda t: np.add(t, 1.0, dtype=np.float32), "dtype="),
        (lambda t: np.add.accumulate(t), "np.add.accumulate"),
        (lambda t: np.add.at(t, 0, 1.0), "np.add.at"),
        (lambda t: np.multiply.outer(t, t), "np.multiply.outer"),
        (lambda t: np.maximum.reduce(t, initial=0.0), "initial="),
        (lambda t: np.add.reduce(t, dtype=np.float32), "dtype="),
        (lambda t: np.concatenate([t, t], out=np.zeros((4, 3))), "out="),
        (lambda t: np.fft.fft(t), "np.fft.fft"),
        (lambda t: np.linalg.eig(t), "np.linalg.eig"),
        (lambda t: dnp.sum(t, 0, None, None, False, 1.0), "initial="),
        (lambda t: dnp.sum(t, bogus=1), "no argument `bogus`"),
        (lambda t: dnp.sum(t, 0, axis=0), "two values for `axis`"),
        (lambda t: dnp.flip(t, 0, 0), "at most 2 positional"),
    ],
)  # fmt: skip
def test_an_argument_that_is_not_supported_is_refused_by_name(call: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        call(Tensor(A, requires_grad=True))


def test_the_defaults_of_numpy_hold() -> None:
    def theirs(array: Any, axis: Any = -1, out: Any = None) -> None: ...

    ours = like(theirs, lambda x, axis=None: (x, axis))
    try:
        assert ours(5) == ours(array=5) == (5, -1)
        assert ours(5, 0) == ours(5, axis=0) == ours(5, 0, None) == (5, 0)
        assert ours(5, None) == (5, None)
    finally:
        del numpy_functions[theirs]


def test_pad_takes_what_numpy_takes_by_mode() -> None:
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    for pad in (np.pad, dnp.pad):
        out = pad(x, (0, 2), constant_values=-1.0)
        assert isinstance(out, Tensor) and out.tolist() == [1.0, 2.0, -1.0, -1.0]
    with pytest.raises(TypeError, match=r"np\.pad has no argument `end_values`"):
        np.pad(x, (0, 2), mode="linear_ramp", end_values=1.0)


def test_defaults_that_are_spelled_out_are_accepted() -> None:
    t = Tensor(A, requires_grad=True)
    np.testing.assert_array_equal(
        np.sum(t, axis=1, dtype=None, out=None, keepdims=True).data, A.sum(1, keepdims=True)
    )
    np.testing.assert_array_equal(np.reshape(t, (3, 2), order="C").data, A.reshape(3, 2))
    np.testing.assert_array_equal(np.add(t, 1, out=None).data, A + 1)


def test_ufunc_reductions_have_axis_0_by_default() -> None:
    t = Tensor(A, requires_grad=True)
    for ufunc in (np.add, np.multiply, np.maximum, np.minimum):
        np.testing.assert_allclose(ufunc.reduce(t).data, ufunc.reduce(A))
        np.testing.assert_allclose(ufunc.reduce(t, axis=1).data, ufunc.reduce(A, axis=1))
    np.testing.assert_array_equal(np.logical_and.reduce(Tensor(BOOLS)).data, np.logical_and.reduce(BOOLS))


def test_operators_with_arrays_on_either_side_are_recorded() -> None:
    t = Tensor(S, requires_grad=True)
    for compute in (
        lambda x: S + x, lambda x: S - x, lambda x: S * x, lambda x: S / x, lambda x: S @ x, lambda x: V @ x,
        lambda x: S**x, lambda x: np.float64(2) * x, lambda x: x @ S, lambda x: x - V,
    ):  # fmt: skip
        result = compute(t)
        assert type(result) is Tensor
        np.testing.assert_allclose(result.data, compute(S))
        gradcheck(compute, S)
    assert type(t > S) is Tensor
    assert type(t > V) is Tensor


def test_shapes_can_be_asked_for_inside_vmap() -> None:
    asked = []
    vmap(lambda x: asked.append((np.shape(x), np.ndim(x), np.size(x), np.size(x, 1))) or x)(
        np.zeros((4, 2, 3))
    )
    assert asked == [((2, 3), 2, 6, 3)]


# ----- programs written for plain NumPy


def logistic_regression(w: Any, b: Any, x: Any, y: Any) -> Any:
    logits = np.dot(x, w) + b
    loss = np.mean(np.logaddexp(0, logits) - y * logits)
    return loss + 0.01 * np.sum(np.square(w)) / np.size(w)


def recurrent_network(w: Any, u: Any, h: Any, xs: Any) -> Any:
    states = []
    for x in xs:
        h = np.tanh(np.matmul(h, w) + np.einsum("bi,ij->bj", x, u))
        states.append(h)
    path = np.stack(states, axis=1)
    pooled = np.concatenate([np.max(path, axis=1), np.mean(path, axis=1)], axis=-1)
    return np.where(pooled > 0, pooled, np.zeros_like(pooled)).sum() / np.prod(np.shape(pooled))


def gram_schmidt(a: Any) -> Any:
    basis: list[Any] = []
    for v in np.transpose(a):
        for q in basis:
            v = v - np.inner(v, q) * q
        basis.append(v / np.linalg.norm(v))
    return np.column_stack(basis)


def gaussian_log_likelihood(mean: Any, log_scale: Any, x: Any) -> Any:
    scale = np.diag(np.exp(log_scale)) + np.tril(np.outer(log_scale, log_scale), -1)
    residual = np.linalg.solve(scale, np.expand_dims(x - mean, -1))
    log_det = np.linalg.slogdet(scale)[1]
    return (
        np.sum(-0.5 * np.squeeze(residual, -1) ** 2, axis=1).mean()
        - log_det
        - np.log(2 * np.pi) * mean.size / 2
    )


PROGRAMS = [
    (logistic_regression, [uniform(3), np.float64(0.1), uniform(5, 3), np.array([0.0, 1, 1, 0, 1])]),
    (recurrent_network, [uniform(4, 4), uniform(2, 4), uniform(3, 4), uniform(6, 3, 2)]),
    (gram_schmidt, [uniform(4, 3) + np.eye(4, 3)]),
    (gaussian_log_likelihood, [uniform(3), uniform(3), uniform(5, 3)]),
]


@pytest.mark.parametrize(("program", "inputs"), PROGRAMS, ids=lambda p: getattr(p, "__name__", ""))
def test_programs_written_for_numpy_differentiate_unchanged(
    program: Callable[..., Any], inputs: list[Any]
) -> None:
    result = program(*[Tensor(x, requires_grad=True) for x in inputs])
    assert type(result) is Tensor
    np.testing.assert_allclose(result.data, program(*inputs), rtol=1e-12)
    gradcheck(program, *inputs, order=2)

"""What goes wrong in a batch names the example, the cell and the user's line, and leaves nothing behind."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batching.cells import ONE, double, lines, look, notes, times

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F

# --- where it is found ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 3, 7])
@pytest.mark.parametrize("limits", [{}, {"max_batch": 1}, {"max_batch": 3}, {"wave": 3}], ids=str)
def test_an_index_out_of_range_names_the_example(at: int, limits: dict[str, int]) -> None:
    def program(n: int) -> Any:
        first = double(ONE).sum()
        chosen = look(5 if n == at else n % 3)  # this line
        return first + chosen

    with pytest.raises(IndexError, match="index 5 is out of bounds") as caught:
        dp.batched(program, range(8), **limits)
    assert f"called by example {at} " in notes(caught.value) and "look" in notes(caught.value)
    assert any(line.endswith("# this line") for line in lines(caught.value, __file__)), notes(caught.value)


def test_an_operation_outside_cells_names_the_example_too() -> None:
    def program(n: int) -> Any:
        at = look(n % 3).astype(np.int64) + (9 if n == 2 else 0)
        return ops.take(np.arange(3.0), at)  # this line

    with pytest.raises(IndexError) as caught:
        dp.batched(program, range(5))
    assert "called by example 2 " in notes(caught.value)
    assert any(line.endswith("# this line") for line in lines(caught.value, __file__)), notes(caught.value)


def test_an_error_while_values_are_read_names_the_example() -> None:
    def program(n: int) -> Any:
        for k in range(3):
            if look(n + 2 * k if n == 1 else n % 3).item() < 0:  # this line
                break
        return ONE

    with pytest.raises(IndexError) as caught:
        dp.batched(program, range(4))
    assert "called by example 1 " in notes(caught.value)
    assert any(line.endswith("# this line") for line in lines(caught.value, __file__)), notes(caught.value)


@pytest.mark.parametrize(
    "call", [lambda x, y: times(x, y), lambda x, y: double(x) @ double(y)], ids=["cell", "operation"]
)
def test_a_shape_that_does_not_fit_is_refused_on_its_line(call: Callable[..., Any]) -> None:
    def program(n: int) -> Any:
        square = np.ones((2, 2))
        wide = np.ones((3 if n == 2 else 2, 2))
        product = call(square, wide)  # this line
        return product.sum()

    with pytest.raises(ValueError, match="matmul") as caught:
        dp.batched(program, range(5))
    assert "example 2 of dp.batched" in notes(caught.value)
    assert any(
        f.line.endswith("# this line") for f in traceback.extract_tb(caught.value.__traceback__) if f.line
    )


@pytest.mark.parametrize("enabled", [True, False])
def test_an_exception_of_the_user_names_the_example(enabled: bool) -> None:
    def program(n: int) -> Any:
        h = double(ONE)
        if n == 7:
            raise KeyError("unheard of")  # this line
        return h if h.sum() > 0 else h * 2

    with pytest.raises(KeyError, match="unheard of") as caught:
        dp.batched(program, range(10), enabled=enabled)
    assert notes(caught.value) == "in example 7 of dp.batched"
    assert lines(caught.value, __file__)[-1].endswith("# this line")


def test_an_exception_in_the_body_of_a_cell_names_it() -> None:
    @dp.cell
    def choosy(x: Any, word: str) -> Any:
        if word == "bad":
            raise LookupError("no such word")  # this line
        return x

    with pytest.raises(LookupError) as caught:
        dp.batched(lambda n: choosy(ONE, "bad" if n == 2 else "good"), range(4))
    assert "example 2" in notes(caught.value) and "choosy" in notes(caught.value)
    assert lines(caught.value, __file__)[-1].endswith("# this line")


def test_a_body_that_depends_on_values_names_the_example() -> None:
    @dp.cell
    def checked(x: Any) -> Any:
        assert not (x > 4).any(), "too large"
        return x

    with pytest.raises(AssertionError, match="too large") as caught:
        dp.batched(lambda n: checked(ONE * n), range(8))
    assert "called by example 5 " in notes(caught.value)


def test_an_error_that_only_the_batch_has_says_so() -> None:
    @dp.cell
    def few(x: Any) -> Any:
        if len(x) > 9:
            raise MemoryError("too many")
        return x

    with pytest.raises(MemoryError) as caught:
        dp.batched(lambda n: few(ONE * n), range(20))
    assert "few" in notes(caught.value) and "none of which fails alone" in notes(caught.value)
    assert len(dp.batched(lambda n: few(ONE * n), range(20), max_batch=9)) == 20


def test_an_error_in_backward_is_raised_as_it_is() -> None:
    op = ops.Op(
        "odd",
        lambda x: x * 1.0,
        "x",
        vjp=(lambda g: 1 / 0,),
        batch=lambda op, n, xs, b, p: ops.apply(op, xs, p),
    )
    w = dp.tensor([1.0, 2.0], requires_grad=True)
    loss = dp.batched(lambda n: ops.apply(op, (double(w),)) * n, [1.0, 2.0]).sum()
    ops.table.pop("odd", None)
    with pytest.raises(ZeroDivisionError):
        loss.backward()


# --- refusals ---------------------------------------------------------------------------------------------------------


@dp.cell
def drops_the_batch(x: Any) -> Any:
    return x.sum()


@dp.cell
def wrong_axis(x: Any) -> Any:
    return ops.stack([x, x, x, x])


@dp.cell
def no_tensor(x: Any) -> Any:
    return {"x": x, "count": 3}


@dp.cell
def array(x: Any) -> Any:
    return np.zeros(len(x))


@dp.cell
def keyed(x: Any, options: Any) -> Any:
    return x


@dp.cell
def draws_too_little(x: Any) -> Any:
    return x * dp.random.normal((4,), np.float32)[:, None]


@dp.cell
def permutes(x: Any) -> Any:
    return x[:, dp.random.permutation(2)]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        (lambda n: drops_the_batch(ONE), ValueError, r"drops_the_batch.* batch on their first axis .* got shape \(\)"),
        (lambda n: wrong_axis(ONE), ValueError, r"wrong_axis.* batch on their first axis .* got shape \(4, "),
        (lambda n: no_tensor(ONE), TypeError, r"no_tensor.* must return tensors, got int"),
        (lambda n: array(ONE), TypeError, r"array.* must return tensors, got ndarray"),
        (lambda n: draws_too_little(ONE), ValueError, r"normal inside a cell: shape must begin with the batch axis"),
        (lambda n: permutes(ONE), TypeError, r"inside a cell"),
        (lambda n: double(np.ones(n + 1)), ValueError, r"one shape .* \(1,\) for example 0 and \(2,\) for example 1"),
        (lambda n: [double(ONE)] * (n + 1), ValueError, r"one form .* list of 1 .* list of 2 .* example 1"),
        (lambda n: (ONE, ONE) if n else [ONE, ONE], ValueError, r"one form .* list .* tuple .* example 1"),
        (lambda n: "word", TypeError, r"result of fun must be real numbers"),
    ],
)  # fmt: skip
def test_what_a_program_may_not_do(program: Any, error: type, message: str, enabled: bool) -> None:
    with pytest.raises(error, match=message):
        dp.batched(program, range(3), enabled=enabled)


def test_an_unhashable_argument_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"keyed.*: options is neither a tensor, an array or a number nor hashable.*'set'"
    ):
        dp.batched(lambda n: keyed(ONE, {1, 2}), range(3))


# --- what a new user does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        lambda x, n: x * [1.0, 2.0][n],
        lambda x, n: sum(x for _ in range(n)),
        lambda x, n: ops.zeros((len(x), n)),
        lambda x, n: x.reshape(len(x), n, -1),
        lambda x, n: x * 2 if n > 1 else x,
        lambda x, n: x * n,
        lambda x, n: x[:, :n],
    ],
)
@pytest.mark.parametrize("number", [1, np.int64(1)])
def test_a_number_used_as_a_number_in_a_body(body: Any, number: Any) -> None:
    body.__qualname__ = "scaled"
    with pytest.raises((TypeError, ValueError)) as caught:
        dp.batched(lambda _: dp.cell(body)(ONE, number), range(3))
    assert "<cell scaled>, called by example 0 with x float32[2], n int64[]" in notes(caught.value)
    assert "a number is an array, one for each call (here n)" in notes(caught.value)
    assert "@dp.cell(static=['n'])" in notes(caught.value)
    dp.batched(lambda _: dp.cell(body, static=["n"])(ONE, number), range(3))


def test_a_cell_without_numbers_says_nothing_of_them() -> None:
    with pytest.raises(ValueError) as caught:
        dp.batched(lambda n: times(ONE, np.ones((3, 2), np.float32)), range(2))
    assert "x float32[2], y float32[3, 2]" in notes(caught.value) and "number" not in notes(caught.value)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("arguments", [(), ("word",), ([],), (None, {})])
def test_a_cell_of_nothing_that_has_a_batch(arguments: Any, batched: bool) -> None:
    @dp.cell
    def constant(*words: Any) -> Any:
        return ops.ones((1, 2))

    with pytest.raises(
        TypeError, match=r"constant> was called without any tensor, array or number.* give it"
    ):
        dp.batched(lambda n: constant(*arguments), range(2)) if batched else constant(*arguments)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (lambda x: None, TypeError, r"got None: is a `return` missing"),
        (lambda x: [], TypeError, r"got a list of 0: is a `return` missing"),
        (lambda x: 3.0, TypeError, r"got float as its result: a result needs a row for each call"),
        (
            lambda x: {"h": x, "n": (x, 2)},
            TypeError,
            r"got int as its result\['n'\]\[1\]: a result needs a row",
        ),
        (lambda x: x.detach().numpy(), TypeError, r"got ndarray as its result"),
        (
            lambda x: x.sum(0),
            ValueError,
            r"got shape \(2,\) as its result: reduce over other axes than the first",
        ),
        (lambda x: (x, x.mean()), ValueError, r"got shape \(\) as its result\[1\]: reduce over other axes"),
    ],
)
def test_results_that_are_none(body: Any, error: Any, message: str, batched: bool) -> None:
    body.__qualname__ = "made"
    made = dp.cell(body)
    x = np.ones(2, np.float32)
    with pytest.raises(error, match=r"<cell made> must return tensors.*" + message):
        dp.batched(lambda n: made(x), range(3)) if batched else made(x)


@pytest.mark.parametrize("calls", [1, 3, 7])
def test_a_batch_that_meets_itself_is_refused(calls: int) -> None:
    """(B, 1) times (B,) is (B, B): of every number of calls, also of that which a body is tried on."""

    @dp.cell
    def scaled(x: Any, n: Any) -> Any:
        return x * n

    with pytest.raises(
        ValueError, match=r"scaled> returned shape \(7, 7\) for 7 calls .*; write number\[:, None\]"
    ):
        dp.batched(lambda n: scaled(ONE[:1], n), range(calls))


@pytest.mark.parametrize("calls", [1, 3, 7])
def test_a_width_that_is_the_number_of_rows_of_the_trial(calls: int) -> None:
    @dp.cell
    def wide(x: Any) -> Any:
        return F.dropout(ops.concatenate([x, x, x, x[:, :1]], -1), 0.5)

    out = dp.batched(lambda n: wide(ONE * n), range(calls))
    assert out.shape == (calls, 7)


@pytest.mark.parametrize("word", ["word", "n"])
def test_names_of_arguments_that_do_not_fit(word: str) -> None:
    @dp.cell
    def strict(x: Any, *, n: int) -> Any:
        return x * n

    with pytest.raises(TypeError, match="strict") as caught:
        dp.batched(lambda _: strict(ONE, ONE, **{word: 2}), range(2))
    assert f"argument 0 float32[2], argument 1 float32[2], {word} int64[]" in notes(caught.value)


def test_an_error_in_a_batch_of_operations_is_not_one_of_vmap() -> None:
    with pytest.raises(IndexError) as caught:
        dp.batched(lambda n: ops.take(np.arange(3.0), look(n).astype(np.int64) * 9), range(3))
    assert "in vmap" not in notes(caught.value) and "called by example 1 " in notes(caught.value)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((double, []), {}, ValueError, "examples must hold at least one example, got none"),
        ((3, [1]), {}, TypeError, r"fun must be a function, got 3 \(int\)"),
        ((double, [ONE]), {"max_batch": 0}, ValueError, "max_batch must be at least 1, got 0"),
        ((double, [ONE]), {"max_batch": -2}, ValueError, "max_batch must be at least 1, got -2"),
        ((double, [ONE]), {"wave": 0}, ValueError, "wave must be at least 1, got 0"),
        ((double, [ONE]), {"wave": "2"}, TypeError, "wave must be an int or None, got '2'"),
        ((double, [ONE]), {"max_batch": True}, TypeError, "max_batch must be an int or None, got True"),
        ((double, [ONE]), {"max_batch": 2.5}, TypeError, "max_batch must be an int or None, got 2.5"),
    ],
)
def test_wrong_arguments(arguments: Any, options: Any, error: type, message: str, enabled: bool) -> None:
    with pytest.raises(error, match=message):
        dp.batched(*arguments, enabled=enabled, **options)


def test_examples_that_are_no_sequence() -> None:
    with pytest.raises(TypeError) as caught:
        dp.batched(double, 3)  # type: ignore[arg-type]
    assert "examples" in str(caught.value)


def test_results_of_different_forms() -> None:
    with pytest.raises(ValueError, match="got one value for example 0 and a tuple of 2 for example 1"):
        dp.batched(lambda n: (ONE, ONE) if n else ONE, range(2))


def test_results_with_different_keys() -> None:
    with pytest.raises(ValueError) as caught:
        dp.batched(lambda n: {n: ONE}, ["apple", "pear"])
    assert "apple" in str(caught.value) and "pear" in str(caught.value)


def test_a_cell_of_something_else() -> None:
    with pytest.raises(TypeError, match=r"fun must be a function, got 3"):
        dp.cell(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required"):
        dp.batched(lambda n: keyed(ONE), range(2))  # type: ignore[call-arg]


def test_a_result_without_the_batch_that_happens_to_fit() -> None:
    @dp.cell
    def summed(x: Any) -> Any:
        return x.sum(0)

    with pytest.raises(ValueError, match="batch on their first axis"):
        dp.batched(lambda _: summed(ONE), range(2))
        raise AssertionError("passed")


def test_a_result_whose_form_depends_on_values() -> None:
    @dp.cell
    def chosen(x: Any) -> Any:
        return x.astype(np.float64) if (x > 0).all() else x

    with pytest.raises(RuntimeError, match="form of a result may depend neither on values"):
        dp.batched(lambda n: chosen(ONE * n), [1.0, 2.0])

"""Convolutions and poolings beyond the laws: blocks, ties, edges, and what is refused."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.rows_conv import naive_conv, naive_conv_transpose, naive_max_pool

import dist_dp as dp
from dist_dp import kernels, ops
from dist_dp.functional import hessian
from dist_dp.ops import direct, patches, pooling
from dist_dp.ops.geometry import Geometry


def leaf(x: Any) -> dp.Tensor:
    return dp.Tensor(x, requires_grad=True)


def compiled_only() -> None:
    if kernels.compiled is None:
        pytest.skip("a law of the compiled kernels")


# ----- kernels, block by block -----


@st.composite
def convolutions(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], Geometry]:
    """(shape of x, shape of weight, geometry), with padding that differs on every side."""
    groups = draw(st.integers(1, 3))
    inputs, filters = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p)) + draw(st.integers(0, 5))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    x = (draw(st.integers(0, 4)), inputs * groups, *size)
    return x, (filters * groups, inputs, *kernel), Geometry(stride, padding, dilation, groups)


@given(convolutions(), st.sampled_from([(1, 1), (40, 1), (1 << 17, 256)]))
def test_kernels_agree_with_loops_and_each_other_however_the_work_is_cut(
    drawn: tuple[tuple[int, ...], tuple[int, ...], Geometry], blocks: tuple[int, int]
) -> None:
    x_shape, w_shape, geometry = drawn
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=x_shape), rng.normal(size=w_shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "_BLOCK", blocks[0])
        patch.setattr(patches, "_FEWEST", blocks[1])
        out = patches.convolve(x, w, None, geometry)
        g = rng.normal(size=out.shape)
        towards_x = patches.input_gradient(g, w, x_shape[2:], geometry)
        towards_w = patches.weight_gradient(x, g, w_shape[2:], geometry)
    (top, bottom), (left, right) = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    np.testing.assert_allclose(
        out, naive_conv(padded, w, None, geometry.stride, 0, geometry.dilation, geometry.groups), atol=1e-12
    )
    # <g, conv(x, w)> is linear in x and in w: the two transposes must give the same number.
    np.testing.assert_allclose([(towards_x * x).sum(), (towards_w * w).sum()], (g * out).sum(), atol=1e-9)


@given(convolutions(), st.sampled_from([1, 3, 8]), st.integers(0, 99))
def test_the_compiled_convolutions_agree_with_products_of_matrices(
    drawn: tuple[tuple[int, ...], tuple[int, ...], Geometry], times: int, seed: int
) -> None:
    compiled_only()
    x_shape, w_shape, geometry = drawn
    rng = np.random.default_rng(seed)
    x, w, b = (
        rng.normal(size=shape).astype(np.float32)
        for shape in (x_shape, (times * w_shape[0], *w_shape[1:]), (times * w_shape[0],))
    )
    out = direct.convolve(x, w, b, geometry)
    g = rng.normal(size=out.shape).astype(np.float32)
    wide = [a.astype(np.float64) for a in (x, w, b, g)]
    expected = [
        patches.convolve(*wide[:3], geometry),
        patches.weight_gradient(wide[0], wide[3], w_shape[2:], geometry),
        patches.input_gradient(wide[3], wide[1], x_shape[2:], geometry),
    ]
    found = [
        out,
        direct.weight_gradient(x, g, w_shape[2:], geometry),
        direct.input_gradient(g, w, x_shape[2:], geometry),
    ]
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    for i in range(len(x)):  # an image by itself has the same bits
        np.testing.assert_array_equal(direct.convolve(x[i : i + 1], w, b, geometry)[0], out[i])


@pytest.mark.parametrize("planes", [1, 1 << 16])
@pytest.mark.parametrize(
    ("x_shape", "filters", "geometry"),
    [
        ((2, 40, 12, 13), 21, Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))),
        ((3, 17, 9, 21), 40, Geometry((2, 2), ((1, 2), (1, 1)), (1, 1))),
        ((2, 8, 7, 1000), 5, Geometry((3, 1), ((0, 0), (2, 2)), (1, 2))),
    ],
)
def test_many_terms_and_places_are_added_as_exactly_as_by_products_of_matrices(
    x_shape: tuple[int, ...], filters: int, geometry: Geometry, planes: int
) -> None:
    """Sums in several chains, bands that divide an image, and tiles of every height and width."""
    compiled_only()
    rng = np.random.default_rng(1)
    x = rng.normal(size=x_shape).astype(np.float32)
    w = rng.normal(size=(filters, x_shape[1], 3, 3)).astype(np.float32)
    g = rng.normal(size=(len(x), filters, *geometry.windows(x.shape[2:], (3, 3)))).astype(np.float32)

    def all_three(module: Any, x: Any, w: Any, g: Any) -> list[Any]:
        return [
            module.convolve(x, w, None, geometry),
            module.weight_gradient(x, g, (3, 3), geometry),
            module.input_gradient(g, w, x_shape[2:], geometry),
        ]

    expected = all_three(patches, *(a.astype(np.float64) for a in (x, w, g)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "_PLANES", planes)
        direct._forward.cache_clear()
        direct._backward.cache_clear()
        found = all_three(direct, x, w, g)
        direct._forward.cache_clear()
        direct._backward.cache_clear()
    for one, two in zip(found, expected, strict=True):
        assert np.sqrt(((one - two) ** 2).mean() / (two**2).mean()) < 4e-7


def test_layouts_that_lead_out_of_an_array_are_refused() -> None:
    compiled_only()
    geometry = Geometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    x, w = np.ones((2, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    taken: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", SimpleNamespace(correlate=lambda *a: taken.extend(a)))
        direct.convolve(x, w, None, geometry)
    correlate = kernels.compiled.correlate
    correlate(*taken)
    for wrong in (-1, 100, 1 << 40):
        for k in range(len(taken[0])):
            layout = taken[0].copy()
            layout[k] = wrong
            # Other strides, steps and paddings leave pixels and windows out.
            if wrong > 100 or k not in ((8,) if wrong < 0 else (6, 7, 8, 17, 18)):
                with pytest.raises(ValueError):
                    correlate(layout, *taken[1:])
        offsets = taken[4].copy()
        offsets[-1] = wrong * 100
        with pytest.raises(ValueError, match="an offset lies outside of the planes"):
            correlate(*taken[:4], offsets, *taken[5:])
        for k in range(3):
            part = taken[5].copy()
            part[0, k] = wrong
            with pytest.raises(
                ValueError, match=r"a part lies outside of the result|an offset for every term"
            ):
                correlate(*taken[:5], part, *taken[6:])
    with pytest.raises(ValueError, match="a shift is out of range"):
        correlate(*taken[:3], taken[3] + (1 << 40), *taken[4:])
    for k in (0, 1, 2, 3, 4, 5, 6, 7, 8):
        with pytest.raises(ValueError):
            correlate(*taken[:k], taken[k].reshape(-1)[:-1].copy(), *taken[k + 1 :])


def test_every_element_of_a_gradient_is_that_of_loops() -> None:
    rng = np.random.default_rng(3)
    x, w = leaf(rng.normal(size=(2, 4, 7, 6))), leaf(rng.normal(size=(6, 2, 3, 2)))
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    y = ops.conv2d(x, w, **options)
    g = rng.normal(size=y.shape)
    y.backward(g)
    transposed = naive_conv_transpose(g, w.data, output_padding=(0, 0), **options)
    np.testing.assert_allclose(x.grad.data, transposed[:, :, :7, :6], atol=1e-12)
    for index in np.ndindex(w.shape):
        one = np.zeros(w.shape)
        one[index] = 1.0
        np.testing.assert_allclose(w.grad.data[index], (naive_conv(x.data, one, **options) * g).sum())


def test_a_convolution_of_large_images_is_done_in_rows_and_of_small_ones_in_batches() -> None:
    plan = patches._Plan.of
    assert plan(8, 9, (1000, 1000)).images == 1 and plan(8, 9, (1000, 1000)).rows < 1000
    assert plan(64, 25, (28, 28)) == (6, 28)
    assert plan(3, 25, (4, 4)) == (3, 4)


def test_gradients_skip_what_nobody_asks_for() -> None:
    x, w = dp.Tensor(np.ones((1, 1, 3, 3))), leaf(np.ones((1, 1, 2, 2)))
    y = ops.conv2d(x, w)
    assert y.node.parents[0] is None and y.node.saved[0] is None


def test_same_padding_keeps_the_size_with_the_odd_pixel_behind() -> None:
    out = ops.conv1d([[[1.0, 2.0, 3.0]]], [[[1.0, 10.0]]], padding="same")
    assert out.tolist() == [[[21.0, 32.0, 3.0]]]


# ----- pooling -----


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    x = leaf([[[[1.0, 2.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]]]])
    ops.sum(ops.max_pool2d(x, 2)).backward()
    assert x.grad.tolist() == [[[[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]


def test_overlapping_windows_add_up() -> None:
    x = leaf([[[0.0, 5.0, 1.0]]])
    ops.sum(ops.max_pool1d(x, 2, stride=1)).backward()
    assert x.grad.tolist() == [[[0.0, 2.0, 0.0]]]


def test_nan_wins_and_keeps_the_gradient_in_its_window() -> None:
    x = leaf([[[1.0, np.nan, 3.0, 2.0]]])
    y = ops.max_pool1d(x, 2)
    assert np.isnan(y.data[0, 0, 0]) and y.data[0, 0, 1] == 3.0
    ops.sum(y).backward()
    assert x.grad.data[0, 0, :2].sum() == 1.0


def test_the_maximum_has_no_second_derivative_of_its_own() -> None:
    x = np.random.default_rng(0).normal(size=(1, 1, 4, 4))
    assert not hessian(lambda x: ops.sum(ops.max_pool2d(x, 2)))(x).data.any()
    assert hessian(lambda x: ops.sum(ops.max_pool2d(x, 2) ** 2))(x).data.sum() == 8.0


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 30, 1 << 18]))
@settings(max_examples=30)
def test_pooling_gradients_do_not_depend_on_the_block(n: int, kernel: int, stride: int, block: int) -> None:
    rng = np.random.default_rng(n)
    x = leaf(rng.normal(size=(n, 2, 5, 4)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "_BLOCK", block)
        y = ops.max_pool2d(x, kernel, stride)
        g = rng.normal(size=y.shape)
        y.backward(g)
    rise = (naive_max_pool(x.data + 1e-6 * x.grad.data, kernel, stride) - y.data) * g
    np.testing.assert_allclose(rise.sum() / 1e-6, (x.grad.data**2).sum(), rtol=1e-6, atol=1e-6)


def test_integers_are_pooled_and_carry_no_gradient() -> None:
    y = ops.max_pool1d(np.array([[[-3, -5]]]), 2, padding=1)
    assert y.tolist() == [[[-3, -5]]] and y.dtype == np.int64


# ----- what is refused -----

IMAGE, FILTER = np.ones((1, 2, 4, 4)), np.ones((4, 2, 3, 3))
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "x rank": (lambda: ops.conv2d(IMAGE[0], FILTER), ValueError, r"`x` must have 4 axes .* x\[None\]"),
    "x rank 1d": (lambda: ops.conv1d(IMAGE, FILTER), ValueError, r"`x` must have 3 axes \(N, C, L\)"),
    "weight rank": (
        lambda: ops.conv2d(IMAGE, FILTER[0]),
        ValueError,
        r"`weight` must have shape \(C_out, C_in / gr",
    ),
    "weight empty": (lambda: ops.conv2d(IMAGE, FILTER[:, :, :0]), ValueError, "none of them 0"),
    "channels": (lambda: ops.conv2d(IMAGE[:, :1], FILTER), ValueError, "`x` must have 2 channels .* got 1"),
    "groups divide": (
        lambda: ops.conv2d(np.ones((1, 6, 4, 4)), FILTER, groups=3),
        ValueError,
        "`groups` must divide",
    ),
    "groups zero": (lambda: ops.conv2d(IMAGE, FILTER, groups=0), ValueError, "`groups` must be at least 1"),
    "groups type": (lambda: ops.conv2d(IMAGE, FILTER, groups=1.0), TypeError, "`groups` must be an integer"),
    "bias": (lambda: ops.conv2d(IMAGE, FILTER, np.ones(3)), ValueError, r"`bias` must have shape \(4,\)"),
    "kernel": (lambda: ops.conv2d(IMAGE, np.ones((4, 2, 5, 3))), ValueError, "kernel must not be larger"),
    "dilated": (lambda: ops.conv2d(IMAGE, FILTER, dilation=2), ValueError, r"dilation=\(2, 2\) does not fit"),
    "stride": (lambda: ops.conv2d(IMAGE, FILTER, stride=0), ValueError, "`stride` must be at least 1"),
    "stride type": (lambda: ops.conv2d(IMAGE, FILTER, stride=1.5), TypeError, "`stride` must be an integer"),
    "stride count": (
        lambda: ops.conv2d(IMAGE, FILTER, stride=(1, 1, 1)),
        ValueError,
        "`stride` .* 2 elements",
    ),
    "padding": (lambda: ops.conv2d(IMAGE, FILTER, padding=-1), ValueError, "`padding` must be at least 0"),
    "padding name": (
        lambda: ops.conv2d(IMAGE, FILTER, padding="full"),
        ValueError,
        "'same' or 'valid', got 'full'",
    ),
    "padding same": (
        lambda: ops.conv2d(IMAGE, FILTER, 2 * np.ones(4), 2, "same"),
        ValueError,
        "needs a stride of 1",
    ),
    "transposed channels": (
        lambda: ops.conv_transpose2d(IMAGE, FILTER),
        ValueError,
        "`x` must have 4 channels",
    ),
    "transposed weight": (
        lambda: ops.conv_transpose1d(IMAGE[0], FILTER),
        ValueError,
        r"\(C_in, C_out / groups, k\)",
    ),
    "output padding": (
        lambda: ops.conv_transpose2d(np.ones((1, 4, 2, 2)), FILTER, output_padding=1),
        ValueError,
        "`output_padding` must be less than the stride",
    ),
    "nothing left": (
        lambda: ops.conv_transpose2d(np.ones((1, 4, 1, 1)), FILTER, padding=2),
        ValueError,
        "leaves nothing of the image",
    ),
    "pool rank": (lambda: ops.max_pool2d(IMAGE[0], 2), ValueError, "max_pool2d: `x` must have 4 axes"),
    "pool kernel": (lambda: ops.max_pool2d(IMAGE, 0), ValueError, "`kernel_size` must be at least 1"),
    "pool size": (lambda: ops.avg_pool2d(IMAGE, 5), ValueError, "`kernel_size` must not be larger"),
    "pool padding": (lambda: ops.max_pool2d(IMAGE, 2, padding=2), ValueError, "at most half of the kernel"),
    "pool dtype": (lambda: ops.avg_pool2d(IMAGE.astype(int), 2), TypeError, "`x` must have a floating dtype"),
    "adaptive size": (
        lambda: ops.adaptive_avg_pool2d(IMAGE, 0),
        ValueError,
        "`output_size` must be at least 1",
    ),
    "adaptive type": (
        lambda: ops.adaptive_avg_pool2d(IMAGE, "2"),
        TypeError,
        "`output_size` must be an integer",
    ),
    "adaptive empty": (
        lambda: ops.adaptive_avg_pool1d(np.ones((1, 1, 0)), 1),
        ValueError,
        "at least one pixel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_named(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("padding", [0, 1])
def test_the_largest_boolean_is_any(padding: int) -> None:
    x = np.random.default_rng(0).random((2, 3, 5, 6)) < 0.3
    y = ops.max_pool2d(x, 2, padding=padding)
    assert y.dtype == np.bool_
    np.testing.assert_array_equal(y.data, ops.max_pool2d(x.astype(np.float32), 2, padding=padding).data > 0)

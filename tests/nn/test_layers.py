"""Layers: torch's keys and shapes, values against plain NumPy, and what constructors and calls refuse."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file, save_file

import dist_dp as dp
from dist_dp import nn
from dist_dp.random import Key, Stream

Array = Any

# Keys and shapes as torch writes them, in torch's order.
KEYS: list[tuple[str, Any, dict[str, tuple[int, ...]]]] = [
    ("Linear", lambda: nn.Linear(5, 3), {"weight": (3, 5), "bias": (3,)}),
    ("Linear without bias", lambda: nn.Linear(5, 3, bias=False), {"weight": (3, 5)}),
    ("Bilinear", lambda: nn.Bilinear(5, 4, 3), {"weight": (3, 5, 4), "bias": (3,)}),
    ("Conv1d", lambda: nn.Conv1d(4, 6, 3, groups=2), {"weight": (6, 2, 3), "bias": (6,)}),
    ("Conv2d", lambda: nn.Conv2d(4, 6, (3, 2)), {"weight": (6, 4, 3, 2), "bias": (6,)}),
    (
        "ConvTranspose1d",
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
        {"weight": (4, 3, 3), "bias": (6,)},
    ),
    ("ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 6, 3, bias=False), {"weight": (4, 6, 3, 3)}),
    (
        "BatchNorm1d",
        lambda: nn.BatchNorm1d(3),
        {
            "weight": (3,),
            "bias": (3,),
            "running_mean": (3,),
            "running_var": (3,),
            "num_batches_tracked": (),
        },
    ),
    (
        "BatchNorm2d",
        lambda: nn.BatchNorm2d(3, affine=False),
        {"running_mean": (3,), "running_var": (3,), "num_batches_tracked": ()},
    ),
    ("LayerNorm", lambda: nn.LayerNorm((4, 5)), {"weight": (4, 5), "bias": (4, 5)}),
    ("RMSNorm", lambda: nn.RMSNorm(5), {"weight": (5,)}),
    ("GroupNorm", lambda: nn.GroupNorm(2, 6), {"weight": (6,), "bias": (6,)}),
    ("Embedding", lambda: nn.Embedding(10, 4), {"weight": (10, 4)}),
    ("PReLU", lambda: nn.PReLU(3), {"weight": (3,)}),
    (
        "LSTM",
        lambda: nn.LSTM(5, 4, bidirectional=True),
        {
            "weight_ih_l0": (16, 5),
            "weight_hh_l0": (16, 4),
            "bias_ih_l0": (16,),
            "bias_hh_l0": (16,),
            "weight_ih_l0_reverse": (16, 5),
            "weight_hh_l0_reverse": (16, 4),
            "bias_ih_l0_reverse": (16,),
            "bias_hh_l0_reverse": (16,),
        },
    ),
    (
        "GRU",
        lambda: nn.GRU(5, 4, num_layers=2),
        {
            "weight_ih_l0": (12, 5),
            "weight_hh_l0": (12, 4),
            "bias_ih_l0": (12,),
            "bias_hh_l0": (12,),
            "weight_ih_l1": (12, 4),
            "weight_hh_l1": (12, 4),
            "bias_ih_l1": (12,),
            "bias_hh_l1": (12,),
        },
    ),
    ("RNN", lambda: nn.RNN(5, 4, bias=False), {"weight_ih_l0": (4, 5), "weight_hh_l0": (4, 4)}),
    (
        "LSTMCell",
        lambda: nn.LSTMCell(5, 4),
        {"weight_ih": (16, 5), "weight_hh": (16, 4), "bias_ih": (16,), "bias_hh": (16,)},
    ),
    ("GRUCell", lambda: nn.GRUCell(5, 4, bias=False), {"weight_ih": (12, 5), "weight_hh": (12, 4)}),
    (
        "MultiheadAttention",
        lambda: nn.MultiheadAttention(8, 2),
        {
            "in_proj_weight": (24, 8),
            "in_proj_bias": (24,),
            "out_proj.weight": (8, 8),
            "out_proj.bias": (8,),
        },
    ),
    (
        "MultiheadAttention with kdim and vdim",
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
        {
            "q_proj_weight": (8, 8),
            "k_proj_weight": (8, 6),
            "v_proj_weight": (8, 4),
            "in_proj_bias": (24,),
            "out_proj.weight": (8, 8),
            "out_proj.bias": (8,),
        },
    ),
    (
        "TransformerEncoderLayer",
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        {
            "self_attn.in_proj_weight": (24, 8),
            "self_attn.in_proj_bias": (24,),
            "self_attn.out_proj.weight": (8, 8),
            "self_attn.out_proj.bias": (8,),
            "linear1.weight": (16, 8),
            "linear1.bias": (16,),
            "linear2.weight": (8, 16),
            "linear2.bias": (8,),
            "norm1.weight": (8,),
            "norm1.bias": (8,),
            "norm2.weight": (8,),
            "norm2.bias": (8,),
        },
    ),
    ("CrossEntropyLoss", lambda: nn.CrossEntropyLoss(np.ones(3, np.float32)), {"weight": (3,)}),
]


@pytest.mark.parametrize(("make", "expected"), [pytest.param(m, k, id=name) for name, m, k in KEYS])
def test_state_has_torchs_keys_and_layouts_and_goes_through_safetensors(
    tmp_path: Path, make: Any, expected: dict[str, tuple[int, ...]]
) -> None:
    state = make().state_dict()
    assert {name: array.shape for name, array in state.items()} == expected
    assert list(state) == list(expected)
    for name, array in state.items():
        assert array.dtype == (np.int64 if name == "num_batches_tracked" else np.float32)
    rng = np.random.default_rng(0)
    foreign = {name: rng.normal(size=array.shape).astype(array.dtype) for name, array in state.items()}
    save_file(foreign, tmp_path / "foreign")
    layer = make()
    nn.load_state(layer, tmp_path / "foreign")
    nn.save_state(layer, tmp_path / "back")
    back = load_file(tmp_path / "back")
    assert list(back) == list(load_file(tmp_path / "foreign"))
    for name, array in foreign.items():
        np.testing.assert_array_equal(back[name], array)


# ----- values -----


def test_linear_maps_the_last_axis() -> None:
    layer = nn.Linear(3, 2)
    assert layer.bias is not None
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    expected = np.einsum("abi,oi->abo", x, layer.weight.data) + layer.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-5, atol=1e-6)


def test_gradients_have_the_dtype_of_what_they_belong_to() -> None:
    layer, x = nn.Linear(3, 2), dp.Tensor(np.ones((4, 3)), requires_grad=True)
    out = layer(x)
    assert out.dtype == np.float64
    out.sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float64
    assert all(p.grad is not None and p.grad.dtype == np.float32 for p in layer.parameters())


def test_bilinear() -> None:
    layer = nn.Bilinear(3, 4, 2, dtype=np.float64)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    expected = np.einsum("ni,oij,nj->no", x, layer.weight.data, y) + layer.bias.data  # type: ignore[union-attr]
    np.testing.assert_allclose(layer(x, y).data, expected)


def test_convolution_layers_pass_their_settings_on() -> None:
    x = np.zeros((2, 4, 11), np.float32)
    assert nn.Conv1d(4, 6, 3, 2, 1, 2, 2)(x).shape == (2, 6, 5)
    assert nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, True, 2)(x).shape == (2, 6, 24)
    images = np.zeros((2, 4, 9, 8), np.float32)
    assert nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0))(images).shape == (2, 6, 5, 7)
    assert nn.Conv2d(4, 6, 3, padding="same", dilation=2)(images).shape == (2, 6, 9, 8)
    assert nn.ConvTranspose2d(4, 6, 2, stride=2)(images).shape == (2, 6, 18, 16)
    assert nn.AvgPool2d((3, 2), padding=1)(images).shape == (2, 4, 3, 5)
    assert nn.AvgPool1d(2)(x).shape == (2, 4, 5)
    assert nn.MaxPool2d(3, 1, 1)(images).shape == (2, 4, 9, 8)
    assert nn.MaxPool1d(2, ceil_mode=True)(x).shape == (2, 4, 6)
    assert nn.AdaptiveAvgPool2d((3, 5))(images).shape == (2, 4, 3, 5)
    assert nn.AdaptiveAvgPool1d(4)(x).shape == (2, 4, 4)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_batch_norm_uses_the_batch_in_training_and_its_statistics_in_evaluation(
    shape: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    norm = nn.BatchNorm1d(3, eps=1e-3, momentum=0.3, dtype=np.float64)
    norm.weight.data[...], norm.bias.data[...] = [1, 2, 3], [4, 5, 6]  # type: ignore[union-attr]
    axes = (0,) if len(shape) == 2 else (0, 2)
    per_channel = (3,) if len(shape) == 2 else (3, 1)
    mean, var = np.zeros(3), np.ones(3)
    scale, shift = np.array([1, 2, 3.0]).reshape(per_channel), np.array([4, 5, 6.0]).reshape(per_channel)
    for _ in range(3):
        x = rng.normal(2, 3, shape)
        batch_mean, batch_var = x.mean(axes), x.var(axes)
        expected = (x - batch_mean.reshape(per_channel)) / np.sqrt(batch_var + 1e-3).reshape(per_channel)
        np.testing.assert_allclose(norm(x).data, expected * scale + shift, rtol=1e-9)
        mean, var = 0.7 * mean + 0.3 * batch_mean, 0.7 * var + 0.3 * x.var(axes, ddof=1)
    np.testing.assert_allclose(norm.running_mean.data, mean)  # type: ignore[union-attr]
    np.testing.assert_allclose(norm.running_var.data, var)  # type: ignore[union-attr]
    assert norm.num_batches_tracked.item() == 3  # type: ignore[union-attr]
    expected = (x - mean.reshape(per_channel)) / np.sqrt(var + 1e-3).reshape(per_channel) * scale + shift
    np.testing.assert_allclose(norm.eval()(x).data, expected, rtol=1e-9)
    np.testing.assert_allclose(norm.running_mean.data, mean)  # type: ignore[union-attr]


def test_batch_norm_without_momentum_is_the_mean_over_batches() -> None:
    rng = np.random.default_rng(0)
    norm, batches = nn.BatchNorm2d(2, momentum=None), [rng.normal(size=(3, 2, 2, 2)) for _ in range(4)]
    for x in batches:
        norm(x.astype(np.float32))
    expected = np.mean([x.mean((0, 2, 3)) for x in batches], axis=0)
    np.testing.assert_allclose(norm.running_mean.data, expected, atol=1e-6)  # type: ignore[union-attr]


def test_batch_norm_without_statistics_uses_the_batch_always() -> None:
    norm = nn.BatchNorm1d(2, track_running_stats=False).eval()
    assert not list(norm.buffers())
    out = norm(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)).data
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-6)


def test_norms_over_the_last_axes_and_over_groups() -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5))
    last = nn.LayerNorm((6, 5), eps=0.0, dtype=np.float64)(x).data.reshape(4, 30)
    np.testing.assert_allclose(last.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(last.std(1), 1)
    root = nn.RMSNorm(5, eps=0.0, dtype=np.float64)(x).data
    np.testing.assert_allclose((root**2).mean(-1), 1)
    groups = nn.GroupNorm(3, 6, eps=0.0, dtype=np.float64)(x).data.reshape(4, 3, 10)
    np.testing.assert_allclose(groups.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(groups.std(-1), 1)


def test_embedding_and_its_padding_row() -> None:
    layer = nn.Embedding(5, 3, padding_idx=-4)
    assert (layer.weight.data[1] == 0).all()
    index = np.array([[1, 4], [4, 0]])
    np.testing.assert_array_equal(layer(index).data, layer.weight.data[index])
    layer(index).sum().backward()
    assert layer.weight.grad is not None
    np.testing.assert_array_equal(layer.weight.grad.data[:, 0], [1, 0, 0, 0, 2])


@pytest.mark.parametrize("kind", [*"bhilBHIL", ">i8", ">u2"])
@given(
    rows=st.integers(1, 300),
    index=arrays(np.int64, array_shapes(min_dims=0, min_side=0), elements=st.integers(-400, 400)),
    swapped=st.booleans(),
)
def test_an_index_is_a_row_of_the_table_or_refused(kind: str, rows: int, index: Any, swapped: bool) -> None:
    given_ = index.astype(kind).T if swapped else index.astype(kind)
    table = np.arange(2.0 * rows).reshape(rows, 2)
    wrong = [i for i in given_.ravel().tolist() if not 0 <= i < rows]
    if wrong:
        with pytest.raises(
            IndexError, match=f"embedding: `indices` must be rows .* has {rows}, .*; got"
        ) as raised:
            nn.functional.embedding(given_, table)
        assert int(str(raised.value).rsplit(" ", 1)[1]) in wrong
    else:
        np.testing.assert_array_equal(nn.functional.embedding(given_, table).data, table[given_])


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_an_index_of_an_example_is_a_row_of_its_own_table(axes: Any) -> None:
    tables, index = np.arange(24.0).reshape(2, 4, 3), np.array([[0, 3], [1, 2]])
    w, i = (a if axis == 0 else a[0] for a, axis in zip((tables, index), axes, strict=True))
    expected = [(w if axes[0] is None else w[k])[i if axes[1] is None else i[k]] for k in range(2)]
    np.testing.assert_array_equal(dp.vmap(dp.ops.embedding, axes)(w, i).data, expected)
    with pytest.raises(IndexError, match=r"embedding: .*; got -1"):
        dp.vmap(dp.ops.embedding, axes)(w, i - 1)


def test_a_module_takes_what_its_constructor_takes() -> None:
    class Own(nn.Module):
        def __init__(self, size: int, *rest: int, **options: int) -> None:
            self.given = (size, rest, options)

    class Plain(nn.Module):
        pass

    assert Own(1, 2, more=3).given == (1, (2,), {"more": 3})
    lstm = nn.LSTM(2, 3)
    for module, again in (
        (Plain(), Plain()),
        (lstm, copy.deepcopy(lstm)),
        (lstm, pickle.loads(pickle.dumps(lstm))),
    ):
        assert repr(again) == repr(module)


def test_a_parameter_takes_arrays_as_data() -> None:
    p = nn.Parameter([1.0, 2.0])
    p.data = np.array([3.0, 4.0], np.float32)
    np.testing.assert_array_equal((p * 1).data, [3.0, 4.0])
    p = nn.Parameter(1.0)
    p.data = p.data - np.float32(3)  # of NumPy's scalar
    assert isinstance(p.data, np.ndarray) and p.item() == -2


def test_dropout_is_a_function_of_its_key() -> None:
    x = np.ones((50, 40), np.float32)
    layer = nn.Dropout(0.25)
    first, again = layer(x, rng=Stream(Key(1))), layer(x, rng=Stream(Key(1)))
    np.testing.assert_array_equal(first.data, again.data)
    assert set(np.unique(first.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((first.data == 0).mean() - 0.25) < 0.05
    assert (layer.eval()(x).data == 1).all()


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Dropout1d(0.5), (8, 6, 5)), (nn.Dropout2d(0.5), (8, 6, 5, 4))]
)
def test_dropout_of_channels_drops_them_whole(layer: nn.Dropout, shape: tuple[int, ...]) -> None:
    out = layer(np.ones(shape, np.float32), rng=Stream(Key(0))).data.reshape(8, 6, -1)
    assert ((out == 0).all(-1) | (out == 2).all(-1)).all()
    assert 0 < (out == 0).mean() < 1
    assert (layer.eval()(np.ones(shape, np.float32)).data == 1).all()


def test_shape_layers() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Flatten(0, 1)(x).shape == (6, 4)
    assert nn.Unflatten(-1, (2, 2))(x).shape == (2, 3, 2, 2)
    assert nn.Identity(3, anything=4)(x) is x


# ----- what constructors and calls refuse -----

ZEROS = np.zeros((2, 3), np.float32)

REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: nn.Linear(-1, 2), ValueError, "Linear: in_features must be at least 1, got -1"),
    (lambda: nn.Linear(2, 0), ValueError, "Linear: out_features must be at least 1, got 0"),
    (lambda: nn.Linear(2.0, 1), TypeError, r"Linear: in_features must be an int, got 2.0 \(float\)"),  # type: ignore[arg-type]
    (lambda: nn.Linear(True, 1), TypeError, "in_features must be an int"),
    (lambda: nn.Bilinear(2, -3, 1), ValueError, "Bilinear: in2_features must be at least 1"),
    (lambda: nn.Conv1d(0, 2, 3), ValueError, "Conv1d: in_channels must be at least 1"),
    (lambda: nn.Conv2d(2, 2, 0), ValueError, "Conv2d: kernel_size must be at least 1, got 0"),
    (lambda: nn.Conv2d(2, 2, (3, 3, 3)), ValueError, "Conv2d: kernel_size must be an int or 2 of them"),
    (lambda: nn.Conv2d(2, 2, 3, stride=0), ValueError, "Conv2d: stride must be at least 1"),
    (lambda: nn.Conv2d(2, 2, 3, padding=-1), ValueError, "Conv2d: padding must be at least 0"),
    (lambda: nn.Conv2d(2, 2, 3, padding="full"), ValueError, "padding must be 'same', 'valid' or ints"),
    (lambda: nn.Conv2d(2, 2, 3, 2, padding="same"), ValueError, "padding='same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels=3 must be divisible by groups=2"),
    (lambda: nn.Conv1d(4, 3, 3, groups=2), ValueError, "out_channels=3 must be divisible by groups=2"),
    (lambda: nn.ConvTranspose2d(2, 2, 3, padding="same"), TypeError, "padding must be an int"),  # type: ignore[arg-type]
    (lambda: nn.ConvTranspose1d(2, 2, 3, output_padding=-1), ValueError, "output_padding must be at least 0"),
    (lambda: nn.MaxPool2d(0), ValueError, "MaxPool2d: kernel_size must be at least 1"),
    (lambda: nn.MaxPool2d(3, padding=2), ValueError, "padding=2 must be at most half of kernel_size=3"),
    (lambda: nn.AvgPool1d(2, 0), ValueError, "AvgPool1d: stride must be at least 1"),
    (lambda: nn.AdaptiveAvgPool1d(0), ValueError, "AdaptiveAvgPool1d: output_size must be at least 1"),
    (lambda: nn.BatchNorm1d(0), ValueError, "BatchNorm1d: num_features must be at least 1"),
    (lambda: nn.BatchNorm2d(2, eps=-1.0), ValueError, "BatchNorm2d: eps must be at least 0"),
    (lambda: nn.BatchNorm2d(2, momentum=1.5), ValueError, "momentum must be between 0 and 1, or None"),
    (lambda: nn.LayerNorm(()), ValueError, "LayerNorm: normalized_shape must name at least one axis"),
    (lambda: nn.LayerNorm((3, 0)), ValueError, "LayerNorm: normalized_shape must be at least 1"),
    (lambda: nn.RMSNorm(3, eps=-1.0), ValueError, "RMSNorm: eps must be at least 0"),
    (lambda: nn.GroupNorm(4, 6), ValueError, "num_channels=6 must be divisible by num_groups=4"),
    (lambda: nn.Dropout(1.5), ValueError, "Dropout: p must be a probability between 0 and 1, got 1.5"),
    (lambda: nn.Dropout(-0.1), ValueError, "Dropout: p must be at least 0, got -0.1"),
    (lambda: nn.Dropout("0.5"), TypeError, "Dropout: p must be a number, got str"),  # type: ignore[arg-type]
    (lambda: nn.Dropout2d(2.0), ValueError, "Dropout2d: p must be a probability"),
    (lambda: nn.Embedding(0, 3), ValueError, "Embedding: num_embeddings must be at least 1"),
    (lambda: nn.Embedding(3, 3, padding_idx=3), ValueError, "padding_idx must be a row of the 3, got 3"),
    (lambda: nn.LSTM(3, 0), ValueError, "LSTM: hidden_size must be at least 1"),
    (lambda: nn.GRU(3, 4, num_layers=0), ValueError, "GRU: num_layers must be at least 1"),
    (lambda: nn.GRU(3, 4, dropout=-1.0), ValueError, "GRU: p must be at least 0"),
    (lambda: nn.RNN(3, 4, nonlinearity="sin"), ValueError, "RNN: nonlinearity must be 'tanh' or 'relu'"),
    (lambda: nn.RNNCell(3, 4, nonlinearity="sin"), ValueError, "RNNCell: nonlinearity must be"),
    (lambda: nn.LSTMCell(-3, 4), ValueError, "LSTMCell: input_size must be at least 1"),
    (lambda: nn.MultiheadAttention(8, 3), ValueError, "embed_dim=8 must be divisible by num_heads=3"),
    (lambda: nn.MultiheadAttention(8, 2, dropout=2.0), ValueError, "MultiheadAttention: p must be"),
    (lambda: nn.MultiheadAttention(8, 2, kdim=0), ValueError, "MultiheadAttention: kdim must be at least 1"),
    (lambda: nn.TransformerEncoderLayer(8, 2, 0), ValueError, "dim_feedforward must be at least 1"),
    (lambda: nn.TransformerEncoderLayer(8, 2, 4, activation="sin"), ValueError, "activation must be"),
    (
        lambda: nn.ChildSumTreeLSTMCell(0, 2),
        ValueError,
        "ChildSumTreeLSTMCell: input_size must be at least 1",
    ),
    (lambda: nn.BinaryTreeLSTMCell(2, -1), ValueError, "BinaryTreeLSTMCell: hidden_size must be at least 1"),
    (lambda: nn.GELU("erf"), ValueError, "GELU: approximate must be 'none' or 'tanh'"),
    (lambda: nn.Hardtanh(1.0, -1.0), ValueError, "Hardtanh: min_val must be below max_val"),
    (lambda: nn.Softplus(0.0), ValueError, "Softplus: beta must be positive"),
    (lambda: nn.Softmax(None), TypeError, "Softmax: dim must be an int"),  # type: ignore[arg-type]
    (lambda: nn.PReLU(0), ValueError, "PReLU: num_parameters must be at least 1"),
    # calls
    (
        lambda: nn.Linear(4, 2)(ZEROS),
        ValueError,
        r"linear: x must be \(..., in_features=4\).*got shape \(2, 3\)",
    ),
    (
        lambda: nn.Bilinear(3, 4, 1)(ZEROS, ZEROS),
        ValueError,
        r"Bilinear: expected inputs \(..., 3\) and \(..., 4\)",
    ),
    (
        lambda: nn.Conv2d(3, 4, 3)(np.zeros((1, 2, 5, 5), np.float32)),
        ValueError,
        "conv2d.*2 channels|conv2d.*2",
    ),
    (lambda: nn.Conv1d(3, 4, 3)(ZEROS), ValueError, r"conv1d.*\(2, 3\)"),
    (
        lambda: nn.BatchNorm1d(4)(ZEROS),
        ValueError,
        r"BatchNorm1d: expected input \(N, num_features=4\) or .*got shape \(2, 3\)",
    ),
    (
        lambda: nn.BatchNorm2d(3)(ZEROS),
        ValueError,
        r"BatchNorm2d: expected input \(N, num_features=3, H, W\)",
    ),
    (lambda: nn.BatchNorm1d(3)(ZEROS[:1]), ValueError, "at least 2 values per channel"),
    (lambda: nn.LayerNorm(4)(ZEROS), ValueError, r"LayerNorm: expected input \(..., 4\), got shape \(2, 3\)"),
    (lambda: nn.RMSNorm((2, 4))(ZEROS), ValueError, r"RMSNorm: expected input \(..., 2, 4\)"),
    (lambda: nn.GroupNorm(1, 4)(ZEROS), ValueError, r"GroupNorm: expected input \(N, num_channels=4, ...\)"),
    (lambda: nn.Embedding(3, 2)(np.array([3])), IndexError, "3"),
    (lambda: nn.Embedding(3, 2)(ZEROS), TypeError, "integers"),
    (lambda: nn.Unflatten(2, (1, 3))(ZEROS), ValueError, "dim=2 is out of range"),
    (lambda: nn.PReLU(2)(ZEROS), ValueError, r"weight must have shape \(1,\) or \(3,\)"),
    (lambda: nn.GLU()(ZEROS), ValueError, "must exist and have an even length"),
    (lambda: nn.Dropout2d()(ZEROS), ValueError, "dropout2d: expected input"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_layers_say_what_they_are() -> None:
    assert repr(nn.Conv2d(1, 6, 5, padding=2, bias=False)) == (
        "Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=False)"
    )
    assert repr(nn.LSTM(3, 5, 2, bidirectional=True)) == "LSTM(3, 5, num_layers=2, bidirectional=True)"
    assert repr(nn.BatchNorm1d(2)) == (
        "BatchNorm1d(2, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )
    assert repr(nn.Embedding(4, 2, padding_idx=0)) == "Embedding(4, 2, padding_idx=0)"

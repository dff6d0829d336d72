"""Wrong calls on tensors, operations, layers and losses: rows of the table in `test_bad_input.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp import nn, ops
from dist_dp.nn import functional as F

Row = tuple[str, Callable[[], Any], type[Exception], str]
tensor = dp.tensor

X = tensor(np.ones((2, 3), np.float32))
Y = tensor(np.ones((4, 5), np.float32))
V = tensor([1.0, 2.0, 3.0])
P = tensor([1.0, 2.0, 3.0], requires_grad=True)
IMAGE = np.zeros((1, 2, 8, 8), np.float32)
KERNEL = np.zeros((4, 2, 3, 3), np.float32)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def backward_twice() -> None:
    y = (P.detach().requires_grad_() ** 2).sum()
    y.backward()
    y.backward()


NUMBERS = "must be real numbers, booleans or arrays of them, got "

# fmt: off
TENSORS: list[Row] = [
    ("a string", lambda: tensor("abc"), TypeError, f"data {NUMBERS}str"),
    ("None", lambda: tensor(None), TypeError, f"data {NUMBERS}NoneType"),
    ("a dict", lambda: tensor({"a": 1}), TypeError, f"data {NUMBERS}dict"),
    ("complex numbers", lambda: tensor([1j]), TypeError, f"data {NUMBERS}complex numbers"),
    ("complex array", lambda: dp.Tensor(np.array([1j])), TypeError, f"data {NUMBERS}complex numbers"),
    ("object array", lambda: tensor(np.array([None])), TypeError, f"data {NUMBERS}ndarray .dtype object"),
    ("array of strings", lambda: dp.as_tensor(np.array(["1"])),
     TypeError, f"data {NUMBERS}ndarray .dtype <U1"),
    ("string for a float", lambda: tensor("1.5", dtype="float32"), TypeError, f"data {NUMBERS}str"),
    ("ragged lists", lambda: tensor([[1.0], [1.0, 2.0]]),
     ValueError, "data must be .*evenly nested.*inhomogeneous"),
    ("list of tensors", lambda: tensor([P, P]), TypeError, "data is a list of tensors.*use stack"),
    ("unknown dtype", lambda: tensor(1.0, dtype="float31"), TypeError, "dtype.*'float32', got 'float31'"),
    ("complex dtype", lambda: tensor(1.0, dtype="complex64"), TypeError, "dtype.*floating.*got complex64"),
    ("cast to complex", lambda: V.astype(complex), TypeError, "dtype.*floating, integer.*got complex128"),
    ("cast to nothing", lambda: V.astype("foo"), TypeError, "dtype.*must be.*got 'foo'"),
    ("gradient of ints", lambda: tensor([1], requires_grad=True),
     TypeError, "requires_grad.*floating.*got int64"),
    ("requires_grad", lambda: tensor(1.0, requires_grad="no"),
     TypeError, "requires_grad.*True or False.*'no'"),
    ("negative size", lambda: ops.zeros((2, -1)), ValueError, "shape must be at least 0, got -1"),
    ("fractional size", lambda: ops.ones(2.5), TypeError, r"shape must be an int or a tuple.*got 2\.5"),
    ("eye of -1", lambda: ops.eye(-1), ValueError, "n must be at least 0, got -1"),
    ("full of a string", lambda: ops.full(2, "a"), TypeError, f"value {NUMBERS}str"),
    ("arange of a string", lambda: ops.arange("3"), TypeError, "start must be a number, got '3'"),
    ("arange by 0", lambda: ops.arange(0, 3, 0), ValueError, "step must not be 0"),
    ("linspace of -1", lambda: ops.linspace(0, 1, -1), ValueError, "num must be at least 0, got -1"),
    ("item of three", lambda: V.item(), ValueError, r"item\(\).*one element, got shape \(3,\)"),
    ("truth of three", lambda: bool(V), ValueError, r"truth value.*shape \(3,\)"),
    ("array with gradient", lambda: np.asarray(P), RuntimeError, "carries a gradient.*detach"),
    ("backward of a vector", lambda: (P * 2).backward(), ValueError, r"needs a scalar, got shape \(3,\)"),
    ("backward of data", lambda: V.sum().backward(), RuntimeError, "carries no gradient"),
    ("backward twice", backward_twice, RuntimeError, "already freed at sum.*retain_graph=True"),
    ("shape of gradient", lambda: (P * 2).backward(zeros(2)), ValueError, r"`gradient`.*\(3,\), got \(2,\)"),
    ("complex gradient", lambda: (P * 2).backward(np.array([1j, 1, 1])),
     TypeError, f"gradient {NUMBERS}complex"),
    ("grad of a shape", lambda: setattr(P, "grad", zeros(2)), ValueError, r"grad must.*\(3,\), got \(2,\)"),
    ("grad of a list", lambda: setattr(P, "grad", [1, 2, 3]), TypeError, "grad must be a Tensor.*got list"),
    ("hook", lambda: P.register_hook(3), TypeError, "hook must be a function.*got 3"),
    ("write to a leaf", lambda: P.add_(1), RuntimeError, "in-place write to a leaf.*no_grad"),
    ("write of a shape", lambda: V.add_(zeros(2)), ValueError, r"add: shapes.*x \(3,\) and y \(2,\)"),
    ("floats into ints", lambda: tensor([1]).add_(1.5), TypeError, "float.* does not fit a tensor of int64"),
    ("item of a shape", lambda: V.__setitem__(slice(2), zeros(3)),
     ValueError, r"`value`.*\(2,\).*got shape \(3,\)"),
    ("item of a string", lambda: V.__setitem__(0, "a"), TypeError, f"value {NUMBERS}str"),
]

INDICES: list[Row] = [
    ("float", lambda: V[1.0], TypeError, "an index must be made of integers.*got dtype float64"),
    ("string", lambda: V["a"], TypeError, "an index must be made of integers.*got dtype <U1"),
    ("out of range", lambda: V[7], IndexError, "index 7 is out of bounds for axis 0 with size 3"),
    ("array out of range", lambda: V[[0, 9]], IndexError, "index 9 is out of bounds for axis 0 with size 3"),
    ("too many", lambda: V[0, 0], IndexError, "array is 1-dimensional, but 2 were indexed"),
    ("mask of a shape", lambda: V[np.array([True, False])], IndexError, "boolean index.* 3 but .* 2"),
    ("take", lambda: ops.take(V, [5], 0), IndexError, "index 5 is out of bounds for axis 0 with size 3"),
    ("take of floats", lambda: ops.take(V, [0.5], 0), TypeError, "`index` must be integers, got dtype float"),
    ("gather", lambda: ops.gather(X, 1, [[9], [0]]), IndexError, "index 9 .*axis 1 with size 3"),
    ("gather along", lambda: ops.gather(X, 4, [[0]]), ValueError, "dim 4 .*dimension 2: expected -2 to 1"),
    ("segment ids", lambda: ops.segment_sum(V, [0, 1], 2), ValueError, r"`segment_ids`.*\(3,\), got \(2,\)"),
    ("one_hot", lambda: ops.one_hot([3], 3), IndexError, "`index` of one_hot must be from 0 to 2, got 3"),
    ("topk", lambda: ops.topk(V, 5), ValueError, "`k` must be between 0 and 3.*got 5"),
    ("topk of a float", lambda: ops.topk(V, 1.5), TypeError, r"k must be an int, got 1\.5"),
    ("sort along", lambda: ops.sort(V, axis=4), ValueError, "axis 4 .*dimension 1: expected -1 to 0"),
]

OPERATIONS: list[Row] = [
    ("add of shapes", lambda: X + Y, ValueError, r"add: shapes must broadcast.*x \(2, 3\) and y \(4, 5\)"),
    ("add of an array", lambda: np.ones((4, 5)) + X, ValueError, r"add: shapes.*x \(4, 5\) and y \(2, 3\)"),
    ("np.add of shapes", lambda: np.add(X, Y), ValueError, r"add: shapes.*\(2, 3\) and y \(4, 5\)"),
    ("less of shapes", lambda: X < Y, ValueError, r"less: shapes.*\(2, 3\) and y \(4, 5\)"),
    ("where of shapes", lambda: ops.where([True, False], V, V),
     ValueError, r"where: shapes.*condition \(2,\)"),
    ("add of a string", lambda: X + "a", TypeError, f"y of add {NUMBERS}str"),
    ("string plus", lambda: "a" + X, TypeError, f"x of add {NUMBERS}str"),
    ("times None", lambda: X * None, TypeError, f"y of multiply {NUMBERS}NoneType"),
    ("times ragged", lambda: X * [[1], [1, 2]], ValueError, "y of multiply must be .*evenly nested"),
    ("plus complex", lambda: X + 1j, TypeError, f"y of add {NUMBERS}complex"),
    ("sin of objects", lambda: ops.sin(np.array([None])),
     TypeError, f"x of sin {NUMBERS}ndarray .dtype object"),
    ("and of floats", lambda: X & X, TypeError, "bitwise_and needs integers or booleans, got float32"),
    ("mask of floats", lambda: ops.masked_fill(X, X, 0.0), TypeError, "`mask`.*boolean, got float32"),
    ("slope", lambda: ops.leaky_relu(V, "a"), TypeError, "negative_slope of leaky_relu.*number, got 'a'"),
    ("gelu", lambda: ops.gelu(V, "erf"), ValueError, "`approximate` of gelu.*'tanh', got 'erf'"),
    ("softplus", lambda: F.softplus(V, 0), ValueError, "softplus: beta must be positive, got 0"),
    ("np.i0", lambda: np.i0(X), TypeError, "np.i0 is not supported on a Tensor.*detach"),
    ("ufunc where=", lambda: np.add(X, X, where=np.ones((2, 3), bool)), TypeError, "np.add with where="),
    ("sum over 5", lambda: X.sum(5), ValueError, "axis 5 .*dimension 2: expected -2 to 1"),
    ("sum over a float", lambda: X.sum(0.5), TypeError, r"`axis` must be an integer, got 0\.5"),
    ("np.sum over 7", lambda: np.sum(X, axis=7), ValueError, "axis 7 .*dimension 2: expected"),
    ("sum over 0, 0", lambda: X.sum((0, 0)), ValueError, r"`axis` must name each axis once, got \(0, 0\)"),
    ("sum by axis and dim", lambda: X.sum(axis=0, dim=0), TypeError, "sum: give either axis or dim"),
    ("max of nothing", lambda: ops.max(zeros(0)),
     ValueError, r"no maximum of no elements: x has shape \(0,\)"),
    ("var by a string", lambda: ops.var(V, ddof="a"), TypeError, "ddof of var must be a number, got 'a'"),
    ("average", lambda: ops.average(V, weights=[1.0]),
     ValueError, r"`weights` of average.*\(3,\).*got \(1,\)"),
    ("reshape", lambda: X.reshape(4, 2), ValueError, r"`shape` of reshape.*product 6.*got \(4, 2\)"),
    ("reshape to floats", lambda: X.reshape(2.5), TypeError, r"`shape` of reshape.*integers.*got \(2\.5,\)"),
    ("two unknowns", lambda: X.reshape(-1, -1), ValueError, r"`shape`.*one may be -1.*got \(-1, -1\)"),
    ("swapaxes", lambda: X.swapaxes(0, 5), ValueError, "axis2 5 .*expected -2 to 1"),
    ("moveaxis", lambda: ops.moveaxis(X, 0, 5), ValueError, "destination 5 .*expected -2 to 1"),
    ("squeeze", lambda: ops.squeeze(X, 0),
     ValueError, r"`axis` of squeeze.*length 1, got axis 0 of shape \(2, 3\)"),
    ("concatenate", lambda: ops.concatenate([X, Y]), ValueError, r"`xs` of concatenate.*\(2, 3\), \(4, 5\)"),
    ("np.concatenate", lambda: np.concatenate([X, Y]),
     ValueError, r"`xs` of concatenate.*\(2, 3\), \(4, 5\)"),
    ("concatenate of 3", lambda: ops.concatenate(3), TypeError, "`xs` of concatenate.*sequence.*got int"),
    ("concatenate of none", lambda: ops.concatenate([]), ValueError, "`xs` of concatenate.*at least one"),
    ("stack", lambda: ops.stack([X, Y]), ValueError, r"`xs` of stack.*got \(2, 3\) and \(4, 5\)"),
    ("split", lambda: ops.split(X, 2, axis=1), ValueError, "`indices_or_sections` must divide.* 3.*got 2"),
    ("pad", lambda: ops.pad(X, -1), ValueError, "`pad_width` must be.*got -1"),
    ("tile", lambda: ops.tile(X, -1), ValueError, "reps must be at least 0, got -1"),
    ("roll", lambda: ops.roll(X, 0.5, 0), TypeError, r"shift must be an int, got 0\.5"),
    ("broadcast_to", lambda: ops.broadcast_to(X, (4, 5)), ValueError, r"shape \(2, 3\).*`shape` \(4, 5\)"),
]

MATRICES: list[Row] = [
    ("matmul", lambda: X @ Y, ValueError, r"matmul: the last axis of `x`.*\(2, 3\) and y of shape \(4, 5\)"),
    ("matmul of an array", lambda: np.ones((2, 3)) @ Y, ValueError, r"matmul:.*\(2, 3\).*\(4, 5\)"),
    ("matmul by 2", lambda: X @ 2.0, ValueError, r"matmul: `y`.*at least one axis, got a scalar"),
    ("matmul by a string", lambda: X @ "a", TypeError, f"y of matmul {NUMBERS}str"),
    ("stacks", lambda: tensor(zeros(2, 3, 4)) @ zeros(3, 4, 5),
     ValueError, "matmul: the leading axes.*broadcast"),
    ("tensordot", lambda: ops.tensordot(X, Y, 1), ValueError, r"tensordot: the axes.*\(2, 3\).*\(4, 5\)"),
    ("einsum", lambda: ops.einsum("ij,jk", X, Y), ValueError, "einsum: the lengths of 'j'.*got 3.*4"),
    ("einsum of one", lambda: ops.einsum("ij,jk", X), ValueError, "`subscripts` must.*each operand, got 2"),
    ("solve", lambda: ops.linalg.solve(X, V), ValueError, r"solve: `a`.*square.*got shape \(2, 3\)"),
    ("singular", lambda: ops.linalg.inv(np.zeros((2, 2))),
     np.linalg.LinAlgError, "inv: the matrix is singular"),
    ("indefinite", lambda: ops.linalg.cholesky(-np.eye(2)),
     np.linalg.LinAlgError, "cholesky: .*not positive"),
    ("matrix_power", lambda: ops.linalg.matrix_power(np.eye(2), 0.5), TypeError, r"`n` must be an int.*0\.5"),
    ("np.linalg.eig", lambda: np.linalg.eig(tensor(np.eye(2))), TypeError, "np.linalg.eig is not supported"),
    ("channels", lambda: F.conv2d(IMAGE[:, :1], KERNEL),
     ValueError, "conv2d: `x` must have 2 channels.*got 1"),
    ("rank", lambda: F.conv2d(V, KERNEL), ValueError, r"conv2d: `x`.*\(N, C, H, W\), got shape \(3,\)"),
    ("kernel", lambda: F.conv2d(IMAGE[..., :2, :2], KERNEL),
     ValueError, r"conv2d: the kernel.*\(3, 3\).*\(2, 2\)"),
    ("stride", lambda: F.conv2d(IMAGE, KERNEL, stride=0), ValueError, "conv2d: `stride` must.*1, got 0"),
    ("padding", lambda: F.conv2d(IMAGE, KERNEL, padding="foo"),
     ValueError, "conv2d: `padding`.*'same'.*'foo'"),
    ("bias", lambda: F.conv2d(IMAGE, KERNEL, zeros(3)), ValueError, r"conv2d: `bias`.*\(4,\).*got \(3,\)"),
    ("pooling by 0", lambda: F.max_pool2d(IMAGE, 0), ValueError, "max_pool2d: `kernel_size` must.*1, got 0"),
    ("large pool", lambda: F.max_pool2d(IMAGE, 9),
     ValueError, "max_pool2d: `kernel_size`.*got kernel_size=9"),
]


class Net(nn.Module):
    pass


LAYERS: list[Row] = [
    ("Linear of 0", lambda: nn.Linear(0, 2), ValueError, "Linear: in_features must be at least 1, got 0"),
    ("Linear of a string", lambda: nn.Linear("3", 2),
     TypeError, "Linear: in_features must be an int, got '3'"),
    ("Linear of ints", lambda: nn.Linear(2, 2, dtype="int32"),
     TypeError, "requires_grad.*floating.*got int32"),
    ("Linear(x)", lambda: nn.Linear(3, 2)(Y), ValueError, r"linear: x .*in_features=3.*got shape \(4, 5\)"),
    ("Linear(None)", lambda: nn.Linear(3, 2)(None), TypeError, f"linear: x {NUMBERS}NoneType"),
    ("Conv2d groups", lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "Conv2d: in_channels=3.*groups=2"),
    ("BatchNorm2d(x)", lambda: nn.BatchNorm2d(3)(X),
     ValueError, r"BatchNorm2d: .*num_features=3.*got shape \(2, 3\)"),
    ("BatchNorm of one", lambda: nn.BatchNorm1d(3)(zeros(1, 3)),
     ValueError, r"at least 2.*got shape \(1, 3\)"),
    ("LayerNorm(x)", lambda: nn.LayerNorm(3)(Y),
     ValueError, r"LayerNorm: .*\(\.\.\., 3\), got shape \(4, 5\)"),
    ("GroupNorm", lambda: nn.GroupNorm(2, 3), ValueError, "GroupNorm: num_channels=3.*num_groups=2"),
    ("Dropout of 1.5", lambda: nn.Dropout(1.5), ValueError, r"Dropout: p must.*between 0 and 1, got 1\.5"),
    ("Dropout of True", lambda: nn.Dropout(True), TypeError, "Dropout: p must be a number, got bool"),
    ("dropout of NaN", lambda: F.dropout(V, math.nan), ValueError, "p must be.*between 0 and 1, got nan"),
    ("Embedding(4)", lambda: nn.Embedding(4, 3)([4]), IndexError, "embedding: `indices`.*table.*has 4.*; got 4"),
    ("Embedding(-1)", lambda: nn.Embedding(4, 3, padding_idx=3)([0, -1]),
     IndexError, "embedding: `indices`.*table.*has 4.*; got -1"),
    ("Embedding(2^64 - 1)", lambda: nn.Embedding(4, 3)(np.array([2**64 - 1], np.uint64)),
     IndexError, "embedding: `indices`.*; got 18446744073709551615"),
    ("Embedding of no rows", lambda: F.embedding([0], zeros(0, 3)), IndexError, "which has 0, .*; got 0"),
    ("data = list", lambda: setattr(nn.Parameter([1.0]), "data", [1, 2]),
     TypeError, r"data of a Parameter must be a NumPy array.*got list; write p\.data = "),
    ("data = None", lambda: setattr(nn.Parameter([1.0]), "data", None), TypeError, "data of a.*got NoneType"),
    ("data = number", lambda: setattr(nn.Parameter([1.0]), "data", 3.0), TypeError, r"data of a.*got 3\.0 \(float\)"),
    ("data = complex", lambda: setattr(nn.Parameter([1.0]), "data", zeros(1).astype(complex)),
     TypeError, "data of a Parameter must be.*real numbers, got ndarray of dtype complex128"),
    ("batch_first", lambda: nn.LSTM(2, 3, batch_first="yes"),
     TypeError, "LSTM: batch_first must be True or False, got 'yes'"),
    ("bias", lambda: nn.Linear(2, 3, bias="no"), TypeError, "Linear: bias must be True or False, got 'no'"),
    ("no such option", lambda: nn.LSTM(2, 3, batchfirst=True),
     TypeError, "LSTM: unknown option 'batchfirst'; did you mean 'batch_first'"),
    ("no such option of Conv2d", lambda: nn.Conv2d(1, 2, 3, strides=2),
     TypeError, "Conv2d: unknown option 'strides'; did you mean 'stride'"),
    ("no near option", lambda: nn.GRUCell(2, 3, zzz=1),
     TypeError, r"GRUCell: unknown.*'zzz'; expected one of \['input"),
    ("no option at all", lambda: nn.ReLU(inplace=True), TypeError, "ReLU: unknown option 'inplace'; it takes none"),
    ("ReLU(x)", lambda: nn.ReLU(X), TypeError, "ReLU: expected no arguments, got 1"),
    ("LSTM of one size", lambda: nn.LSTM(3), TypeError, r"LSTM: missing .*'hidden_size'; it takes \['input_size', "),
    ("GRU(x, list)", lambda: nn.GRU(2, 3)(zeros(4, 5, 2), [1.0]),
     ValueError, r"GRU: hx must be a tensor.*got \[\(1,\)\]"),
    ("GRU(x, str)", lambda: nn.GRU(2, 3)(zeros(4, 5, 2), "h"), TypeError, "GRU: hx must be real numbers.*got str"),
    ("LSTM(x, int)", lambda: nn.LSTM(2, 3)(zeros(4, 5, 2), 3), ValueError, r"LSTM: hx must be a pair.*got \[\(\)\]"),
    ("LSTM(no steps)", lambda: nn.LSTM(2, 3)(zeros(0, 5, 2)), ValueError, r"lstm: `x` must be \(steps >= 1"),
    ("softmax over 5", lambda: F.softmax(Y, 5), ValueError, r"softmax: `dim` must be in \[-2, 1\].*got 5"),
    ("softmax of a number", lambda: F.log_softmax(3.0, 0),
     ValueError, r"log_softmax: `dim` must name an axis, got 0 for an array of shape \(\)"),
    ("softmin over a float", lambda: nn.Softmin(2)(Y), ValueError, r"softmin: `dim` must be in \[-2, 1\].*got 2"),
    ("save a list", lambda: nn.save_state([1], "x"), TypeError, "save_state: model must be a Module, got list"),
    ("save to None", lambda: nn.save_state(nn.ReLU(), None), TypeError, "save_state: path must be a str.*NoneType"),
    ("save to no folder", lambda: nn.save_state(nn.ReLU(), "no/x"),
     FileNotFoundError, "save_state: .*'no/x'; make 'no'"),
    ("save to a folder", lambda: nn.save_state(nn.ReLU(), "."),
     IsADirectoryError, "save_state: path must be a file, got the directory '.'"),
    ("load into a list", lambda: nn.load_state([1], "x"), TypeError, "load_state: model must be a Module, got list"),
    ("load nothing", lambda: nn.load_state(nn.ReLU(), "x"), FileNotFoundError, "load_state: path must be a file.*'x'"),
    ("load a folder", lambda: nn.load_state(nn.ReLU(), "."), IsADirectoryError, "load_state: path.*directory '.'"),
    ("Embedding of floats", lambda: nn.Embedding(4, 3)([1.0]),
     TypeError, "`indices` must be integers, got .*float"),
    ("padding_idx", lambda: nn.Embedding(4, 3, padding_idx=9),
     ValueError, "Embedding: padding_idx.* 4, got 9"),
    ("LSTM(x)", lambda: nn.LSTM(2, 3)(zeros(4, 5, 7)),
     ValueError, r"LSTM: .*input_size=2.*got shape \(4, 5, 7\)"),
    ("LSTM(list)", lambda: nn.LSTM(2, 3)([zeros(4, 2), X]),
     ValueError, r"LSTM: x\[1\].*input_size=2.*\(2, 3\)"),
    ("GRU(x, h)", lambda: nn.GRU(2, 3)(zeros(4, 5, 2), zeros(1, 4, 3)),
     ValueError, r"hx .*\(1, 5, 3\), got .*\(1, 4, 3\)"),
    ("heads", lambda: nn.MultiheadAttention(5, 2),
     ValueError, "embed_dim=5 must be divisible by num_heads=2"),
    ("LeakyReLU", lambda: nn.LeakyReLU("a"),
     TypeError, "LeakyReLU: negative_slope must be a number, got 'a'"),
    ("Sequential", lambda: nn.Sequential(3), TypeError, "Sequential holds Modules, got int"),
    ("no forward", lambda: Net()(1), NotImplementedError, r"Net must define forward\(\)"),
    ("weight", lambda: setattr(nn.Linear(3, 2), "weight", zeros(2)),
     TypeError, "Linear.weight is a param.*ndarray"),
    ("missing", lambda: nn.Linear(1, 1).load_state_dict({}),
     ValueError, "(?s)state_dict.*missing: .*bias"),
    ("shape of state", lambda: nn.Linear(1, 1, bias=False).load_state_dict({"weight": X}),
     ValueError, r"(?s)weight: expected \(1, 1\), got \(2, 3\)"),
    ("train('no')", lambda: nn.ReLU().train("no"), TypeError, "mode must be a bool, got 'no'"),
    ("init", lambda: nn.init.uniform_(zeros(3)), TypeError, "tensor must be a Tensor, got ndarray"),
]

LOSSES: list[Row] = [
    *(
        (
            f"{loss.__name__} of (N,) and (N, 1)",
            lambda loss=loss: loss(zeros(3), zeros(3, 1)),
            ValueError,
            rf"{loss.__name__}: input and target.*same shape, got \(3,\) and \(3, 1\)",
        )
        for loss in (F.mse_loss, F.l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits, F.kl_div)
    ),
    ("a string", lambda: F.mse_loss("a", V), TypeError, f"mse_loss: input {NUMBERS}str"),
    ("reduction", lambda: F.mse_loss(V, V, "avg"), ValueError, "mse_loss: reduction.*'mean'.*got 'avg'"),
    ("module", lambda: nn.MSELoss(reduction="avg"), ValueError, "MSELoss: reduction.*'mean'.*got 'avg'"),
    ("delta", lambda: F.huber_loss(V, V, delta=0), ValueError, "huber_loss: delta must be positive, got 0"),
    ("probabilities", lambda: F.binary_cross_entropy(V, V),
     ValueError, "between 0 and 1, got values from 1.0 to 3.0"),
    ("weight", lambda: F.binary_cross_entropy_with_logits(V, V, zeros(2)),
     ValueError, r"weight.*\(3,\), got \(2,\)"),
    ("float classes", lambda: F.cross_entropy(X, [0.0, 1.0]), ValueError, r"`target`.*\(2, 3\).*got \(2,\)"),
    ("bool classes", lambda: F.cross_entropy(X, [True, False]), TypeError, "`target`.*integers, got bool"),
    ("class 3 of 3", lambda: F.cross_entropy(X, [0, 3]), ValueError, r"`target`.*\[0, 2\].*got 3"),
    ("class -1", lambda: F.cross_entropy(X, [0, -1]), ValueError, r"`target`.*\[0, 2\].*got -1"),
    ("column of classes", lambda: F.cross_entropy(X, [[0], [1]]),
     ValueError, r"`target`.*\(2,\).*got shape \(2, 1\)"),
    ("no classes", lambda: F.cross_entropy(X, None), TypeError, f"cross_entropy: `target` {NUMBERS}NoneType"),
    ("smoothing", lambda: F.cross_entropy(X, [0, 1], label_smoothing=2),
     ValueError, r"`label_smoothing`.*\[0, 1\], got 2"),
    ("weights", lambda: F.cross_entropy(X, [0, 1], weight=[1.0]),
     ValueError, r"`weight`.*\(3,\), got \(1,\)"),
    ("nll", lambda: F.nll_loss(X, X), TypeError, "nll_loss: `target`.*integers, got float32"),
]

# fmt: on
ARRAYS = {
    "tensor": TENSORS,
    "index": INDICES,
    "operation": OPERATIONS,
    "matrix": MATRICES,
    "layer": LAYERS,
    "loss": LOSSES,
}

"""`Tensor`: an array that remembers how it was computed.

It holds two things, the array (`data`) and its place on the tape (`node`: a `Node` if an operation made it, a
`Leaf` if it collects a gradient, None if it carries none). Operators and methods are one-line calls into `ops/`.
Names are torch's, with NumPy's spelling accepted beside them (`dim`/`axis`, `keepdim`/`keepdims`); where the two
disagree about a value, a method does what the same method of an ndarray does, so that code written for plain NumPy
differentiates unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .methods import Extremum as Extremum
from .methods import Methods
from .tape import RECORD, Array, Hook, Leaf, Node, mode, writes

if TYPE_CHECKING:
    from collections.abc import Mapping

    TensorLike: TypeAlias = Union["Tensor", ArrayLike]  # noqa: UP007  # a string has no operator |

Axis = int | Sequence[int] | None
Self = TypeVar("Self", bound="Tensor")

# NumPy's functions and ufuncs that differentiate, filled by `dist_dp/numpy.py`: what np.f(tensor) is handed to.
numpy_functions: dict[Any, Callable[..., Any]] = {}


class Tensor(Methods):
    """An array with a place on the tape. Make one with `dp.tensor(data, requires_grad=True)`.

    Attributes:
        data: the values, a NumPy array. Writing into it is not seen by the tape; `x[i] = v` and `x.copy_(v)` are.
        node: its place on the tape, or None.

    >>> import dist_dp as dp
    >>> x = dp.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "data", "node")

    data: Array
    node: Any

    def __init__(self, data: ArrayLike, dtype: DTypeLike | None = None, requires_grad: bool = False) -> None:
        array = as_array(data.data if isinstance(data, Tensor) else data, "data")
        self.data = array if dtype is None else array.astype(real_dtype(dtype), copy=False)
        self.node = None
        if requires_grad is not False:
            self.requires_grad_(requires_grad)

    @staticmethod
    def _of(data: Array, node: Any) -> Tensor:
        """A tensor from an array and a place on the tape, without any check."""
        result: Tensor = _new(Tensor)
        result.data = data
        result.node = node
        return result

    # --- what it is -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements, as an ndarray's (torch's `size()` is `shape` here)."""
        return self.data.size

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return self.size

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor; use x.item() for its value")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor; use x.item() for its value")
        return (self[i] for i in range(self.shape[0]))

    def __repr__(self) -> str:
        text = np.array2string(self.data, separator=", ", prefix="tensor(")
        if self.dtype not in (np.float32, np.int64, np.bool_):
            text += f", dtype={self.dtype}"
        if isinstance(self.node, Node):
            text += f", grad_fn=<{self.node.op.name}>"
        elif self.node is not None:
            text += ", requires_grad=True"
        return f"tensor({text})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.size == 1 else format(repr(self), spec)

    __hash__ = object.__hash__

    # --- leaving the tape -----------------------------------------------------------------------------------------

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number."""
        if self.size != 1:
            raise ValueError(f"item() needs a tensor with one element, got shape {self.shape}")
        return self.data.item()

    def tolist(self) -> Any:
        return self.data.tolist()

    def numpy(self) -> Array:
        """The values as an array that shares memory with the tensor.

        Raises:
            RuntimeError: the tensor carries a gradient, which an array would silently drop; say `x.detach().numpy()`.
        """
        if self.node is not None:
            raise RuntimeError(
                "this tensor carries a gradient, which a NumPy array cannot: "
                "call x.detach().numpy() if the gradient should end here"
            )
        return self.data

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def detach(self) -> Tensor:
        """The same values (and memory) without a gradient."""
        return Tensor._of(self.data, None)

    def clone(self) -> Tensor:
        """A copy; gradients flow through it."""
        return ops.copy(self)

    copy = clone

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; use x.any() or x.all()"
            )
        return bool(self.data)

    def __float__(self) -> float:
        """The value of one element without a gradient: math.sin(x) or array[i] = x would drop one silently."""
        return float(self._plain("float"))

    def __int__(self) -> int:
        return int(self._plain("int"))

    def _plain(self, kind: str) -> Any:
        if self.node is not None:
            raise RuntimeError(
                f"{kind}() of a tensor that carries a gradient, which a Python number cannot: use x.item() if the "
                "gradient should end here, and dist_dp.numpy's functions in place of math's (or, to fill an array "
                "element by element, dist_dp.numpy.stack)"
            )
        return self.item()

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only a tensor of integers can be an index, got dtype {self.dtype}")
        return int(self.item())

    def __contains__(self, value: Any) -> bool:
        return bool((self.data == (value.data if isinstance(value, Tensor) else value)).any())

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.node, Node):
            raise RuntimeError("only leaf tensors can be copied or pickled; call x.detach() first")
        return _restored, (type(self), self.data, self.node is not None)

    # --- gradients ------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether the tensor carries a gradient: a leaf that collects one, or a result computed from such a leaf."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self: Self, value: bool = True) -> Self:
        """Collect a gradient in this tensor from now on (or, with False, no longer).

        Raises:
            TypeError: the dtype is not floating: integers and booleans carry no gradient.
            RuntimeError: asked to stop on a computed tensor; `detach()` ends a gradient there.
        """
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"requires_grad must be True or False, got {value!r:.80}")
        if value and self.node is None:
            if self.dtype.kind != "f":
                raise TypeError(
                    f"requires_grad needs a floating dtype, got {self.dtype}: integers and booleans carry no gradient; "
                    "convert with x.astype('float32') first"
                )
            self.node = Leaf(self.shape, self.dtype)
        elif not value and isinstance(self.node, Node):
            raise RuntimeError("requires_grad can only be switched off on a leaf; use x.detach()")
        elif not value:
            self.node = None
        return self

    @property
    def is_leaf(self) -> bool:
        return not isinstance(self.node, Node)

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made this tensor, or None."""
        return self.node if isinstance(self.node, Node) else None

    @property
    def grad(self) -> Tensor | None:
        """The gradient collected by a leaf, or None if no backward pass reached it."""
        g = self.node.grad if isinstance(self.node, Leaf) else None
        return g if g is None or isinstance(g, Tensor) else Tensor._of(g, None)

    @grad.setter
    def grad(self, value: Tensor | Array | None) -> None:
        if not isinstance(self.node, Leaf):
            raise RuntimeError("grad can only be set on a leaf that requires a gradient")
        if value is not None:
            if not isinstance(value, (Tensor, np.ndarray, np.generic)):
                raise TypeError(f"grad must be a Tensor, an array or None, got {type(value).__name__}")
            if value.shape != self.shape:
                raise ValueError(f"grad must have the tensor's shape {self.shape}, got {value.shape}")
        self.node.clear()
        if value is not None:
            if isinstance(value, Tensor) and value.node is not None:
                self.node.accumulate_recorded(value)
            else:
                self.node.accumulate(value.data if isinstance(value, Tensor) else value)

    def backward(
        self,
        gradient: TensorLike | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
        on_reach: Callable[[Container[Any]], None] | None = None,
        on_ready: Callable[[Leaf], None] | None = None,
    ) -> None:
        """Add the gradient of this tensor to `grad` of every leaf it was computed from.

        Args:
            gradient: the gradient of the final loss with respect to this tensor; 1 for a scalar.
            retain_graph: keep the saved arrays for another backward through the same graph.
            create_graph: record the backward pass too, so that the gradients can be differentiated.
            on_reach: called first, with the nodes and leaf accumulators that are reached.
            on_ready: called with each leaf's accumulator when its last contribution has landed.

        Raises:
            RuntimeError: no gradient is carried, the graph was freed, or a saved array was overwritten.
            ValueError: `gradient` is missing for a tensor that is not a scalar, or has another shape.
        """
        if self.node is None:
            raise RuntimeError(
                "backward() on a tensor that carries no gradient: nothing it was computed from requires one "
                "(or it was computed under no_grad, or is an integer, boolean or detached tensor)"
            )
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward() without `gradient` needs a scalar, got shape {self.shape}")
            gradient = np.ones(self.shape, self.dtype)
        # Raises for what are no real numbers. Of a list only the shape is right: it would be rounded to float32.
        given = gradient if isinstance(gradient, Tensor) else as_array(gradient, "gradient")
        if given.shape != self.shape:
            raise ValueError(f"`gradient` must have the tensor's shape {self.shape}, got {given.shape}")
        if create_graph:
            g: Any = gradient if isinstance(gradient, Tensor) else Tensor(gradient, self.dtype)
        else:
            g = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient, dtype=self.dtype)
        sweeps.backward(
            [(self.node, g)],
            retain_graph=retain_graph,
            create_graph=create_graph,
            on_reach=on_reach,
            on_ready=on_ready,
        )

    def register_hook(self, hook: Hook) -> Callable[[], None]:
        """Call `hook(gradient)` when this tensor's gradient is complete; a tensor it returns takes its place.

        Returns a function that removes the hook.
        """
        if self.node is None:
            raise RuntimeError("register_hook() on a tensor that carries no gradient")
        if not callable(hook):
            raise TypeError(f"hook must be a function of the gradient, got {hook!r:.80}")
        hooks = self.node.hooks = self.node.hooks or []
        hooks.append(hook)
        return lambda: hooks.remove(hook)

    # --- writing in place -----------------------------------------------------------------------------------------
    # A write that must be recorded makes a new array and moves this tensor to it, so that nothing saved is ever
    # overwritten. A write that is not recorded (under no_grad, or where no gradient is involved) changes memory and is
    # noted on the clock, so that a backward pass that still needs the old values refuses.

    def _records_write(self, value: Any) -> bool:
        carried = self.node is not None or (isinstance(value, Tensor) and value.node is not None)
        if not carried or mode.state < RECORD:
            return False
        if isinstance(self.node, Leaf):
            raise RuntimeError(
                "in-place write to a leaf that requires a gradient; update it under `with dp.no_grad():`, "
                "or write into a copy: y = x.clone()"
            )
        base = self.data.base
        if base is not None and sys.getrefcount(base) > 3:  # `base`, the argument, the view's own reference
            raise RuntimeError(
                "recorded in-place write through a view: the tensor it is a view of would not see it; "
                "write into that tensor (x[0, 1] = v, not x[0][1] = v) or into a copy (x.clone())"
            )
        return True

    def _become(self: Self, result: Tensor) -> Self:
        if result.dtype != self.dtype:
            if self.dtype.kind != "f":
                raise TypeError(
                    f"in-place result of dtype {result.dtype} does not fit a tensor of {self.dtype}"
                )
            result = result.astype(self.dtype)
        if result.shape != self.shape:
            raise ValueError(
                f"in-place result of shape {result.shape} does not fit a tensor of shape {self.shape}"
            )
        # A value of `dp.batched` is a row among others, which a later write must not go to.
        self.data, self.node = result.data if type(result) is Tensor else result.data.copy(), result.node
        return self

    def _update(self: Self, op: Any, other: Any, by: str) -> Self:
        if self._records_write(other):
            return self._become(binary(op, self, other))
        value = other.data if isinstance(other, Tensor) else other
        try:
            op.forward(self.data, value, out=self.data, casting="same_kind")
        except (TypeError, ValueError):
            return self._become(binary(op, self.detach(), other))  # which says what does not fit
        writes.note(self.data, by)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        if self._records_write(value):
            self._become(ops.set_item(self, index, value))
            return
        place, given = ops.plain_index(index), value.data if isinstance(value, Tensor) else value
        try:
            self.data[place] = given
        except (TypeError, ValueError):
            ops.set_item(self.detach(), index, value)  # which says what does not fit
            raise
        writes.note(self.data, "x[...] = v")

    def copy_(self: Self, value: TensorLike) -> Self:
        """Overwrite with `value`, broadcast to this shape."""
        self[...] = value
        return self

    def fill_(self: Self, value: float) -> Self:
        return self.copy_(value)

    def zero_(self: Self) -> Self:
        return self.copy_(0)

    def add_(self: Self, other: TensorLike) -> Self:
        return self._update(add_op, other, "add_")

    def sub_(self: Self, other: TensorLike) -> Self:
        return self._update(subtract_op, other, "sub_")

    def mul_(self: Self, other: TensorLike) -> Self:
        return self._update(multiply_op, other, "mul_")

    def div_(self: Self, other: TensorLike) -> Self:
        return self._update(divide_op, other, "div_")

    __iadd__, __isub__, __imul__, __itruediv__ = add_, sub_, mul_, div_

    # --- operators ------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return binary(add_op, self, other)

    def __radd__(self, other: Any) -> Tensor:
        return binary(add_op, other, self)

    def __sub__(self, other: Any) -> Tensor:
        return binary(subtract_op, self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return binary(subtract_op, other, self)

    def __mul__(self, other: Any) -> Tensor:
        return binary(multiply_op, self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return binary(multiply_op, other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return binary(divide_op, self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return binary(divide_op, other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return ops.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return ops.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return ops.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return ops.remainder(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return unary(negative_op, self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __invert__(self) -> Tensor:
        return ops.logical_not(self) if self.dtype == np.bool_ else ops.bitwise_not(self)

    def __and__(self, other: Any) -> Tensor:
        return ops.bitwise_and(self, other)

    def __or__(self, other: Any) -> Tensor:
        return ops.bitwise_or(self, other)

    def __xor__(self, other: Any) -> Tensor:
        return ops.bitwise_xor(self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return ops.equal(self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return ops.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.greater_equal(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return ops.get_item(self, index)

    # --- NumPy's protocols ----------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """np.sin(t), array + t: handed to the operation of the same name."""
        if method == "__call__" and not kwargs and ufunc in numpy_functions:
            return numpy_functions[ufunc](*inputs)
        if method == "reduce" and (ufunc, "reduce") in numpy_functions:
            return numpy_functions[ufunc, "reduce"](*inputs, **kwargs)
        what = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        given = f" with {', '.join(kwargs)}=" if kwargs and ufunc in numpy_functions else ""
        raise TypeError(
            f"{what}{given} is not supported on a Tensor: it would lose the gradient; "
            "use an operation listed in dist_dp.numpy, or x.detach().numpy() where no gradient is wanted"
        )

    def __array_function__(
        self, func: Any, types: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """np.concatenate([t, u]), np.sum(t, axis=1): handed to the function of the same name in dist_dp.numpy."""
        if func in numpy_functions:
            return numpy_functions[func](*args, **kwargs)
        name = f"{func.__module__.replace('numpy', 'np', 1)}.{func.__name__}"
        raise TypeError(
            f"{name} is not supported on a Tensor: it would lose the gradient; "
            "use a function listed in dist_dp.numpy, or x.detach().numpy() where no gradient is wanted"
        )


_new = Tensor.__new__


def _restored(kind: type[Tensor], data: Array, requires_grad: bool) -> Tensor:
    result = _new(kind)
    result.data, result.node = data, Leaf(data.shape, data.dtype) if requires_grad else None
    return result


# Operations make tensors and tensors call operations: the class comes first, what its methods call follows.
from . import backward as sweeps  # noqa: E402
from . import ops  # noqa: E402
from .ops.core import as_array, binary, real_dtype, unary  # noqa: E402
from .ops.elementwise import add_op, divide_op, multiply_op, negative_op, subtract_op  # noqa: E402

"""`Parameter` and `Module`: what is learned, and what holds it under a name.

A module keeps nothing but its attributes. Which of them are parameters, buffers or submodules is told by
their type when somebody asks (`parameters()`, `state_dict()`), so that an attribute is a plain lookup on the
hot path of recursive models, and a subclass may assign attributes before, after or without
`super().__init__()`. Names, keys and order are torch's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..arguments import check_options
from ..ops.core import TensorLike
from ..tape import Leaf, writes
from ..tensor import Tensor
from .buffers import Buffer, collecting, propose

__all__ = ["Incompatible", "Module", "Parameter"]

Member = TypeVar("Member", bound=Tensor)
ForwardHook = Callable[["Module", tuple[Any, ...], Any], Any]


class Parameter(Tensor):
    """A tensor that is learned: assigned to an attribute of a module, it is one of the module's
    `parameters()`.

    Args:
        data: initial values. Python floats become float32; NumPy arrays and tensors keep their dtype and
            memory.
        requires_grad: whether it collects a gradient.
        dtype: a floating dtype to convert to.

    Raises:
        TypeError: a dtype that is not floating, with `requires_grad`.

    >>> from dist_dp import nn
    >>> nn.Parameter([1.0, 2.0])
    Parameter containing:
    tensor([1., 2.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: TensorLike, requires_grad: bool = True, dtype: DTypeLike | None = None) -> None:
        super().__init__(data, dtype, requires_grad)

    def __setattr__(self, name: str, value: Any) -> None:
        """`p.data = value` takes arrays of real numbers alone. (Other tensors are made on every operation, too often
        to look at what they are given.)
        """
        if name == "data" and not (isinstance(value, np.ndarray) and value.dtype.kind in "fiub"):
            if not (
                isinstance(value, np.generic) and value.dtype.kind in "fiub"
            ):  # p.data + 1 of a 0-d parameter
                raise TypeError(
                    f"data of a Parameter must be a NumPy array of real numbers, got {_kind(value)}"
                    + (f" of dtype {value.dtype}" if isinstance(value, (np.ndarray, np.generic)) else "")
                    + "; write p.data = np.asarray(value, p.dtype), or `with dp.no_grad(): p.copy_(value)`"
                )
            value = np.asarray(value)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Incompatible(NamedTuple):
    """What `load_state_dict(strict=False)` did not load."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _unimplemented(self: Module, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} must define forward()")


class Module:
    """Base of every model and layer: subclass it, assign parameters and modules to attributes, define
    `forward`.

    Parameters, buffers and modules that are attributes are found by `parameters()`, `state_dict()` and the
    rest under their attribute names, joined by dots. A parameter that stands in two places is one parameter.

    >>> from dist_dp import nn
    >>> class Doubler(nn.Module):
    ...     def __init__(self):
    ...         self.inner = nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return self.inner(x) * 2
    >>> model = Doubler()
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('inner.weight', (2, 3)), ('inner.bias', (2,))]
    >>> model
    Doubler(
      (inner): Linear(in_features=3, out_features=2, bias=True)
    )
    """

    training: bool = True
    _forward_hooks: tuple[ForwardHook, ...] = ()

    # Declared as an attribute, so that a subclass may give it any signature.
    forward: Callable[..., Any] = _unimplemented

    if not TYPE_CHECKING:  # which goes by the signature of `__init__`

        def __new__(cls, *args: Any, **kwargs: Any) -> Self:
            """Refuse arguments that `__init__` does not take, by the name of the class that was called: its `__init__`
            may be a base's."""
            if args or kwargs:  # neither by copy and pickle
                _check_call(cls, args, kwargs)
            return super().__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`, then the forward hooks."""
        if not self._forward_hooks:
            return self.forward(*args, **kwargs)
        out = self.forward(*args, **kwargs)
        for hook in self._forward_hooks:
            changed = hook(self, args, out)
            out = out if changed is None else changed
        return out

    # --- attributes ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        current = self.__dict__.get(name)
        if isinstance(value, Module):
            if any(module is self for module in value.modules()):
                raise ValueError(f"{_path(self, name)}: a module cannot contain itself")
        elif isinstance(current, (Parameter, Module)) and not isinstance(value, (Parameter, type(None))):
            what = "parameter" if isinstance(current, Parameter) else "module"
            raise TypeError(
                f"{_path(self, name)} is a {what}, which {_kind(value)} cannot replace: the {what} "
                "would no longer be trained; to change values write `with dp.no_grad(): p.copy_(v)`, to replace it "
                "`del` the attribute first"
            )
        elif isinstance(current, Buffer) and isinstance(value, (Tensor, np.ndarray)):
            if collecting():
                raise RuntimeError(
                    f"{_path(self, name)} is a buffer, which the training loop changes with the step and "
                    f"not within it: call self.propose_buffer({name!r}, value, weight) instead"
                )
            value = value if isinstance(value, Buffer) else Buffer(value, current.persistent)
        elif isinstance(value, (list, tuple, dict)):
            items = value.values() if isinstance(value, dict) else value
            if any(isinstance(item, (Module, Parameter)) for item in items):
                kind = "Dict" if isinstance(value, dict) else "List"
                raise TypeError(
                    f"{_path(self, name)}: what stands in a plain {type(value).__name__} would not be trained or "
                    f"saved; use nn.Module{kind} or nn.Parameter{kind}"
                )
        self.__dict__[name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set attribute `name` to a parameter, or to None.

        Raises:
            TypeError: not a Parameter. ValueError: not a usable name, or one that is taken.
        """
        self._take(name, param, (Parameter, type(None)))

    def register_buffer(self, name: str, tensor: TensorLike | None, persistent: bool = True) -> None:
        """Set attribute `name` to a `Buffer` of `tensor`, or to None.

        Raises:
            ValueError: not a usable name, or one that is taken.
        """
        self._take(name, None if tensor is None else Buffer(tensor, persistent), object)

    def add_module(self, name: str, module: Module) -> None:
        """Set attribute `name` to a submodule.

        Raises:
            TypeError: not a Module. ValueError: not a usable name, or one that is taken.
        """
        self._take(name, module, Module)

    def _take(self, name: str, value: Any, kind: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {_kind(name)}")
        if not name or "." in name or hasattr(type(self), name):
            raise ValueError(
                f"name must be a non-empty str without a dot that {type(self).__name__} does not use itself, "
                f"got {name!r}"
            )
        if name in self.__dict__ and not isinstance(self.__dict__[name], (Tensor, Module, type(None))):
            raise ValueError(
                f"{_path(self, name)} is taken by {_kind(self.__dict__[name])}; choose another name"
            )
        if not isinstance(value, kind):
            expected = "a Module" if kind is Module else "a Parameter or None"
            raise TypeError(f"{_path(self, name)} must be {expected}, got {_kind(value)}")
        setattr(self, name, value)

    def _own(self, kind: type[Member]) -> list[tuple[str, Member]]:
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, kind)]

    # --- what it holds ------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules held directly, each once."""
        seen: set[int] = set()
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules held directly, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module (named `prefix`) and all inside it, parents first."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if remove_duplicate and id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            inner = [
                (_joined(name, key), child)
                for key, child in module.__dict__.items()
                if isinstance(child, Module)
            ]
            stack.extend(reversed(inner))

    def modules(self) -> Iterator[Module]:
        """This module and all inside it, each once, parents first."""
        return (module for _, module in self.named_modules())

    def _named(
        self, kind: type[Member], prefix: str, recurse: bool, once: bool
    ) -> Iterator[tuple[str, Member]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix, once) if recurse else [(prefix, self)]:
            for name, value in module._own(kind):
                if once and id(value) in seen:
                    continue
                seen.add(id(value))
                yield _joined(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) in the order of definition; a shared one once, under its first name."""
        return self._named(Parameter, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters in the order of definition, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """(dotted name, buffer), persistent or not; a shared one once."""
        return self._named(Buffer, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    # --- modes and changes --------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and in every module inside: what dropout and batch normalisation go by."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode must be a bool, got {_kind(mode)}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """`train(False)`."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters (`grad` is None afterwards)."""
        for p in self.parameters():
            if isinstance(p.node, Leaf):
                p.node.clear()

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all parameters collect gradients, or freeze them."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def to(self, dtype: DTypeLike) -> Self:
        """Convert all floating parameters and buffers to the floating `dtype`, in place; gradients are
        forgotten.

        Raises:
            TypeError: `dtype` is not floating.
        """
        kind = np.dtype(dtype)
        if kind.kind != "f":
            raise TypeError(f"dtype must be floating, got {kind}")
        for member in (*self.parameters(), *self.buffers()):
            if member.dtype.kind == "f" and member.dtype != kind:
                member.data = member.data.astype(kind)
                member.node = None if member.node is None else Leaf(member.shape, kind)
        return self

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call `fn` on every module inside, then on this one (as torch: children first)."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def register_forward_hook(self, hook: ForwardHook) -> Callable[[], None]:
        """Call `hook(module, args, output)` after every `forward`; what it returns, unless None, replaces the
        output.

        Returns a function that removes the hook.
        """
        self._forward_hooks = (*self._forward_hooks, hook)

        def remove() -> None:
            self._forward_hooks = tuple(h for h in self._forward_hooks if h is not hook)

        return remove

    def propose_buffer(self, name: str, value: ArrayLike, weight: float = 1.0) -> None:
        """Propose `value` as the next value of buffer `name`, with a weight (say, the number of examples
        behind it).

        Outside a training loop the buffer takes it at once. Inside, it takes the mean of what all shards of
        the step proposed, sum(weight * value) / sum(weight), when the step is committed (see
        `buffer_proposals`).

        Raises:
            KeyError: no such buffer. ValueError: another shape, or a weight that is not positive.
        """
        buffer = self.__dict__.get(name)
        if not isinstance(buffer, Buffer):
            raise KeyError(
                f"{type(self).__name__} has no buffer {name!r}; it has {[n for n, _ in self._own(Buffer)]}"
            )
        propose(buffer, value, weight)

    # --- state --------------------------------------------------------------------------------------------------------

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(prefix, remove_duplicate=False):
            for name, parameter in module._own(Parameter):
                yield _joined(path, name), parameter
            for name, buffer in module._own(Buffer):
                if buffer.persistent:
                    yield _joined(path, name), buffer

    def state_dict(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """All parameters and persistent buffers as arrays, under torch's keys and in torch's order.

        The arrays are copies: what is trained afterwards does not change them. A shared parameter stands
        under each of its names.
        """
        return {name: np.array(t.data, order="C") for name, t in self._named_state(prefix)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Incompatible:
        """Overwrite parameters and persistent buffers with the values in `state_dict`: all of them, or none
        on error.

        Args:
            state_dict: arrays, tensors or anything NumPy can read (torch's tensors among them) by dotted
                name. Values are converted to the dtype of what they overwrite.
            strict: whether every name must be found on both sides. A shared parameter needs one of its names.

        Raises:
            TypeError: not a mapping.
            ValueError: missing or unexpected names (if strict), other shapes, or values that cannot be
                converted: all in one message.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a mapping from names to arrays, got {_kind(state_dict)}")
        own = dict(self._named_state())
        given = {id(own[name]) for name in state_dict if name in own}
        missing = [name for name, t in own.items() if id(t) not in given]
        unexpected = [name for name in state_dict if name not in own]
        problems: list[str] = []
        if strict:
            problems += [f"missing: {name}" for name in missing] + [
                f"unexpected: {name}" for name in unexpected
            ]
        arrays: list[tuple[Tensor, NDArray[Any]]] = []
        for name, target in own.items():
            if name in state_dict:
                value = state_dict[name]
                array = value.data if isinstance(value, Tensor) else np.asarray(value)
                if array.shape != target.shape:
                    problems.append(f"shape of {name}: expected {target.shape}, got {array.shape}")
                elif not np.can_cast(array.dtype, target.dtype, "same_kind"):
                    problems.append(f"dtype of {name}: expected {target.dtype}, got {array.dtype}")
                arrays.append((target, array))
        if problems:
            raise ValueError(f"state_dict does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for target, array in arrays:
            np.copyto(target.data, array, casting="same_kind")
            writes.note(target.data, "load_state_dict")
        return Incompatible(missing, unexpected)

    # --- text ---------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses of `repr`: the settings of a layer."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        inner = [
            f"({name}): " + repr(value).replace("\n", "\n  ")
            for name, value in self.__dict__.items()
            if isinstance(value, Module)
        ]
        if not inner and "\n" not in extra:
            return f"{type(self).__name__}({extra})"
        lines = [*(extra.split("\n") if extra else []), *inner]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _check_call(cls: type[Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if cls.__init__ is object.__init__:
        check_options(cls.__name__, kwargs, ())
        if args:
            raise TypeError(f"{cls.__name__}: expected no arguments, got {len(args)}")
        return
    try:
        signature = inspect.signature(cls.__init__, follow_wrapped=False)
    except ValueError:  # not written in Python
        return
    _, *known = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        check_options(cls.__name__, kwargs, [p.name for p in known if p.kind is not p.VAR_POSITIONAL])
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}: {error}; it takes {[p.name for p in known]}") from None


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _path(module: Module, name: str) -> str:
    return f"{type(module).__name__}.{name}"


def _kind(value: object) -> str:
    return (
        f"{value!r:.60} ({type(value).__name__})"
        if isinstance(value, (str, int, float))
        else type(value).__name__
    )

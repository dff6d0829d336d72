"""Counter-based randomness: every draw is a function of a key, never of what was drawn before it elsewhere.

A `Key` is a path such as ``Key(seed).fold("step", 12, "shard", 3)``.  A `Stream` is a key and a count of
uses: its draws are made from ``key.fold(0)``, ``key.fold(1)``, ... in turn.  A `scope` makes a stream the
current one of this thread, which is what dropout and the functions of this module draw from.  The training
loop enters one scope per logical shard, so what a shard draws depends on (seed, step, shard, use), and not
on the worker, the thread or the order in which shards are computed.

The bits come from Philox, a block cipher run over a counter: Salmon, Moraes, Dror, Shaw, "Parallel random
numbers: as easy as 1, 2, 3" (SC 2011, Random123).  Its 128-bit key is the end of a chain of BLAKE2b hashes
(RFC 7693) along the path, so different paths have different streams, up to a collision of 128-bit hashes.
"""

from __future__ import annotations

import contextlib
import math
import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random import Generator, Philox
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Key",
    "Stream",
    "bernoulli",
    "choice",
    "current",
    "integers",
    "next_key",
    "normal",
    "permutation",
    "scope",
    "seed",
    "uniform",
]

Shape = int | Sequence[int]


def integer_argument(name: str, value: object, *, least: int | None = None, expected: str = "an int") -> int:
    """`value` as an int of at least `least`; TypeError or ValueError that names the argument otherwise.

    Booleans are refused: ``batch_size=True`` is a slip, not a one.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {_kind(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def _kind(value: object) -> str:
    return f"{value!r:.80} ({type(value).__name__})"


def _shape(shape: Shape) -> tuple[int, ...]:
    if isinstance(shape, (tuple, list)):
        return tuple(integer_argument("shape", n, least=0, expected="made of ints") for n in shape)
    return (integer_argument("shape", shape, least=0, expected="an int or a tuple of ints"),)


def _real(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a real number, got {_kind(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _float_dtype(dtype: DTypeLike) -> Any:
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {kind}")
    return kind


class Key:
    """An immutable, hashable point in the tree of all random streams: a seed and the path folded into it.

    ``Key(seed, *path)`` equals ``Key(seed).fold(*path)``, and ``fold(a, b)`` equals ``fold(a).fold(b)``:
    the path is the identity, whatever the steps it was written in.  Path items are ints (of any size and
    sign) and strings; 1 and "1" differ.

    Raises TypeError for an item that is neither (booleans and floats among them).

    >>> key = Key(0).fold("step", 12).fold("shard", 3)
    >>> key
    Key(0, 'step', 12, 'shard', 3)
    >>> key == Key(0).fold("step", 12, "shard", 3)
    True
    >>> key.generator().integers(10, size=2).tolist() == key.generator().integers(10, size=2).tolist()
    True
    """

    __slots__ = ("_digest", "_path")
    _digest: bytes
    _path: tuple[int | str, ...]

    def __init__(self, seed: int, *path: int | str) -> None:
        start = integer_argument("seed", seed)
        self._grow((), blake2b(person=b"dist_dp.random", digest_size=16).digest(), (start, *path))

    def _grow(self, path: tuple[int | str, ...], digest: bytes, data: tuple[int | str, ...]) -> None:
        grown = []
        for item in data:
            # One item per hash, with its type in front: nothing that follows can be taken for a part of it.
            if isinstance(item, str):
                item = str(item)  # a NumPy string becomes a plain one, for JSON
                framed = b"s" + item.encode("utf-8", "surrogatepass")
            else:
                item = integer_argument("an item folded into a Key", item, expected="an int or a str")
                framed = b"i%d" % item
            digest = blake2b(framed, key=digest, digest_size=16).digest()
            grown.append(item)
        object.__setattr__(self, "_path", (*path, *grown))
        object.__setattr__(self, "_digest", digest)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Key is immutable: cannot set {name!r}; fold() makes another key")

    @property
    def path(self) -> tuple[int | str, ...]:
        """The seed and everything folded into it: plain JSON values, so that ``Key(*key.path) == key``."""
        return self._path

    def fold(self, *data: int | str) -> Key:
        """The key `data` further down the path."""
        key = object.__new__(Key)
        key._grow(self._path, self._digest, data)
        return key

    def generator(self) -> Generator:
        """A new NumPy generator at the start of this key's stream, the same at every call."""
        return Generator(Philox(_PhiloxKey(self._digest)))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return self._path == other._path if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        # From the digest and not from the strings, whose hashes differ between processes.
        return hash(int.from_bytes(self._digest, "little"))

    def __reduce__(self) -> tuple[type[Key], tuple[int | str, ...]]:
        return Key, self._path

    def __repr__(self) -> str:
        return f"Key({', '.join(map(repr, self._path))})"


class _PhiloxKey(ISeedSequence):
    # Philox(key=...) sets the same words, but first gathers entropy from the operating system to throw away,
    # which takes twice the time of everything else.
    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint64) -> NDArray[Any]:
        return self._words


class Stream:
    """A key and the number of times it was used: draw n is made from ``key.fold(n)`` alone.

    So a draw never depends on the size or kind of the draws before it, only on how many there were.
    ``shard.rng`` is a stream, and the current scope holds one.  All draws return arrays (0-d for the
    default shape ``()``) of exactly the dtype asked for; float32 is drawn as float32, not rounded from
    float64.

    Integers folded into a stream's own key belong to its uses: for anything else fold a string first.

    >>> stream = Stream(Key(0))
    >>> stream.normal((2, 3)).dtype, stream.bernoulli(0.5, 4).shape
    (dtype('float32'), (4,))
    >>> stream
    Stream(Key(0), use=2)
    """

    __slots__ = ("key", "use")

    def __init__(self, key: Key, use: int = 0) -> None:
        if not isinstance(key, Key):
            raise TypeError(f"key must be a dist_dp.random.Key, got {_kind(key)}; write Key(seed)")
        self.key = key
        self.use = integer_argument("use", use, least=0)

    def next_key(self) -> Key:
        """``key.fold(use)``; the use is counted."""
        key = self.key.fold(self.use)
        self.use += 1
        return key

    def state(self) -> dict[str, Any]:
        """The stream as plain JSON values, for `from_state`.

        >>> Stream.from_state(Stream(Key(0, "data"), use=7).state())
        Stream(Key(0, 'data'), use=7)
        """
        return {"key": list(self.key.path), "use": self.use}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Stream:
        """The stream that `state` describes; its next draw is the next draw of the stream that was saved."""
        if not isinstance(state, Mapping) or set(state) != {"key", "use"} or not state["key"]:
            raise ValueError(
                f"state must be what Stream.state() returned, with 'key' and 'use', got {state!r}"
            )
        return cls(Key(*state["key"]), state["use"])

    def normal(
        self, shape: Shape = (), dtype: DTypeLike = np.float32, *, mean: float = 0.0, std: float = 1.0
    ) -> NDArray[Any]:
        """Independent draws of N(mean, std²) (ziggurat), float32 or float64.

        Raises ValueError for std < 0, TypeError for another dtype.
        """
        shape, kind = _shape(shape), _float_dtype(dtype)
        mean, std = _real("mean", mean), _real("std", std)
        if std < 0:
            raise ValueError(f"std must not be negative, got {std}")
        out = self.next_key().generator().standard_normal(shape, dtype=kind)
        if std != 1:
            out *= std
        if mean != 0:
            out += mean
        return out

    def uniform(
        self, shape: Shape = (), dtype: DTypeLike = np.float32, *, low: float = 0.0, high: float = 1.0
    ) -> NDArray[Any]:
        """low + (high − low)·u with u uniform on [0, 1) in steps of 2⁻²⁴ (float32) or 2⁻⁵³ (float64).

        The sum is rounded to the dtype, so `high` itself can come out unless low is 0 and high is 1.
        Raises ValueError for low > high, TypeError for another dtype.
        """
        shape, kind = _shape(shape), _float_dtype(dtype)
        low, high = _real("low", low), _real("high", high)
        if low > high:
            raise ValueError(f"low must be at most high, got low={low}, high={high}")
        out = self.next_key().generator().random(shape, dtype=kind)
        if high - low != 1:
            out *= high - low
        if low != 0:
            out += low
        return out

    def integers(self, low: int, high: int, shape: Shape = ()) -> NDArray[np.int64]:
        """Uniform int64 on low, ..., high − 1.  Raises ValueError for low >= high.

        >>> Stream(Key(0)).integers(3, 4, 2)
        array([3, 3])
        """
        low, high, shape = integer_argument("low", low), integer_argument("high", high), _shape(shape)
        if low >= high:
            raise ValueError(f"low must be below high (which is excluded), got low={low}, high={high}")
        return self.next_key().generator().integers(low, high, shape)

    def bernoulli(self, p: float, shape: Shape = ()) -> NDArray[np.bool_]:
        """True with probability p, to within 2⁻³³.  Raises ValueError for p outside [0, 1].

        An element costs one random byte, and three more where that byte leaves the comparison with p open
        (one element in 256).

        >>> Stream(Key(0)).bernoulli(1.0, 3)
        array([ True,  True,  True])
        """
        p, shape = _real("p", p), _shape(shape)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability between 0 and 1, got {p}")
        size = math.prod(shape)
        top, rest = divmod(round(p * 2**32), 2**24)
        generator = self.next_key().generator()
        drawn = generator.bit_generator.random_raw(-(-size // 8)).view(np.uint8)[:size]
        out = np.asarray(drawn < top)
        undecided = np.flatnonzero(drawn == top)
        out[undecided] = generator.integers(0, 2**24, undecided.size, dtype=np.uint32) < rest
        return out.reshape(shape)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A uniform random order of 0, ..., n − 1 (Fisher-Yates), int64.

        `dist_dp.data.Permutation` is the one that needs no memory of size n.
        """
        n = integer_argument("n", n, least=0)
        return self.next_key().generator().permutation(n)

    def choice(
        self, n: int, shape: Shape = (), *, replace: bool = True, p: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Indices drawn from 0, ..., n − 1 with probabilities `p` (n of them; uniform by default), int64.

        Raises ValueError for p of another length, with negative entries or with a sum off 1 by more than
        1e-3 (a float32 softmax is near enough; it is normalised in float64), and for more than n draws
        without replacement.

        >>> Stream(Key(0)).choice(3, 4, p=[0, 0, 1])
        array([2, 2, 2, 2])
        """
        n, shape = integer_argument("n", n, least=1), _shape(shape)
        if not replace and math.prod(shape) > n:
            raise ValueError(
                f"shape {shape} asks for more than the n={n} indices there are; use replace=True"
            )
        weights = None
        if p is not None:
            weights = np.asarray(p, np.float64)
            total = weights.sum()
            if weights.shape != (n,) or not (weights >= 0).all() or not abs(total - 1) <= 1e-3:
                raise ValueError(
                    f"p must be {n} numbers >= 0 with sum 1, got {weights.shape} with sum {total:g}"
                )
            weights = weights / total
        return np.asarray(self.next_key().generator().choice(n, shape, replace=replace, p=weights))

    def __repr__(self) -> str:
        return f"Stream({self.key!r}, use={self.use})"


_default_seed = 0


class _Scopes(threading.local):
    # One stack per thread, so that no thread moves another's counter.  Its bottom is the default scope.
    def __init__(self) -> None:
        self.stack = [Stream(Key(_default_seed))]


scopes = _Scopes()


def seed(n: int) -> None:
    """Start the default scope afresh at ``Key(n)``: what is drawn outside any `scope` in this thread.

    A thread that first draws later begins its own default scope at ``Key(n)`` too; without any call it is
    ``Key(0)``.
    Raises RuntimeError inside a scope, where it would have no effect on what is drawn next.

    >>> seed(0)
    >>> first = normal(3)
    >>> seed(0)
    >>> bool((normal(3) == first).all())
    True
    """
    global _default_seed
    n = integer_argument("n", n)
    if len(scopes.stack) > 1:
        raise RuntimeError(
            f"seed({n}) inside scope({scopes.stack[-1]!r}) would change nothing; call it before"
        )
    _default_seed = n
    scopes.stack[0] = Stream(Key(n))


class scope:
    """Context manager: `key` (or a stream, whose count goes on) is what this thread draws from inside.

    Raises TypeError for anything but a Key or a Stream.

    >>> with scope(Key(0, "step", 12, "shard", 3)) as stream:
    ...     mask = bernoulli(0.9, (2, 2))
    >>> stream.use
    1
    """

    def __init__(self, key: Key | Stream) -> None:
        self._stream = key if isinstance(key, Stream) else Stream(key)

    def __enter__(self) -> Stream:
        # Remembered, because a generator that holds a scope open may be closed from another thread,
        # or after a scope that was entered later.
        self._stack = scopes.stack
        self._stack.append(self._stream)
        return self._stream

    def __exit__(self, *exception: object) -> None:
        last = max(i for i, stream in enumerate(self._stack) if stream is self._stream)
        del self._stack[last]


@contextlib.contextmanager
def separate() -> Iterator[None]:
    """Inside, scopes are entered on a stack of their own, so that they need not end before others outside do."""
    before = scopes.stack
    scopes.stack = list(before)
    try:
        yield
    finally:
        scopes.stack = before


def current() -> Stream:
    """The stream of the innermost `scope` of this thread, or of its default scope."""
    return scopes.stack[-1]


def next_key() -> Key:
    """The next key of the current scope: see `Stream.next_key`."""
    return current().next_key()


def normal(
    shape: Shape = (), dtype: DTypeLike = np.float32, *, mean: float = 0.0, std: float = 1.0
) -> NDArray[Any]:
    """`Stream.normal` of the current scope."""
    return current().normal(shape, dtype, mean=mean, std=std)


def uniform(
    shape: Shape = (), dtype: DTypeLike = np.float32, *, low: float = 0.0, high: float = 1.0
) -> NDArray[Any]:
    """`Stream.uniform` of the current scope."""
    return current().uniform(shape, dtype, low=low, high=high)


def integers(low: int, high: int, shape: Shape = ()) -> NDArray[np.int64]:
    """`Stream.integers` of the current scope."""
    return current().integers(low, high, shape)


def bernoulli(p: float, shape: Shape = ()) -> NDArray[np.bool_]:
    """`Stream.bernoulli` of the current scope."""
    return current().bernoulli(p, shape)


def permutation(n: int) -> NDArray[np.int64]:
    """`Stream.permutation` of the current scope."""
    return current().permutation(n)


def choice(
    n: int, shape: Shape = (), *, replace: bool = True, p: ArrayLike | None = None
) -> NDArray[np.int64]:
    """`Stream.choice` of the current scope."""
    return current().choice(n, shape, replace=replace, p=p)

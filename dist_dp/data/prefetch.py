"""Loading ahead in the background: the next batches are made while the current one is computed with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dist_dp.random import integer_argument

Item = TypeVar("Item")
Made = TypeVar("Made")

_END: Any = object()


def prefetch(fn: Callable[[Item], Made], keys: Iterable[Item], depth: int = 2) -> Generator[Made, None, None]:
    """Yield ``fn(key)`` for each of `keys`, in order, made by a thread that is at most `depth` results ahead.

    What is yielded is what ``map(fn, keys)`` yields, whatever the depth: an exception of `fn` or of `keys`
    comes at its own position with its own traceback.  Closing the generator, or dropping it, ends the
    thread: a call that is running is waited for, those not begun are not made.  With ``depth=0`` there is
    no thread.

    `fn` and `keys` run in the thread, where no `dist_dp.random.scope` of the caller holds: an `fn` that draws
    enters its own scope.

    Raises TypeError or ValueError at the call for an `fn` that cannot be called, `keys` that cannot be
    iterated and a `depth` that is no int or negative.

    >>> list(prefetch(lambda n: n * n, range(4), depth=2))
    [0, 1, 4, 9]
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be iterable, got {type(keys).__name__}")
    depth = integer_argument("depth", depth, least=0)
    return _ahead(fn, keys, depth) if depth else (fn(key) for key in keys)


def _ahead(fn: Callable[[Item], Made], keys: Iterable[Item], depth: int) -> Generator[Made, None, None]:
    remaining = iter(keys)

    def make() -> Made:
        # The key is taken in the thread too: an exception of `keys` then comes after the results before it.
        key: Any = next(remaining, _END)
        return fn(key) if key is not _END else _END

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dist_dp-prefetch")
    try:
        pending: deque[Future[Made]] = deque(pool.submit(make) for _ in range(depth))
        while (made := pending.popleft().result()) is not _END:
            pending.append(pool.submit(make))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)

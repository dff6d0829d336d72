"""The fixed tree: in which order the shards of a batch are added. Pure arithmetic, no arrays, no I/O.

Floating-point addition is not associative, so a sum whose order depends on the number of workers has bits
that depend on it too. Here the order is a function of the number of shards alone: the left-complete binary
tree over the shard indices, whose node over ``[lo, hi)`` with more than one leaf splits after the largest
power of two below ``hi - lo``. A worker folds the shards it owns as far as the tree allows and hands over the
partial sums of the maximal subtrees inside its range; whoever holds all partials folds them to the root.
Every addition of the tree is done exactly once, by somebody, with the same two operands.

Seen from below, this tree is the perfect binary tree over the next power of two, clipped at the number of
shards: its nodes are ``[lo, min(lo + size, shards))`` for a power of two ``size`` that divides ``lo``. The
arithmetic below uses that form.

Sources: C. Stelz, L. Hübner, A. Stamatakis, "Bit-reproducible parallel phylogenetic tree inference",
Bioinformatics 42 (2026), doi:10.1093/bioinformatics/btag044, and the reproducible reduce of the MPI library
KaMPIng fix a tree over element indices in the same spirit, for scalars. The split is the one of Merkle trees
in RFC 6962, section 2.1.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

Span = tuple[int, int]
"""A half-open range ``(lo, hi)`` of shard indices."""


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name} must be an int, got {count!r:.80} ({type(count).__name__})")
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")


def _check_shards(shards: int) -> None:
    _check_count("shards", shards)


def _check_range(lo: int, hi: int, shards: int) -> None:
    _check_shards(shards)
    if not 0 <= lo <= hi <= shards:
        raise ValueError(f"the range [lo, hi) must lie inside [0, {shards}), got [{lo}, {hi})")


def _is_node(span: Span, shards: int) -> bool:
    lo, hi = span
    size = 1 << (hi - lo - 1).bit_length()  # the least power of two that holds the span
    return lo % size == 0 and hi == min(lo + size, shards)


def _are_siblings(left: Span, right: Span, shards: int) -> bool:
    """Whether two neighbouring nodes are the two children of one node; a left child is always perfect."""
    lo, middle = left
    size = middle - lo
    return lo % (2 * size) == 0 and right[1] == min(lo + 2 * size, shards)


def _put(stack: list[tuple[Span, T]], span: Span, value: T, shards: int, add: Callable[[T, T], T]) -> None:
    """Put the next node on the stack of complete subtrees and merge as long as two children meet."""
    while stack and _are_siblings(stack[-1][0], span, shards):
        left_span, left = stack.pop()
        value = add(left, value)
        span = (left_span[0], span[1])
    stack.append((span, value))


def subtrees(lo: int, hi: int, shards: int) -> tuple[Span, ...]:
    """The maximal subtrees of the tree over ``shards`` leaves inside ``[lo, hi)``, from left to right.

    There are at most ``2 * log2(shards)`` of them; an empty range has none.

    Raises
        ValueError: ``shards`` below 1, or a range not inside ``[0, shards)``.

    >>> subtrees(3, 7, 7)
    ((3, 4), (4, 7))
    """
    _check_range(lo, hi, shards)
    found = []
    while lo < hi:
        size = 1
        while lo % (2 * size) == 0 and size < hi - lo and min(lo + 2 * size, shards) <= hi:
            size *= 2
        found.append((lo, min(lo + size, shards)))
        lo += size
    return tuple(found)


def balanced_ranges(shards: int, workers: int) -> tuple[Span, ...]:
    """One contiguous range of shards per worker, in order; their lengths differ by at most one.

    Raises
        ValueError: ``shards`` or ``workers`` below 1.

    >>> balanced_ranges(8, 3)
    ((0, 2), (2, 5), (5, 8))
    """
    _check_shards(shards)
    _check_count("workers", workers)
    return tuple((i * shards // workers, (i + 1) * shards // workers) for i in range(workers))


def most_held(lo: int, hi: int, shards: int) -> int:
    """How many values a `Fold` over ``[lo, hi)`` holds at most, the one being pushed included: buffers to have.

    Raises
        ValueError: ``shards`` below 1, or a range not inside ``[0, shards)``.

    >>> most_held(0, 8, 8), most_held(3, 7, 7), most_held(2, 2, 7)
    (4, 3, 0)
    """
    fold: Fold[None] = Fold(shards, lambda left, right: None, lo, hi)
    most = 0
    for _ in range(lo, hi):
        most = max(most, len(fold._stack) + 1)
        fold.push(None)
    return most


class Fold(Generic[T]):
    """Fold the leaves of ``[lo, hi)`` as they come, in the order of the tree over ``shards`` leaves.

    Two children are added as soon as both are complete, as a binary counter carries, so at most
    ``2 * log2(shards) + 1`` values are held at any time.

    ``add(left, right)`` may work in place and return ``left``: a pushed value belongs to the fold.

    Raises
        ValueError: ``shards`` below 1, or a range not inside ``[0, shards)``.

    >>> fold = Fold(3, lambda left, right: f"({left}+{right})")
    >>> for leaf in "abc":
    ...     fold.push(leaf)
    >>> fold.root
    '((a+b)+c)'
    """

    def __init__(self, shards: int, add: Callable[[T, T], T], lo: int = 0, hi: int | None = None) -> None:
        hi = shards if hi is None else hi
        if not callable(add):
            raise TypeError(f"add must be a function of two values, got {add!r:.80}")
        _check_range(lo, hi, shards)
        self._shards, self._add, self._lo, self._hi = shards, add, lo, hi
        self._next = lo
        self._stack: list[tuple[Span, T]] = []

    def push(self, value: T) -> None:
        """Take the value of the next leaf of the range.

        Raises
            ValueError: every leaf of the range has been pushed.
        """
        if self._next == self._hi:
            raise ValueError(f"the range [{self._lo}, {self._hi}) is complete; it takes no further leaf")
        leaf = (self._next, self._next + 1)
        self._next += 1
        _put(self._stack, leaf, value, self._shards, self._add)

    def merging(self) -> tuple[list[T], Span]:
        """The held values that the next leaf will be added to, in this order, and the span of their sum.

        >>> fold = Fold(4, lambda left, right: f"({left}+{right})")
        >>> for leaf in "abc":
        ...     fold.push(leaf)
        >>> fold.merging()
        (['c', '(a+b)'], (0, 4))
        """
        span, values = (self._next, self._next + 1), []
        for left_span, left in reversed(self._stack):
            if not _are_siblings(left_span, span, self._shards):
                break
            values.append(left)
            span = (left_span[0], span[1])
        return values, span

    def held(self) -> dict[Span, T]:
        """The values held now, by their spans: the partial sums of the leaves pushed so far."""
        return dict(self._stack)

    def partials(self) -> dict[Span, T]:
        """The partial sum of each maximal subtree of the range: the keys are ``subtrees(lo, hi, shards)``.

        Raises
            ValueError: leaves of the range are still missing.
        """
        if self._next < self._hi:
            raise ValueError(
                f"the range [{self._lo}, {self._hi}) misses its leaves from {self._next} on; push them first"
            )
        return self.held()

    @property
    def root(self) -> T:
        """The sum over all shards, for a fold over the whole range.

        Raises
            ValueError: leaves are missing, or the range is not ``[0, shards)``.
        """
        return combine(self.partials(), self._shards, self._add)


def combine(partials: Mapping[Span, T], shards: int, add: Callable[[T, T], T]) -> T:
    """Fold the partial sums of subtrees from all workers to the root of the tree over ``shards`` leaves.

    The spans must be nodes of the tree and cover ``[0, shards)`` without gap or overlap; whose they were, and
    how they were cut, cannot change the result. ``add`` is as in :class:`Fold`.

    Raises
        ValueError: a span that is no node of the tree, a gap, an overlap, or ``shards`` below 1.

    >>> combine({(2, 3): "c", (0, 2): "(a+b)"}, 3, lambda left, right: f"({left}+{right})")
    '((a+b)+c)'
    """
    _check_shards(shards)
    spans = sorted(partials)
    end = 0
    for span in spans:
        lo, hi = span
        if lo < end:
            raise ValueError(f"partials: the spans overlap at shard {lo}")
        if lo > end:
            raise ValueError(f"partials: shards [{end}, {lo}) are missing")
        if hi <= lo or not _is_node(span, shards):
            raise ValueError(f"partials: [{lo}, {hi}) is no subtree of the tree over {shards} shards")
        end = hi
    if end != shards:
        raise ValueError(f"partials: shards [{end}, {shards}) are missing")
    stack: list[tuple[Span, T]] = []
    for span in spans:
        _put(stack, span, partials[span], shards, add)
    ((_, root),) = stack
    return root

"""A keyed order of 0, ..., n − 1 that can be asked for any stretch of positions, without a table of size n.

A shuffled epoch over a billion examples would need 8 GB as a list of indices, in every worker.  Here the
order is a cipher on the numbers below n: a Feistel network on the two digits of x in bases (a, b), a·b ≥ n,
whose round functions are tables of random digits (10·√n of them for the whole order), walked until the
result is below n.

Luby, Rackoff, "How to construct pseudorandom permutations from pseudorandom functions" (SIAM J. Comput.,
1988): why rounds of random functions make a random permutation.  Black, Rogaway, "Ciphers with arbitrary
finite domains" (CT-RSA 2002): cycle walking (their method 2) and digits of unequal bases (their method 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dist_dp.data.indices import index_array
from dist_dp.random import Key, integer_argument

# Up to here the order is a table after all: half a megabyte at most, exactly uniform, and one look-up.
_TABLE = 1 << 16
# As many as the standard cipher of this form has, FF1 of NIST SP 800-38G.
_ROUNDS = 10


class Permutation:
    """The order of n examples under `key`: ``p[i]`` is the example at position i; ``p.inverse(p[i]) == i``.

    Equal (n, key) give equal orders.  Up to n = 65536 every order is equally likely; above, the order is
    pseudorandom and takes O(√n) memory, 2.5 MB for n = 10⁹.

    Raises TypeError for an n that is no int or a key that is no Key, ValueError for n < 0.

    >>> order = Permutation(10, Key(0, "order", 3))
    >>> sorted(order[np.arange(10)].tolist()) == list(range(10))
    True
    >>> order.inverse(order[7])
    7
    >>> billion = Permutation(10**9, Key(0))
    >>> billion.inverse(billion[[5, 999_999_999]])
    array([        5, 999999999])
    """

    def __init__(self, n: int, key: Key) -> None:
        self._n = integer_argument("n", n, least=0)
        if not isinstance(key, Key):
            raise TypeError(f"key must be a dist_dp.random.Key, got {type(key).__name__}; write Key(seed)")
        self._key = key
        generator = key.generator()
        self._table = generator.permutation(self._n) if self._n <= _TABLE else None
        if self._table is None:
            a = math.isqrt(self._n - 1) + 1
            b = -(-self._n // a)
            self._bases = a, b
            # Even rounds change the first digit (below a) by the second, odd rounds the second by the first.
            sizes = [(a, b), (b, a)] * (_ROUNDS // 2)
            self._rounds = [
                (i % 2, generator.integers(0, high, size)) for i, (high, size) in enumerate(sizes)
            ]

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, position: int) -> int: ...
    @overload
    def __getitem__(self, position: NDArray[Any] | Sequence[int]) -> NDArray[np.int64]: ...
    def __getitem__(self, position: Any) -> Any:
        """The example at `position`, or an int64 array of them for an array of positions of any shape.

        Raises IndexError outside 0, ..., n − 1, TypeError for what is no int.
        """
        index = index_array("position", position, self._n)
        found = self._walk(index, 1) if self._table is None else self._table[index]
        return found if index.ndim else int(found)

    @overload
    def inverse(self, example: int) -> int: ...
    @overload
    def inverse(self, example: NDArray[Any] | Sequence[int]) -> NDArray[np.int64]: ...
    def inverse(self, example: Any) -> Any:
        """The position of `example`, or of each of an array of them; raises as indexing does."""
        index = index_array("example", example, self._n)
        found = self._walk(index, -1) if self._table is None else np.argsort(self._table)[index]
        return found if index.ndim else int(found)

    def _walk(self, index: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
        # The cipher permutes a·b cells; following its cycle until it is back below n permutes those below n.
        # At most about √n cells lie above, so a second turn is rare.
        x = self._cipher(index.reshape(-1), sign)
        while (outside := np.flatnonzero(x >= self._n)).size:
            x[outside] = self._cipher(x[outside], sign)
        return x.reshape(index.shape)

    def _cipher(self, x: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
        digits: list[NDArray[np.int64]] = list(np.divmod(x, self._bases[1]))
        for changed, table in self._rounds[::sign]:
            digits[changed] = (digits[changed] + sign * table[digits[1 - changed]]) % self._bases[changed]
        return digits[0] * self._bases[1] + digits[1]

    def __repr__(self) -> str:
        return f"Permutation({self._n}, {self._key!r})"

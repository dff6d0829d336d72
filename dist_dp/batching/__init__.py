"""Computing many examples at once: vmap, for functions written for one example, and cells, for dynamic programs."""

from .batched import batched, explain_batching
from .cell import cell
from .ragged import Ragged
from .vectorize import Batched, fallbacks, vmap

__all__ = ["Batched", "Ragged", "batched", "cell", "explain_batching", "fallbacks", "vmap"]

"""Computing many examples at once: vmap, for functions written for one example, and cells, for dynamic programs."""

from .batched import batched, explain_batching
from .cell import cell
from .vectorize import Batched, fallbacks, vmap

__all__ = ["Batched", "batched", "cell", "explain_batching", "fallbacks", "vmap"]

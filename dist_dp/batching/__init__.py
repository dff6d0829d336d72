"""Computing many examples at once: vmap, for functions written for one example."""

from .vectorize import Batched, fallbacks, vmap

__all__ = ["Batched", "fallbacks", "vmap"]

"""Where the time goes: `dp.profile`."""

from .profiler import profile
from .profiles import Profile

__all__ = ["Profile", "profile"]

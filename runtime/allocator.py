"""Memory that is freed stays with the process, for the next array.

A training step makes and frees the same arrays over and over. glibc takes large ones from the system and gives them
back when they are freed, so that each new one costs a page fault for every 4 KiB: a quarter of the time of a LeNet
step, where the arrays are larger than the caches and smaller than the thresholds below.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = (
    1 << 29
)  # bytes: larger arrays are mapped by themselves, and at most this much free memory is kept on top


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory; True where it does.

    Only glibc can be asked; elsewhere (macOS, musl) nothing changes. `DIST_DP_MALLOC=system` leaves the allocator
    alone, and so do glibc's own settings (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`),
    which stand.

    >>> keep_freed_memory() in (True, False)
    True
    """
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if os.environ.get("DIST_DP_MALLOC") == "system" or any(name in os.environ for name in own):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    answers = [mallopt(option, _KEPT) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)]
    return answers == [1, 1]

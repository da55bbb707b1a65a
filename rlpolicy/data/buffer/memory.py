"""Memory for columns, taken as they are written."""

import contextlib
import math
import mmap
from typing import Any

import numpy as np

MAPPED = 128 << 10
"""Arrays from so many bytes on are mapped."""
HUGE = 16 << 20
"""From this byte on, an array takes memory in pages of 2 MiB, if the system has such."""


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any], scattered: bool = False) -> np.ndarray:
    """Zeros. A page of 4 KiB takes memory when something is first written to it.

    numpy's large arrays may be used memory that had to be cleared, so that all of it is taken at once, or come in pages
    of 2 MiB. These make gathers from a full buffer a quarter faster, so here they begin where an array is large.

    :param scattered: rows far from each other are written first, each of which would take a huge page: no such pages.
    """
    count = math.prod(shape) * dtype.itemsize
    if count < MAPPED or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if not scattered and count > HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE, HUGE)
    return np.ndarray(shape, dtype, memory)

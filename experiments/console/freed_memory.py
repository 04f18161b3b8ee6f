"""What the C library does with memory that has been freed."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST_KEPT = (256 * 2**20, 32 * 2**20)  # older versions of glibc refuse more than 32 MiB
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed memory for the process's next tensors; False where it was not asked to.

    A training step frees what it has computed, and the next step wants as much again. By default glibc gives such
    memory back to the system, which hands it out anew page by page, each filled with zeros: 14,000 pages in a step of
    the quickstart's decoder, a tenth of its time. Blocks of 256 MiB and more still go back. A process then keeps its
    largest size, until it ends.

    Nothing is changed where the environment has settings of malloc, nor under another C library (macOS, Windows, musl).
    """
    if any(name in os.environ for name in _OWN_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    mapped = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and mapped

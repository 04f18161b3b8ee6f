"""What the C library does with memory that has been freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST_KEPT = 256 * 2**20


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed memory for the process's next tensors, and say whether it will.

    A training step frees what it has computed, and the next step wants as much again. By default glibc gives such
    memory back to the system, which hands it out anew page by page, each filled with zeros: 14,000 pages in a step of
    the quickstart's decoder, a tenth of its time. Blocks of 256 MiB and more still go back. Other C libraries (macOS,
    Windows, musl) are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))

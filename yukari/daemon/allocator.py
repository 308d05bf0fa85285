"""
The freed memory that the C library keeps instead of giving it back to the system.

What arrives from upstream is read in pieces of up to a megabyte that are freed once they are on the
disk. As it comes, glibc gives that memory back to the system each time, which then hands it out
anew, one zeroed page after the other: that takes as much of the CPU as receiving the bytes.
"""

from __future__ import annotations

import ctypes

KEPT = 32 * 1024 * 1024
"""Bytes of freed memory that are kept: as many as may wait to be written."""
LARGE = 2 * 1024 * 1024
"""
Bytes from which on a block is the system's own, and given back when it is freed: more than is read
at once, and less than the largest manifests.
"""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""The numbers of glibc's ``malloc.h``."""


def keep_freed() -> bool:
    """Have `KEPT` bytes kept, and return whether this C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    # In this order: with the second alone each piece would be the system's own.
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE) and mallopt(_M_TRIM_THRESHOLD, KEPT))

"""
The freed memory that the C library keeps instead of giving it back to the system.

What arrives from upstream is read in pieces of up to a megabyte that are freed once they are on the
disk. As it comes, glibc gives that memory back to the system each time, which then hands it out
anew, one zeroed page after the other: that takes as much of the CPU as receiving the bytes.

And each thread has an arena of its own, which keeps what it has freed from the others. Threads that
hold the interpreter's lock take turns anyhow, so they share one: of thirty manifests of 12,000
layers, each parsed and written by some disk thread, 30 MB less are left behind.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Optional

from attrs import define, field

KEPT = 32 * 1024 * 1024
"""Bytes of freed memory that are kept: as many as may wait to be written."""
LARGE = 2 * 1024 * 1024
"""
Bytes from which on a block is the system's own, and given back when it is freed: more than is read
at once, and less than the largest manifests.
"""
GIVEN_BACK_EVERY = 1.0
"""Seconds; pages that are taken back meanwhile cost little beside what is parsed in that time."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""The numbers of glibc's ``malloc.h``."""


def keep_freed() -> bool:
    """Have `KEPT` bytes kept, in one arena, and return whether this C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    # In this order: with the last one alone each piece would be the system's own.
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, KEPT))
    return all(mallopt(*each) for each in wanted)


@define(eq=False)
class GiveBack:
    """Gives all freed memory back to the system, at most once in `GIVEN_BACK_EVERY`."""

    _trim: Optional[Callable[[int], object]] = field(
        factory=lambda: getattr(ctypes.CDLL(None), "malloc_trim", None), init=False
    )
    _at: float = field(default=-inf, init=False)

    def __call__(self) -> None:
        """Do it if it is due; some milliseconds, for any thread."""
        now = monotonic()
        if self._trim is not None and now - self._at >= GIVEN_BACK_EVERY:
            self._at = now
            self._trim(0)

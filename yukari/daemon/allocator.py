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
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from yukari.tasks import surviving
from yukari.threads import InThread

KEPT = 32 * 1024 * 1024
"""Bytes of freed memory that are kept: as many as may wait to be written."""
LARGE = 2 * 1024 * 1024
"""
Bytes from which on a block is the system's own, and given back when it is freed: more than is read
at once, and less than the largest manifests.
"""
GIVEN_BACK_EVERY = 0.25
"""Seconds; pages that are taken back meanwhile cost little beside what is parsed in that time."""

MUCH = 24 * 1024 * 1024
"""Bytes of freed memory from which on it is given back to the system."""
LOOKED_EVERY = 5.0
"""Seconds between two checks of how much freed memory there is."""

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


_FREE = 8
"""The place of ``fordblks``, the bytes that are free, among the numbers of ``mallinfo2``."""


class _Told(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = [("numbers", ctypes.c_size_t * 10)]


@define(eq=False, repr=False)
class GiveBack:
    """Gives all freed memory back to the system, at most once in `GIVEN_BACK_EVERY`."""

    _trim: Optional[Callable[[int], object]] = field(
        factory=lambda: getattr(ctypes.CDLL(None), "malloc_trim", None), init=False
    )
    _tell: Any = field(factory=lambda: getattr(ctypes.CDLL(None), "mallinfo2", None), init=False)
    _at: float = field(default=-inf, init=False)
    _loop: Optional[LoopingCall] = field(default=None, init=False)

    def __call__(self) -> None:
        """Do it if it is due; some milliseconds, for any thread."""
        now = monotonic()
        if self._trim is not None and now - self._at >= GIVEN_BACK_EVERY:
            self._at = now
            self._trim(0)

    def start(self, clock: IReactorTime, in_thread: InThread) -> None:
        """Do it from now on whenever much is free, as after a crowd."""
        if self._tell is not None:
            self._tell.restype = _Told
            self._loop = LoopingCall(
                surviving(lambda: in_thread(self._if_much_is_free), "giving memory back")
            )
            self._loop.clock = clock
            self._loop.start(LOOKED_EVERY, now=False)

    def stop(self) -> None:
        """Look no more; harmless if it never did."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    def _if_much_is_free(self) -> None:
        if self._tell().numbers[_FREE] > MUCH:
            self()

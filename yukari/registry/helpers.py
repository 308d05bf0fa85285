"""
Threads that put a file's bytes on sockets beside the reactor's.

Where several readers take all that they are given they wait for the core that
the reactor's thread has; ``sendfile`` needs nothing of Python, so that other
threads can do it meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Optional

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed

from yukari.registry.readers import InThread
from yukari.registry.transports import put

MOST = 4
"""Threads at most; as many as there are cores, where there is more than one."""
A_PIECE = 4 * 1024 * 1024
"""Bytes that a helper is asked to send at least: to hand it a piece and back costs some 0.1 ms."""

Piece = tuple[int, int, int, int]
"""The arguments of a ``sendfile``: the socket, the file, where the piece begins, its bytes."""


def helpful() -> int:
    """How many threads can help on this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return min(MOST, cores) if cores > 1 else 0


def _put_and_close(out: int, source: int, start: int, count: int) -> int:
    try:
        return put(out, source, start, count)
    finally:
        os.close(out)
        os.close(source)


@define(eq=False)
class Helpers:
    """Up to ``most`` threads of ``in_thread`` at once; whoever asks first is helped first."""

    _in_thread: InThread
    most: int
    _free: DeferredSemaphore = field(
        init=False, default=Factory(lambda self: DeferredSemaphore(max(1, self.most)), True)
    )

    def send(self, piece: Callable[[], Optional[Piece]]) -> Deferred[int]:
        """
        Send what ``piece()`` says when a thread is free for it; None for nothing any more.

        As `transports.put`. Its descriptors may be closed before the answer is
        there: the thread has its own, and where there are none left 0 bytes are sent.
        """
        return self._free.run(self._send, piece)

    def _send(self, piece: Callable[[], Optional[Piece]]) -> Deferred[int]:
        found = piece()
        if found is None:
            return succeed(0)
        try:
            out = os.dup(found[0])
        except OSError:
            return succeed(0)
        try:
            source = os.dup(found[1])
        except OSError:
            os.close(out)
            return succeed(0)
        return self._in_thread(_put_and_close, out, source, *found[2:])

"""
Helper threads that send files beside the reactor's thread.

Several readers that take everything they are given would wait for the core that the reactor's
thread has. ``sendfile`` needs nothing from Python, so other threads can do it meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Optional, Union

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from yukari.sending.stall import InThread
from yukari.sending.transports import put

MOST = 4
"""Threads at most; otherwise as many as there are cores, if there is more than one."""
A_PIECE = 4 * 1024 * 1024
"""Bytes that a helper is asked to send at least: handing over a piece costs some 0.1 ms."""

Piece = tuple[int, int, int, int]
"""The arguments of a ``sendfile``: the socket, the file, the start and the count of bytes."""


def helpful() -> int:
    """Return how many threads can help on this machine."""
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
    """Up to ``most`` threads of ``in_thread`` at a time, first come, first served."""

    _in_thread: InThread
    most: int
    _free: int = field(init=False, default=Factory(lambda self: self.most, True))
    _queue: deque[tuple[Callable[[], Optional[Piece]], Deferred[int]]] = field(
        init=False, factory=deque
    )

    def send(self, piece: Callable[[], Optional[Piece]]) -> Deferred[int]:
        """
        Send ``piece()`` when a thread is free; it returns None if it is not wanted any more.

        Results are those of `transports.put`. The piece's descriptors may be closed before the
        answer arrives: the thread has copies, and if there are no descriptors left, 0 bytes are
        sent.
        """
        asked: Deferred[int] = Deferred()
        self._queue.append((piece, asked))
        self._help()
        return asked

    def _help(self) -> None:
        """A loop, unlike in `DeferredSemaphore`: all of thousands that wait may have left."""
        while self._queue and self._free:
            piece, asked = self._queue.popleft()
            found = piece()
            own = None if found is None else _own(found)
            if own is None:
                asked.callback(0)
                continue
            self._free -= 1
            self._in_thread(_put_and_close, *own).addBoth(self._helped, asked)

    def _helped(self, result: Union[int, Failure], asked: Deferred[int]) -> None:
        self._free += 1
        asked.callback(result)
        self._help()


def _own(piece: Piece) -> Optional[Piece]:
    """Return the piece with copies of its descriptors, None if there are no descriptors left."""
    out, source, start, count = piece
    try:
        out = os.dup(out)
    except OSError:
        return None
    try:
        return out, os.dup(source), start, count
    except OSError:
        os.close(out)
        return None

"""
Threads that put a file's bytes on sockets beside the reactor's.

Where several readers take all that they are given they wait for the core that
the reactor's thread has; ``sendfile`` needs nothing of Python, so that other
threads can do it meanwhile.
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
    _free: int = field(init=False, default=Factory(lambda self: self.most, True))
    _queue: deque[tuple[Callable[[], Optional[Piece]], Deferred[int]]] = field(
        init=False, factory=deque
    )

    def send(self, piece: Callable[[], Optional[Piece]]) -> Deferred[int]:
        """
        Send what ``piece()`` says when a thread is free for it; None for nothing any more.

        As `transports.put`. Its descriptors may be closed before the answer is
        there: the thread has its own, and where there are none left 0 bytes are sent.
        """
        asked: Deferred[int] = Deferred()
        self._queue.append((piece, asked))
        self._help()
        return asked

    def _help(self) -> None:
        """A loop, as no `DeferredSemaphore` has it: of thousands that wait, all may have left."""
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
    """The piece with descriptors of its own, None where there are none left."""
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

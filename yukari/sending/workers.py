"""
Helper threads that send files beside the reactor's thread.

Several readers that take everything they are given would wait for the core that the reactor's
thread has. ``sendfile`` and encryption need nothing from Python, so other threads can do them
meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Optional

from attrs import Factory, define, field
from twisted.internet.defer import Deferred

from yukari.sending.stall import InThread
from yukari.sending.transports import put

MAX_WORKERS = 4
"""Threads at most; otherwise as many as there are cores."""
A_PIECE = 4 * 1024 * 1024
"""Bytes that a helper is asked to send at least: handing over a piece costs some 0.1 ms."""

Piece = tuple[int, int, int, int]
"""The arguments of a ``sendfile``: the socket, the file, the start and the count of bytes."""
Put = Callable[..., Any]
"""Sends a `Piece`, which are its first arguments."""


def helpful() -> int:
    """Return how many threads can help on this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return min(MAX_WORKERS, cores)


@define(eq=False, repr=False)
class Helpers:
    """Up to ``most`` threads of ``in_thread`` at a time, first come, first served."""

    _in_thread: InThread
    most: int
    _free: int = field(init=False, default=Factory(lambda self: self.most, True))
    _queue: deque[tuple[Callable[[], Optional[Piece]], Put, tuple[Any, ...], Deferred[Any]]] = (
        field(init=False, factory=deque)
    )

    @property
    def pay(self) -> bool:
        """Whether a helper has a core that the reactor's thread does not need."""
        return self.most > 1

    @property
    def waiting(self) -> int:
        """How many pieces wait for a thread."""
        return len(self._queue)

    def send(
        self, piece: Callable[[], Optional[Piece]], put: Put = put, *more: Any
    ) -> Deferred[Any]:
        """
        Call ``put(*piece(), *more)`` in the next free thread, unless ``piece`` returns None.

        Fires with what ``put`` returns. The piece's descriptors may be closed before the answer
        arrives: the thread has copies. Fires with None if nothing was called, because
        there are no descriptors left or nothing is wanted any more.
        """
        asked: Deferred[Any] = Deferred()
        self._queue.append((piece, put, more, asked))
        self._help()
        return asked

    def _help(self) -> None:
        """A loop, unlike in `DeferredSemaphore`: all of thousands that wait may have left."""
        while self._queue and self._free:
            piece, put, more, asked = self._queue.popleft()
            found = piece()
            own = None if found is None else _own(found)
            if own is None:
                asked.callback(None)
                continue
            self._free -= 1
            self._in_thread(put, *own, *more).addBoth(self._helped, own, asked)

    def _helped(self, result: Any, own: Piece, asked: Deferred[Any]) -> None:
        self._free += 1
        for descriptor in own[:2]:
            os.close(descriptor)
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

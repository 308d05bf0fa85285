"""
Bodies of requests: one that is read while it arrives (``PUT /store/archive``), and one that nobody
reads.

A thread reads the former as a file; the client is read no faster than the thread takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorFromThreads

MAX_WAITING = 4 * 1024 * 1024
"""Bytes that wait for the thread before the client has to."""


@define(eq=False, repr=False)
class Upload:
    """The body, written in the reactor's thread and read in another."""

    _reactor: IReactorFromThreads
    _hold: Callable[[bool], None]
    """Stops reading the client, or goes on."""
    _waiting: deque[bytes] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    _changed: Condition = field(factory=Condition, init=False)
    _paused: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _broken: bool = field(default=False, init=False)
    _unwanted: bool = field(default=False, init=False)
    _rest: bytes = field(default=b"", init=False)

    # in the reactor's thread

    def write(self, data: bytes) -> int:
        """Take a piece that has arrived."""
        with self._changed:
            if not self._unwanted:
                self._waiting.append(data)
                self._size += len(data)
            self._changed.notify_all()
            if self._size > MAX_WAITING and not self._paused:
                self._paused = True
                self._hold(True)
        return len(data)

    def finish(self, broken: bool = False) -> None:
        """Note that the upload has ended, or that the client has left."""
        with self._changed:
            self._ended = True
            self._broken = self._broken or broken
            self._changed.notify_all()

    def seek(self, *_: Any) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        self.finish(broken=not self._ended)

    def _resume(self) -> None:
        with self._changed:
            resume, self._paused = self._paused, False
        if resume:
            self._hold(False)

    # in the thread that reads it

    def read(self, count: int = -1) -> bytes:
        """
        Return up to ``count`` bytes, all that have arrived if it is below 0, none at the end.

        Blocks until there are some. OSError if the client left before the end.
        """
        if not self._rest:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._waiting:
                    self._rest = b"".join(self._waiting)
                    self._waiting.clear()
                    self._size = 0
                elif self._broken:
                    raise OSError("the client has left")
            self._reactor.callFromThread(self._resume)
        count = len(self._rest) if count < 0 else count
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    def discard(self) -> None:
        """Throw away what has arrived, and the rest as it arrives."""
        with self._changed:
            self._unwanted = True
            self._waiting.clear()
            self._size = 0
        self._reactor.callFromThread(self._resume)


class _Nowhere:
    """Takes a request's body and keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)

    def seek(self, *_: Any) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def read(self, *_: Any) -> bytes:
        return b""

    def close(self) -> None:
        pass


NOWHERE = _Nowhere()
"""Takes the bodies that nobody reads: one is enough for all, as it has no state."""

"""
A log stream into a pipe, a socket or a terminal that never waits for its reader.

Lines for which there is no room are kept in memory, and a thread writes them once there is room.
Lines beyond `KEPT` are dropped; how many is logged after those that were kept.
"""

from __future__ import annotations

import atexit
import os
import select
import stat
from collections import deque
from contextlib import suppress
from threading import RLock, Thread
from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

KEPT = 1024 * 1024
"""Bytes that are kept for a reader that has stopped, at most."""
LOOK_EVERY = 1000
"""Milliseconds for which the thread waits at a time for a reader that has stopped."""
ENDS_WITHIN = 1.0
"""Seconds for which a process that ends waits until the lines that are kept are written."""


def may_block(number: int) -> bool:
    """Whether writing to a descriptor may wait for a reader; to a file on a disk it never does."""
    kind = os.fstat(number).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)


@define(eq=False, repr=False)
class Unhurried:
    """
    A `Stream` to the descriptor ``number``, which others may use too: its flags stay as they are.
    """

    number: int
    encoding: str = "utf-8"
    _left: deque[bytes] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    """Bytes in ``_left``."""
    _lost: int = field(default=0, init=False)
    """Lines dropped since their number was last logged."""
    _writer: Optional[Thread] = field(default=None, init=False)
    """The thread that writes ``_left``, until that is empty."""
    # Reentrant: a finalizer may log a line while the same thread logs another.
    _lock: Any = field(factory=RLock, init=False)
    _room: Any = field(factory=select.poll, init=False)
    """Polled by one thread at a time: the writer or, while there is none, the lock's holder."""

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._room.register(self.number, select.POLLOUT)
        atexit.register(self._end)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.number)

    def write(self, text: str) -> None:
        """Write a line, or keep it, or drop it; OSError if nobody can read it any more."""
        data = text.encode(self.encoding, "backslashreplace")
        with self._lock:
            if self._writer is None:
                data = self._written(data)
                if not data:
                    return
                self._writer = Thread(target=self._write_left, name="log", daemon=True)
                self._writer.start()
            elif self._size + len(data) > KEPT:
                self._lost += 1
                return
            self._left.append(data)
            self._size += len(data)

    def flush(self) -> None:
        """Do nothing: lines that are kept are written as soon as there is room."""

    def _written(self, data: bytes, wait: int = 0) -> bytes:
        """Write what there is room for within ``wait`` milliseconds; return the rest. OSError."""
        while data and self._room.poll(wait):
            try:
                # A pipe with any room takes this much without blocking.
                data = data[os.write(self.number, data[: select.PIPE_BUF]) :]
            except BlockingIOError:
                break
        return data

    def _write_left(self) -> None:
        """In a thread of its own: write until nothing is left."""
        while True:
            with self._lock:
                data = self._left[0] if self._left else b""
                lost = 0 if data else self._lost
                self._lost -= lost
                if not data and not lost:
                    self._writer = None
                    return
            if lost:
                self._log.error(
                    "{count} lines of the log were dropped: it was full, and nobody read it",
                    count=lost,
                )
                continue
            try:
                rest = self._written(data, LOOK_EVERY)
            except OSError:
                rest = b""  # Nobody will read it.
            with self._lock:
                self._size -= len(data) - len(rest)
                if rest:
                    self._left[0] = rest
                else:
                    self._left.popleft()

    def _end(self) -> None:
        writer = self._writer
        if writer is not None:
            with suppress(RuntimeError):
                writer.join(ENDS_WITHIN)

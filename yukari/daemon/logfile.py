"""
The log file of ``--logfile``: appended to, rotated within a bound, and never lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Lock
from typing import Optional

from attrs import define, field

from yukari.daemon.unhurried import Unhurried, may_block

ROTATE_AT = 10_000_000
"""Bytes at which the file is rotated."""
KEPT = 5
"""Rotated files that are kept: NAME.1, the newest, to NAME.5."""
RETRY_EVERY = 1.0
"""Seconds between two attempts to open a file that could not be opened."""


@define(eq=False, repr=False)
class LogFile:
    """
    A file that is appended to, so that truncating it (copytruncate) leaves no hole.

    `reopen` follows a file that was moved away. If that fails, logging continues to the old file,
    and it is tried again. `OSError` if the file cannot be opened at first.
    """

    path: str
    _rotate_at: int = ROTATE_AT
    _kept: int = KEPT
    _clock: Callable[[], float] = time.monotonic
    _descriptor: int = field(init=False)
    _size: int = field(default=0, init=False)
    _retry_at: Optional[float] = field(default=None, init=False)
    _unhurried: Optional[Unhurried] = field(default=None, init=False)
    """Writes to the log if that is no file on a disk but a FIFO, say, or ``/dev/stdout``."""
    _lock: Lock = field(factory=Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self.path = os.path.abspath(self.path)  # a daemon changes its directory
        self._take(self._open())

    def _open(self) -> int:
        # Not to wait for somebody who reads a FIFO.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o666)
        os.set_blocking(descriptor, True)
        return descriptor

    def _take(self, descriptor: int) -> None:
        self._descriptor, self._size = descriptor, os.fstat(descriptor).st_size
        self._unhurried = Unhurried(descriptor) if may_block(descriptor) else None

    def write(self, text: str) -> None:
        """Append a line; `OSError` if it cannot be written."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._retry_at is not None and self._clock() >= self._retry_at:
                self._reopen()
            if self._unhurried is not None:
                self._unhurried.write(text)
                return
            if self._size + len(data) > self._rotate_at:
                self._size = os.fstat(self._descriptor).st_size  # it may have been truncated
                if self._size + len(data) > self._rotate_at and self._size:
                    self._rotate()
            while data:
                written = os.write(self._descriptor, data)
                self._size += written
                data = data[written:]

    def flush(self) -> None:
        """Do nothing: no line is held back."""

    def reopen(self) -> None:
        """Open the file that has the name now, after rotation."""
        with self._lock:
            self._reopen()

    def rotate(self) -> None:
        """Rename it to NAME.1, that to NAME.2 and so on, and begin a new one."""
        with self._lock:
            self._rotate()

    def _reopen(self) -> None:
        try:
            descriptor = self._open()
        except OSError:
            self._retry_at = self._clock() + RETRY_EVERY
            return
        self._retry_at = None
        if os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor)):
            os.close(descriptor)
            return
        if self._unhurried is None:  # Otherwise its thread may still write to it.
            os.close(self._descriptor)
        self._take(descriptor)

    def _rotate(self) -> None:
        if self._retry_at is not None:
            return  # the file of this name is not the one that is written
        if self.path.startswith("/dev/") or (
            os.path.exists(self.path) and not os.path.isfile(self.path)
        ):
            self._size = 0
            return  # a FIFO, or where somebody has redirected stdout to
        try:
            for number in range(self._kept, 0, -1):
                older = self.path if number == 1 else f"{self.path}.{number - 1}"
                if os.path.exists(older):
                    os.replace(older, f"{self.path}.{number}")
        except OSError:
            self._size = 0  # tried again when as much has been written once more
            return
        self._reopen()

"""A file that several threads and requests read at once, and a blob that is in one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Optional

from attrs import define, field


@define(eq=False, repr=False)
class Share:
    """
    An open descriptor's number, and one of those who hold it.

    The last of them to close it, or to end a `used` block, closes the
    descriptor: nobody finds another file under its number.
    """

    _held: _Held
    closed: bool = field(default=False, init=False)

    @classmethod
    def of(cls, number: int) -> Share:
        """Return the first holder of the open descriptor ``number``."""
        return cls(_Held(number, 1))

    def share(self) -> Share:
        """Return another holder of the descriptor; ValueError once this one is closed."""
        self._take()
        return Share(self._held)

    def fileno(self) -> Optional[int]:
        """The descriptor's number, None once it is closed."""
        return None if self.closed else self._held.number

    @contextmanager
    def used(self) -> Iterator[int]:
        """The number, which stays open until the block ends; ValueError once it is closed."""
        self._take()
        try:
            yield self._held.number
        finally:
            self._held.drop()

    def close(self) -> None:
        """Close this holder; harmless when repeated."""
        with self._held.lock:
            if self.closed:
                return
            self.closed = True
        self._held.drop()

    def _take(self) -> None:
        with self._held.lock:
            if self.closed:
                raise ValueError("this file is closed")
            self._held.holders += 1


@define(eq=False, repr=False)
class _Held:
    number: int
    holders: int
    lock: Lock = field(factory=Lock, init=False)

    def drop(self) -> None:
        with self.lock:
            self.holders -= 1
            last = not self.holders
        if last:
            os.close(self.number)


@define(eq=False, repr=False)
class FileBlob:
    """`BlobFile` in a file; reads may go on in any number of threads."""

    size: int
    _file: Share

    @classmethod
    def at(cls, path: str) -> FileBlob:
        """Raise OSError unless ``path`` is a regular file that can be read."""
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
        except OSError:
            os.close(number)
            raise
        return cls(found.st_size, Share.of(number))

    def fileno(self) -> Optional[int]:
        return self._file.fileno()

    def read(self, offset: int, count: int) -> bytes:
        with self._file.used() as number:
            first = os.pread(number, count, offset)
            if not first or len(first) == count:
                return first
            pieces, got = [first], len(first)
            while got < count and (piece := os.pread(number, count - got, offset + got)):
                pieces.append(piece)
                got += len(piece)
            return b"".join(pieces)

    def share(self) -> FileBlob:
        return FileBlob(self.size, self._file.share())

    def close(self) -> None:
        self._file.close()

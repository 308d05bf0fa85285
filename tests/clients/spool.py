"""The files in which a client keeps the blobs that it verifies."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

MIB = 1 << 20


class Spool:
    """The blobs of a pull in one unlinked temporary file, written and hashed by threads."""

    def __init__(self, reactor: Any, directory: str | None = None) -> None:
        self.reactor = reactor
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._places: dict[str, int] = {}
        self._end = 0
        self.threads = ThreadPool(0, 4, "spool")
        self.threads.start()

    def close(self) -> None:
        self.threads.stop()
        self._file.close()

    def place(self, digest: str, size: int) -> None:
        """Make room for a blob."""
        if digest not in self._places:
            self._places[digest] = self._end
            self._end += size

    def sink(self, digest: str, start: int) -> Writing:
        """Write a part of the blob from ``start`` on."""
        return Writing(self, self._file.fileno(), self._places[digest] + start)

    def read(self, digest: str, size: int) -> bytes:
        """All of a small blob that has been written."""
        return os.pread(self._file.fileno(), size, self._places[digest])

    def verify(self, digest: str, size: int) -> Deferred[bool]:
        """Whether the bytes have that digest."""
        return deferToThreadPool(
            self.reactor, self.threads, self._matches, digest, self._places[digest], size
        )

    def _matches(self, digest: str, offset: int, size: int) -> bool:
        seen = hashlib.sha256()
        for start in range(offset, offset + size, MIB):
            seen.update(os.pread(self._file.fileno(), min(MIB, offset + size - start), start))
        return digest == f"sha256:{seen.hexdigest()}"


class Writing:
    """A sink that hands about a MiB at a time to a thread, at most two of them at once."""

    def __init__(self, spool: Spool, descriptor: int, offset: int) -> None:
        self._spool = spool
        self._descriptor = descriptor
        self._offset = offset
        self._held: list[bytes] = []
        self._size = 0
        self._in_flight = 0
        self._room: Deferred[None] | None = None
        self._error: Failure | None = None

    def __call__(self, data: bytes) -> Deferred[None] | None:
        self._held.append(data)
        self._size += len(data)
        if self._size >= MIB:
            self._write()
            if self._in_flight >= 2:
                self._room = Deferred()
                return self._room
        return None

    async def flush(self) -> None:
        """Returns when all of it is written."""
        if self._held:
            self._write()
        while self._in_flight:
            self._room = Deferred()
            await self._room
        if self._error is not None:
            self._error.raiseException()

    def _write(self) -> None:
        held, size, offset = self._held, self._size, self._offset
        self._held, self._size, self._offset = [], 0, offset + size
        self._in_flight += 1
        written = deferToThreadPool(
            self._spool.reactor,
            self._spool.threads,
            _write_at,
            self._descriptor,
            held,
            offset,
        )
        written.addErrback(self._failed)
        written.addCallback(self._wrote)

    def _failed(self, error: Failure) -> None:
        self._error = error

    def _wrote(self, _: None) -> None:
        self._in_flight -= 1
        room, self._room = self._room, None
        if room is not None and not room.called:
            room.callback(None)


def _write_at(descriptor: int, pieces: list[bytes], offset: int) -> None:
    for start in range(0, len(pieces), 512):
        some = pieces[start : start + 512]
        size = sum(map(len, some))
        written = os.pwritev(descriptor, some, offset)
        if written < size:
            os.pwrite(descriptor, b"".join(some)[written:], offset + written)
        offset += size

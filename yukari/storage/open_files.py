"""
Stored blobs that were opened lately and stay open, so that the next request waits for no thread.

A pull asks for a large blob in parts, 16 or 64 of them, and two hundred
machines do so at nine o'clock; handing each to a thread and back costs more
than all the rest of a small reply (bench/hits.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.names import Digest
from yukari.storage.ports import BlobFile

KEEP = 1.0
"""Seconds after which all are closed, so that a blob removed by hand is noticed."""
MAX_OPEN = 64
"""Descriptors kept."""


@define(eq=False, repr=False)
class OpenBlobs:
    """The files that a store's ``open_blob`` returned, shared for `KEEP` seconds."""

    _open_blob: Callable[[Digest], Awaitable[Optional[BlobFile]]]
    _clock: IReactorTime
    _kept: dict[Digest, BlobFile] = field(factory=dict, init=False)
    _end: Optional[IDelayedCall] = field(default=None, init=False)
    _times: int = field(default=0, init=False)
    """The number of times that all were closed: a file being opened meanwhile is not kept."""

    def size(self, digest: Digest) -> Optional[int]:
        """Bytes of a blob that is open."""
        kept = self._kept.get(digest)
        return None if kept is None else kept.size

    def find(self, digest: Digest) -> Optional[BlobFile]:
        """Return the file of a blob that is open, which stays open for this turn; else None."""
        return self._kept.get(digest)

    async def open(self, digest: Digest) -> Optional[BlobFile]:
        """Return a file that the caller closes; None if the blob is not stored. OSError."""
        kept = self._kept.get(digest)
        if kept is None:
            times = self._times
            kept = await self._open_blob(digest)
            if kept is None or times != self._times or digest in self._kept:
                return kept
            if len(self._kept) == MAX_OPEN:
                self.close()
            self._kept[digest] = kept
            if self._end is None:
                self._end = self._clock.callLater(KEEP, self._over)
        return kept.share()

    def _over(self) -> None:
        self._end = None
        self.close()

    def close(self) -> None:
        """Close all files, and keep none that is being opened."""
        self._times += 1
        end, self._end = self._end, None
        if end is not None:
            end.cancel()
        kept, self._kept = self._kept, {}
        for file in kept.values():
            file.close()

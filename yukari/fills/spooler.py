"""The way of a blob's bytes to the spool: gathered, written, and hashed along its prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.fills.verifier import WITHHELD, Verifier
from yukari.fills.writer import Pieces, WriteBuffer
from yukari.names import Digest
from yukari.spans import Span, SpanSet
from yukari.storage.ports import Spool

log = Logger()

DISK_RESTS = 10.0
"""Seconds for which a disk that failed is not tried again for the same blob."""

HASH_STEP = 8 * 1024 * 1024
"""Bytes that are hashed in one call to a disk thread."""


@define(eq=False, repr=False)
class Spooler:
    """
    The disk's side of one fill. ``written`` is called with the spans that are on the spool,
    ``hashed`` after each step of the hash, and ``failed`` with an error of the disk.
    """

    _digest: Digest
    _clock: IReactorTime
    _in_thread: Callable[..., Deferred[Any]]
    _written: Callable[[Sequence[Span]], None]
    _hashed: Callable[[], None]
    _failed: Callable[[Failure], None]
    spool: Optional[Spool] = None
    _buffer: WriteBuffer = field(init=False)
    _verifier: Optional[Verifier] = field(default=None, init=False)
    _is_hashing: bool = field(default=False, init=False)
    _working: set[Deferred[None]] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.begin_anew()

    @property
    def held(self) -> int:
        """Bytes that have been received and not been written."""
        return self._buffer.held

    @property
    def digest(self) -> Digest:
        """The digest of the bytes that have been hashed so far."""
        assert self._verifier is not None
        return self._verifier.digest()

    def begin_anew(self) -> None:
        """Take bytes again."""
        self._buffer = WriteBuffer(self._clock, self._write, self._written, self._failed)

    def open(self) -> SpanSet:
        """Open the spool, and return what is on it already. OSError."""
        assert self.spool is not None
        if self._verifier is None:
            self._verifier = Verifier(self.spool.open())
        self.begin_anew()
        return self.spool.covered()

    def add(self, offset: int, data: bytes) -> None:
        """Write bytes at ``offset``, soon."""
        self._buffer.add(offset, data)

    def flush(self) -> None:
        """Write what has been gathered, because nothing more will arrive."""
        self._buffer.flush()

    def _write(self, pieces: Pieces) -> Deferred[None]:
        assert self.spool is not None
        return self._in_thread(self.spool.write, pieces)

    def advance(self, covered: SpanSet, *, whole: bool) -> bool:
        """Hash what is there, a step at a time, and return whether all of it is hashed."""
        verifier = self._verifier
        if self._is_hashing or verifier is None:
            return False
        end = covered.until(verifier.position)
        if end - verifier.position >= (1 if whole else WITHHELD):
            self._is_hashing = True
            step = min(end, verifier.position + HASH_STEP)
            work = self._in_thread(verifier.advance, step)
            self.keep_open_for(work.addCallbacks(self._has_hashed, self._has_not_hashed))
            return False
        return whole and verifier.position == covered.total

    def _has_hashed(self, _: None) -> None:
        self._is_hashing = False
        self._hashed()

    def _has_not_hashed(self, failure: Failure) -> None:
        self._is_hashing = False
        self._failed(failure)

    def keep_open_for(self, work: Deferred[None]) -> None:
        """Do not close the spool before ``work`` has ended."""
        ended: Deferred[None] = Deferred()
        self._working.add(ended)

        def settle(result: object) -> None:
            if isinstance(result, Failure):
                log.failure("{digest}: a fill broke", result, digest=str(self._digest))
            self._working.discard(ended)
            ended.callback(None)

        work.addBoth(settle)

    async def finish_writing(self) -> None:
        """Take nothing more, and return when all that was taken is written."""
        await self._buffer.close()

    async def rest(self) -> None:
        """Return when no work with the spool is in progress."""
        while self._working:
            await next(iter(self._working))

    def note_repository(self, name: Any) -> None:
        """Record, with the spool, another repository that has the blob."""
        if self.spool is not None and name not in self.spool.repositories:
            self.keep_open_for(self._in_thread(self.spool.note_repository, name))

    def close(self) -> None:
        """Close the spool, and leave it."""
        if self._verifier is not None:
            self._verifier.close()
        if self.spool is not None:
            self.spool.close()

    async def discard(self, *, keep: bool = False) -> None:
        """Throw the spool away, if there is one, or close it and ``keep`` its bytes."""
        spool, self.spool = self.spool, None
        verifier, self._verifier = self._verifier, None
        self.begin_anew()
        if verifier is not None:
            verifier.close()
        if spool is not None:
            await self._in_thread(spool.close if keep else spool.discard)

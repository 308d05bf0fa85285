"""
The check of a blob: its sha256, along the prefix that is there, and the end that waits for it.

A reader of the whole blob gets the end only once its digest is known to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Optional, Protocol

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.names import Digest

WITHHELD = 1024 * 1024
"""Bytes at its end that a reader of the whole blob gets only after the check."""
TRICKLE = 1024
TRICKLE_SECONDS = 2.0
"""
Bytes that are released each time, and seconds between two times, while the verdict takes long, so
that no client takes us for stalled.
"""

_BLOCK = 1024 * 1024


class Bytes(Protocol):
    """The file that is read: a spool's or a blob's."""

    def read(self, offset: int, count: int) -> bytes: ...

    def close(self) -> None: ...


@define(eq=False, repr=False)
class Verifier:
    """Reads each byte of the spool once, in order; ``position`` is the first not yet hashed."""

    _file: Bytes
    position: int = 0
    hash: Any = field(factory=sha256, init=False)

    def advance(self, end: int) -> None:
        """
        Hash up to ``end``, all of which is covered. Blocks: for a disk thread, one call at a time.
        """
        while self.position < end:
            block = self._file.read(self.position, min(_BLOCK, end - self.position))
            if not block:
                raise OSError(f"the spool ends at byte {self.position}")
            self.hash.update(block)
            self.position += len(block)

    def digest(self) -> Digest:
        """The digest of what has been hashed."""
        return Digest(self.hash.hexdigest())

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


@define(eq=False, repr=False)
class UnverifiedTail:
    """The end of a blob of ``size`` bytes; ``more`` is called when some of it trickles."""

    _clock: IReactorTime
    _size: int
    _more: Callable[[], None]
    limit: int = field(init=False)
    """How far a reader of the whole blob may read."""
    _trickle: Optional[IDelayedCall] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Withhold the end: the blob is fetched from its first byte, or goes on."""
        self.limit = max(0, self._size - WITHHELD)

    def await_verdict(self) -> None:
        """Let some of the end trickle, because all bytes are here."""
        if self._trickle is None:
            self._trickle = self._clock.callLater(TRICKLE_SECONDS, self._let_some_go)

    def _let_some_go(self) -> None:
        self._trickle = self._clock.callLater(TRICKLE_SECONDS, self._let_some_go)
        self.limit = max(self.limit, min(self._size - 1, self.limit + TRICKLE))
        self._more()

    def stop(self) -> None:
        """Let no more of the end trickle; harmless when repeated."""
        if self._trickle is not None:
            self._trickle.cancel()
            self._trickle = None

    def give(self) -> None:
        """Release the end, because the digest is right."""
        self.limit = self._size

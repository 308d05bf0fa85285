"""A blob's end, which a reader of the whole gets only once its digest is known to be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

WITHHELD = 1024 * 1024
"""Bytes that are withheld."""
TRICKLE = 1024
TRICKLE_SECONDS = 2.0
"""
Bytes that are released each time, and seconds between two times, while the verdict takes long, so
that no client takes us for stalled.
"""


@define(eq=False)
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

"""The common base of all ways of sending a blob's bytes: the stall timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from yukari.net.throttle import Taker

STALL = 300.0
"""Seconds after which a reader that takes nothing is dropped."""

READ = 256 * 1024
"""Bytes of one read in a thread."""

InThread = Callable[..., Deferred[Any]]
Join = Callable[[Callable[[], None], Callable[[], None]], Taker]
"""`Line.join` of the line that bounds the rate of a client."""


class ReaderGone(Exception):
    """
    The client has closed its connection, or was dropped; nothing more can be sent.

    ``sent`` bytes of the blob had left by ``sendfile``, not counting those that a helper was
    sending.
    """

    def __init__(self, sent: int = 0) -> None:
        super().__init__(sent)
        self.sent = sent


class Broken(Exception):
    """The blob's bytes end early: ``sent`` bytes have left, and ``error`` is the reason."""

    def __init__(self, sent: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.sent = sent
        self.error = error


class StallWatch:
    """
    Drops a connection that takes nothing for `STALL` seconds although there is something to take.
    """

    def __init__(self, clock: IReactorTime, drop: Callable[[], None]) -> None:
        self._clock = clock
        self._drop: Optional[Callable[[], None]] = drop
        self._at: Optional[float] = clock.seconds()
        self._timer: Optional[IDelayedCall] = clock.callLater(STALL, self._look)

    def made(self) -> None:
        """Note that something was taken."""
        self._at = self._clock.seconds()

    def idle(self) -> None:
        """Note that there is nothing to take for now."""
        self._at = None

    def _look(self) -> None:
        now = self._clock.seconds()
        since = now if self._at is None else self._at
        if now - since >= STALL:
            self._timer = None
            if self._drop is not None:
                self._drop()
        else:
            self._timer = self._clock.callLater(since + STALL - now, self._look)

    def end(self) -> None:
        """Stop watching, and let go of the connection, which would be in a cycle otherwise."""
        self._drop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

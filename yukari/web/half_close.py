"""
Clients that half-close after their request: do they wait for the reply, or have they left?

Both send the same. Only what is written to them tells: the system of a client that has left resets
the connection, of which the next write fails. An interim reply is ignored by those that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""A reply that any client of HTTP/1.1 reads past (RFC 9110, section 15.2)."""
FIRST_AFTER = 1.0
"""Seconds after the half-close, and between the first two writes; doubled from then on."""


@define(eq=False)
class Probe:
    """Writes to a half-closed client while it ``waits``, ever more seldom."""

    _clock: IReactorTime
    _waits: Callable[[], bool]
    _write: Callable[[bytes], object]
    _next: Optional[IDelayedCall] = field(default=None, init=False)

    def begin(self) -> None:
        """Write soon."""
        self._next = self._clock.callLater(FIRST_AFTER, self._look, FIRST_AFTER)

    def _look(self, wait: float) -> None:
        self._next = None
        if self._waits():
            self._next = self._clock.callLater(wait, self._look, 2 * wait)
            self._write(CONTINUE)

    def stop(self) -> None:
        """Write no more; harmless when repeated."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

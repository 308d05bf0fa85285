"""
Clients that half-close after their request: do they wait for the reply, or have they left?

Both send the same. Only what is written to them tells: the system of a client that has left resets
the connection, of which the next write fails. An interim reply is ignored by those that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from zope.interface import implementer

from yukari.web.header_lines import CountedLines

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""A reply that any client of HTTP/1.1 reads past (RFC 9110, section 15.2)."""
HALF_CLOSES_WITHIN = 2.0
"""
Seconds after a request in which a client's half-close does not mean that it has left. One that
closes later has given up waiting; the two cannot be told apart otherwise.
"""
FIRST_AFTER = 1.0
"""Seconds after the half-close, and between the first two writes; doubled from then on."""


@define(eq=False, repr=False)
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


@implementer(IHalfCloseableProtocol)
class HalfCloses(CountedLines):
    """A channel that answers a half-closed client as long as it may be waiting."""

    _half_closed: bool = False
    _probe: Optional[Probe] = None
    _begun_at: float = 0.0
    """When the request in progress began, by the site's clock."""

    @property
    def waiting_since(self) -> Optional[float]:
        """When the request began of which no reply has been sent, by the site's clock."""
        waits = self._handlingRequest and self.requests and self.requests[0].waits
        return self._begun_at if waits else None

    def readConnectionLost(self) -> None:
        """The client sends no more; it may still read."""
        if self._half_closed:
            return
        self._half_closed = True
        if not self._handlingRequest:
            self._close_if_read()
        elif self.site.clock.seconds() - self._begun_at > HALF_CLOSES_WITHIN:
            self.transport.abortConnection()
        elif self.requests[0].clientproto == b"HTTP/1.1":
            self._probe = Probe(
                self.site.clock, lambda: self.waiting_since is not None, self.transport.write
            )
            self._probe.begin()

    def writeConnectionLost(self) -> None:
        """Never: this side is not closed alone."""

    def _close_if_read(self) -> None:
        """Close a half-closed connection, unless there is a request of it left to begin."""
        if not self.paused:
            self.loseConnection()

    def stop_probing(self) -> None:
        """Do not ask any more whether the client is there."""
        if self._probe is not None:
            self._probe.stop()

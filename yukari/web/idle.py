"""When a connection has been silent for too long."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall


@define(eq=False, repr=False)
class IdleTimer:
    """
    Closes a connection that was neither read nor answered for so many ``seconds``.

    Twisted sets its timer anew with each request; this one looks when the channel was last used.
    """

    _seconds: float
    _call: Optional[IDelayedCall] = field(default=None, init=False)

    def start(self, channel: Any) -> None:
        """Begin to watch a channel."""
        self._look_in(self._seconds, channel)

    def _look_in(self, seconds: float, channel: Any) -> None:
        self._call = channel.site.clock.callLater(seconds, self._look, channel)

    def _look(self, channel: Any) -> None:
        self._call = None
        quiet = channel.site.clock.seconds() - channel.quiet_since
        if channel.requests:
            self._look_in(self._seconds, channel)
        elif quiet < self._seconds:
            self._look_in(self._seconds - quiet, channel)
        else:
            channel.timeoutConnection()

    def stop(self) -> None:
        """Watch no more; harmless when repeated."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

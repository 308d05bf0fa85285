"""
The connections that clients have, and how they come to an end when the daemon does.

First it only says that it stops, so that load balancers look elsewhere. Then,
the ports closed, connections without a request are closed, the others after
their reply; and those that are left when the grace is over are cut. Who has
connected and not asked yet, its first request may be under way, has a moment.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

INSIST_AFTER = 1.0
"""Seconds that a TLS client has to answer our goodbye before the socket closes without it."""

FIRST_WITHIN = 1.0
"""Seconds that a connection has to bring its first request once the ports are closed."""


@define(eq=False)
class Drain:
    """All connections of clients; `pause`, `close`, `cut` are its end, `hurry` shortens it."""

    _clock: IReactorTime
    stopping: bool = field(default=False, init=False)
    """The daemon was told to stop: it is not ready, and replies say ``Connection: close``."""
    _channels: dict[Any, Optional[IDelayedCall]] = field(factory=dict, init=False)
    """Each with the timer of its `_insist`."""
    _closing: bool = field(default=False, init=False)
    _hurried: bool = field(default=False, init=False)
    _waiting: Optional[Deferred[None]] = field(default=None, init=False)
    _patience: Optional[IDelayedCall] = field(default=None, init=False)

    # what channels do

    def joined(self, channel: Any) -> None:
        """A client has connected."""
        self._channels[channel] = None

    def left(self, channel: Any) -> None:
        """A connection is gone."""
        insisting = self._channels.pop(channel, None)
        if insisting is not None and insisting.active():
            insisting.cancel()
        if self._closing and not self._channels:
            self._go_on()

    def closes(self, channel: Any) -> None:
        """A connection is to close once what was written to it has left."""
        if self._closing and channel in self._channels:
            insisting = self._channels[channel]
            if insisting is None:
                insisting = self._clock.callLater(INSIST_AFTER, self._insist, channel)
                self._channels[channel] = insisting

    # what the service does

    def busy(self) -> int:
        """Connections with a request under way."""
        return sum(1 for channel in self._channels if channel.requests)

    def count(self) -> int:
        """All connections."""
        return len(self._channels)

    def close_unused(self, most: int) -> None:
        """Close up to ``most`` of those that wait for their next request, longest quiet first."""
        unused = (channel for channel in self._channels if channel.is_unused())
        for channel in nsmallest(most, unused, key=lambda channel: channel.quiet_since):
            channel.loseConnection()

    async def pause(self, seconds: float) -> None:
        """Say from now on that the daemon stops; returns after ``seconds`` or when hurried."""
        self.stopping = True
        if seconds > 0:
            await self._wait(seconds)

    async def close(self, grace: float) -> None:
        """Returns when every connection has ended well, after ``grace`` seconds or when hurried."""
        self.stopping = self._closing = True
        self._patience = self._clock.callLater(FIRST_WITHIN, self._close_silent)
        for channel in list(self._channels):
            if channel.asked:
                self._close(channel)
        if self._channels and grace > 0:
            log.info(
                "stopping: {busy} requests under way may take {grace} s more",
                busy=self.busy(),
                grace=grace,
            )
            await self._wait(grace)

    def cut(self) -> None:
        """Drop what is left."""
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        for channel in list(self._channels):
            channel.forceAbortClient()

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._hurried = True
        self._go_on()

    def _close(self, channel: Any) -> None:
        if channel.requests:
            channel.persistent = False
        else:
            channel.loseConnection()

    def _close_silent(self) -> None:
        for channel in list(self._channels):
            if not channel.asked:
                self._close(channel)

    def _insist(self, channel: Any) -> None:
        """A TLS client may not look at our goodbye until it has a use for the connection."""
        self._channels[channel] = self._clock.callLater(INSIST_AFTER, self._insist, channel)
        transport = channel.transport
        beneath = getattr(transport, "transport", None)
        if beneath is not None and not getattr(transport, "_appSendBuffer", None):
            beneath.loseConnection()

    async def _wait(self, seconds: float) -> None:
        if self._hurried:
            return
        self._waiting = Deferred()
        timer: IDelayedCall = self._clock.callLater(seconds, self._go_on)
        await self._waiting
        if timer.active():
            timer.cancel()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

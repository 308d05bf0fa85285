"""
The clients' connections, and how they end when the daemon stops.

At first it only reports that it stops, so that load balancers look elsewhere. Once the ports are
closed, idle connections are closed, and the others after their reply. Those that are left after the
grace are cut. A client that has connected but sent nothing has a moment, because its first request
may be in transit.
"""

from __future__ import annotations

from collections import Counter
from heapq import nsmallest
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from yukari.errors import no_room
from yukari.tasks import Waiters

log = Logger()

INSIST_AFTER = 1.0
"""Seconds that a TLS client has to answer our close before the socket closes without it."""

WAITED = 0.1
"""Seconds that a request has for its reply, however many connections there are."""

RETRY_AFTER = 10
"""Seconds after which a client whose request was refused for others may try again."""

FIRST_WITHIN = 1.0
"""Seconds that a connection has to send its first request once the ports are closed."""


@define(eq=False, repr=False)
class Drain:
    """
    All connections of clients. `pause`, `close` and `cut` end them in that order; `hurry` shortens
    it.
    """

    _clock: IReactorTime
    room: Optional[int] = field(default=None, init=False)
    """How many connections there may be; None for no bound."""
    stopping: bool = field(default=False, init=False)
    """The daemon was told to stop: it is not ready, and replies say ``Connection: close``."""
    asked: int = field(default=0, init=False)
    """Requests that clients have sent so far."""
    _channels: dict[Any, Optional[IDelayedCall]] = field(factory=dict, init=False)
    """Each with the timer of its `_insist`."""
    _closing: bool = field(default=False, init=False)
    _hurried: bool = field(default=False, init=False)
    _over: Waiters = field(factory=Waiters, init=False)
    """Fires when there is nothing more to wait for."""
    _patience: Optional[IDelayedCall] = field(default=None, init=False)

    # what channels do

    def joined(self, channel: Any) -> None:
        """Note a new connection."""
        self._channels[channel] = None

    def left(self, channel: Any) -> None:
        """Note that a connection is gone."""
        insisting = self._channels.pop(channel, None)
        if insisting is not None and insisting.active():
            insisting.cancel()
        if self._closing and not self._channels:
            self._over.fire()

    def closes(self, channel: Any) -> None:
        """Note that a connection closes once what was written to it has left."""
        if self._closing and channel in self._channels:
            insisting = self._channels[channel]
            if insisting is None:
                insisting = self._clock.callLater(INSIST_AFTER, self._insist, channel)
                self._channels[channel] = insisting

    # what the service does

    def busy(self) -> int:
        """Return the number of connections with a request in progress."""
        return sum(1 for channel in self._channels if channel.requests)

    def count(self) -> int:
        """Return the number of connections."""
        return len(self._channels)

    @property
    def is_crowded(self) -> bool:
        """Whether half of the room is taken, so that others may soon find none."""
        return self.room is not None and 2 * len(self._channels) > self.room

    def close_unused(self, most: int) -> None:
        """Close up to ``most`` idle connections, the longest quiet first."""
        unused = (channel for channel in self._channels if channel.is_unused())
        for channel in nsmallest(most, unused, key=lambda channel: channel.quiet_since):
            channel.loseConnection()

    def refuse_waiting(self, most: int) -> None:
        """
        Refuse up to ``most`` requests that have waited for a while and not been answered.

        Of the clients with many first, and the latest of these: the others may be answered soon.
        """
        until = self._clock.seconds() - WAITED
        waiting = [
            (channel, since)
            for channel in self._channels
            if (since := channel.waiting_since) is not None and since <= until
        ]
        of = Counter(channel.name for channel, _ in waiting)
        for channel, _ in nsmallest(most, waiting, key=lambda each: (-of[each[0].name], -each[1])):
            channel.requests[0].refuse(no_room(RETRY_AFTER))

    async def pause(self, seconds: float) -> None:
        """Report from now on that the daemon stops; return after ``seconds`` or when hurried."""
        self.stopping = True
        if seconds > 0:
            await self._wait(seconds)

    async def close(self, grace: float) -> None:
        """Return when every connection has ended well, after ``grace`` seconds, or when hurried."""
        self.stopping = self._closing = True
        self._patience = self._clock.callLater(FIRST_WITHIN, self._close_silent)
        for channel in list(self._channels):
            if channel.asked:
                self._close(channel)
        if self._channels and grace > 0:
            log.info(
                "stopping: {busy} requests in progress have {grace} s to finish",
                busy=self.busy(),
                grace=grace,
            )
            await self._wait(grace)

    def cut(self) -> None:
        """Drop the connections that are left."""
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        for channel in list(self._channels):
            channel.forceAbortClient()

    def hurry(self) -> None:
        """Stop waiting."""
        self._hurried = True
        self._over.fire()

    def _close(self, channel: Any) -> None:
        if channel.requests:
            channel.persistent = False
        elif not channel.waits:
            channel.loseConnection()

    def _close_silent(self) -> None:
        for channel in list(self._channels):
            if not channel.asked:
                self._close(channel)

    def _insist(self, channel: Any) -> None:
        """Close the socket: a TLS client may not look at our close until it uses the connection."""
        self._channels[channel] = self._clock.callLater(INSIST_AFTER, self._insist, channel)
        transport = channel.transport
        beneath = getattr(transport, "transport", None)
        if beneath is not None and not getattr(transport, "_appSendBuffer", None):
            beneath.loseConnection()

    async def _wait(self, seconds: float) -> None:
        if not self._hurried:
            await self._over.wait_at_most(seconds, self._clock)

"""
A limit on the connections of one client, or on its requests in progress if it comes by a proxy.

A client is an address; behind a NAT it is many machines. A trusted proxy has no limit of its own,
and neither has a Unix socket: its connections are its clients'. Each client that it names may have
as many requests in progress as another has connections.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.networks import NOBODY, Address, Networks
from yukari.errors import too_many

log = Logger()

WARN_EVERY = 600.0
"""Seconds between two warnings that a client has too many."""


@define(eq=False, repr=False)
class ClientLimit:
    """
    The connections of each address, of which at most ``most`` are served, and the requests in
    progress of those that proxies name; None for no bound.
    """

    most: Optional[int] = None
    _exempt: Networks = NOBODY
    _channels: dict[Address, dict[Any, None]] = field(factory=dict, init=False)
    _requests: Counter[Address] = field(factory=Counter, init=False)
    _warned_at: Optional[float] = field(default=None, init=False)

    def joined(self, channel: Any, address: Optional[Address]) -> bool:
        """
        Count a new connection, and return whether it may be served.

        Before one is refused, an unused one of the same client is closed in its place.
        """
        if self.most is None or address is None or address in self._exempt:
            return True
        channels = self._channels.setdefault(address, {})
        channels[channel] = None
        if len(channels) <= self.most:
            return True
        unused = next((each for each in channels if each is not channel and each.is_unused()), None)
        if unused is not None:
            self.left(unused, address)
            unused.loseConnection()
            return True
        self._warn(address, "connections", channel.site.clock.seconds())
        return False

    def left(self, channel: Any, address: Optional[Address]) -> None:
        """Note that a connection has ended or is about to; harmless when repeated."""
        channels = self._channels.get(address) if address is not None else None
        if channels is not None:
            channels.pop(channel, None)
            if not channels:
                del self._channels[address]  # type: ignore[arg-type]

    def begins(self, address: Optional[Address], now: float) -> bool:
        """
        Count a request of a client that a proxy named, and return whether it is counted.

        `RegistryError` if the client has too many in progress; ``now`` is the clock's time.
        """
        if self.most is None or address is None or address in self._exempt:
            return False
        if self._requests[address] >= self.most:
            self._warn(address, "requests at once", now)
            raise too_many(
                f"{address} has {self.most} requests in progress, as many as one client may have:"
                " try again when some have ended"
            )
        self._requests[address] += 1
        return True

    def ended(self, address: Address) -> None:
        """Note that a counted request has ended."""
        self._requests[address] -= 1
        if not self._requests[address]:
            del self._requests[address]

    def _warn(self, address: Address, what: str, now: float) -> None:
        if self._warned_at is None or now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            log.warn(
                "{client}: more than {count} {what} are refused (CLIENT_CONNECTIONS)",
                client=str(address),
                count=self.most,
                what=what,
            )

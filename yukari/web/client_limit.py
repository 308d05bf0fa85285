"""
A limit on the connections of one client.

A client is an address; behind a NAT it is many machines. A trusted proxy names its clients itself,
so it has no limit, and neither has a Unix socket.
"""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.logger import Logger

from yukari.config.networks import NOBODY, Address, Networks

log = Logger()

WARN_EVERY = 600.0
"""Seconds between two warnings that a client has too many."""


@define(eq=False)
class ClientLimit:
    """The connections of each address, of which at most ``most`` are served; None for no bound."""

    most: Optional[int] = None
    _exempt: Networks = NOBODY
    _channels: dict[Address, dict[Any, None]] = field(factory=dict, init=False)
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
        now = channel.site.clock.seconds()
        if self._warned_at is None or now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            log.warn(
                "{client}: more than {count} connections are refused (CLIENT_CONNECTIONS)",
                client=str(address),
                count=self.most,
            )
        return False

    def left(self, channel: Any, address: Optional[Address]) -> None:
        """Note that a connection has ended or is about to; harmless when repeated."""
        channels = self._channels.get(address) if address is not None else None
        if channels is not None:
            channels.pop(channel, None)
            if not channels:
                del self._channels[address]  # type: ignore[arg-type]

"""
How many bytes one request asks of a host: long enough to keep the line busy, short enough to turn.

A Range in flight cannot be shortened without throwing bytes away, so it is
about two seconds' worth at the rate measured there, less where a round trip is
short. The numbers come from a simulation of these rules against Ollama's
clients, whose strictest gives up on a part that gets no byte for five seconds.
"""

from __future__ import annotations

from math import inf
from typing import Optional

from attrs import define

SMALLEST = 64 * 1024
"""Bytes of the first request to a host, and of the shortest at any time."""
LARGEST = 64 * 1024 * 1024
LEAST = 16 * 1024
"""Bytes of the shortest where a line is bounded."""
GROWTH = 8
"""A request is at most so many times as long as the longest that has come back whole."""
SECONDS = 2.0
SHORTEST_SECONDS = 0.5
"""
What a request should take: `SECONDS`, or less where a round trip is short, for a prefix that grows
steadily is hashed as it grows.
"""
SECONDS_SHARED = 3.0
"""Within what time every reader gets a turn where more of them wait than there are connections."""
ROUND_TRIPS = 4
"""
A request is never shorter than this many round trips' time is worth, near a blob's end either.
"""
ROUND_TRIPS_ENOUGH = 20
"""What a request waits for its header is then a twentieth of its time."""
_MEMORY = 0.8
"""What the past is worth at each new measurement."""


@define(eq=False)
class HostPace:
    """
    What was measured of one host, by whom all fills that use it go.

    ``bound`` is how many bytes a second one connection has of a bounded line while all are at
    work. A turn on that line brings a short request whole, which says nothing of how long a
    longer one takes.
    """

    bound: float = inf
    active: int = 0
    """Requests under way now."""
    ranges: bool = False
    """Whether it has answered a Range with 206."""
    round_trip: Optional[float] = None
    """Seconds from a request to its reply's header, smoothed."""
    _longest: int = 0
    _bytes: float = 0.0
    _seconds: float = 0.0
    _lanes: int = 1

    @property
    def rate(self) -> Optional[float]:
        """
        Bytes a second of one connection, None before the first measurement.

        Where more are under way than when it was measured, they may share a
        line: then it is taken to be that much lower until it is measured anew.
        """
        if not self._seconds:
            return None
        return self._bytes / self._seconds * min(1.0, self._lanes / max(1, self.active))

    def headers_after(self, seconds: float) -> None:
        """A reply's header took ``seconds``."""
        seen = self.round_trip
        self.round_trip = seconds if seen is None else 0.7 * seen + 0.3 * seconds

    def measured(self, count: int, seconds: float, *, whole: bool) -> None:
        """
        A request brought ``count`` bytes in ``seconds`` from being sent; ``whole`` if that was all
        of it.
        """
        self._bytes = self._bytes * _MEMORY + count
        self._seconds = self._seconds * _MEMORY + max(seconds, 1e-6)
        self._lanes = max(1, self.active)
        if whole:
            self._longest = max(self._longest, count)

    def length(self, left: int, connections: int, crowding: float) -> int:
        """
        How many bytes the next request should ask for.

        ``left`` bytes of the blob nobody has asked for, ``connections`` can be
        used for it, and ``crowding`` readers wait for each connection.
        """
        enough = SECONDS  # a host that nobody knows may be far
        if self.round_trip is not None:
            enough = max(SHORTEST_SECONDS, ROUND_TRIPS_ENOUGH * self.round_trip)
        seconds = min(SECONDS, enough, SECONDS_SHARED / max(crowding, 1e-9))
        rate = self.rate
        wanted: float = SMALLEST
        if rate is not None:
            share = max(left / connections, ROUND_TRIPS * (self.round_trip or 0.0) * rate)
            wanted = min(seconds * rate, share, GROWTH * max(self._longest, SMALLEST // GROWTH))
            wanted = max(SMALLEST, min(LARGEST, wanted))
        return int(min(wanted, max(LEAST, seconds * self.bound)))

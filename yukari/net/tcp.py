"""
What the system knows of a TCP connection's round trips, and how many bytes it lets be on their way.

Linux tells it by ``TCP_INFO`` (``struct tcp_info`` of ``linux/tcp.h``, which only ever grows at its
end) and takes the bound by ``TCP_WINDOW_CLAMP``. If either is missing, nothing is known and
nothing is bounded. TLS has the same socket underneath.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, Optional, Protocol

from attrs import define, frozen

_MICROSECONDS = 1e-6
"""Seconds."""
_SIZE = 160
"""Bytes of the structure that are asked for."""
_SEGMENT = struct.Struct("=20xI")
"""``tcpi_rcv_mss``: bytes of the segments that arrive."""
_ASKED = struct.Struct("=68xI")
"""``tcpi_rtt``: microseconds, smoothed over what was sent; 0 if nothing is known."""
_ROUND_TRIP = struct.Struct("=92xI")
"""``tcpi_rcv_rtt``: microseconds, measured by what arrives; 0 if nothing is known."""
_RECEIVED = struct.Struct("=128xQ")
"""``tcpi_bytes_received``."""
_LEAST = struct.Struct("=148xI")
"""``tcpi_min_rtt``: microseconds, of what was sent; all ones if nothing is known."""
_UNKNOWN = 0xFFFFFFFF
UNBOUNDED = 1 << 30
"""Bytes of a window that bounds nothing: TCP's largest (RFC 7323)."""

_IS_LINUX = sys.platform == "linux"
_INFO: Optional[int] = getattr(socket, "TCP_INFO", None) if _IS_LINUX else None
_CLAMP: Optional[int] = getattr(socket, "TCP_WINDOW_CLAMP", None) if _IS_LINUX else None


@frozen
class Reading:
    """A connection at one moment."""

    received: int
    """Bytes since it was made."""
    round_trip: Optional[float]
    """Seconds from a byte that was asked for to its arrival, of late; None if it is not known."""
    asked: Optional[float]
    """Seconds from what was sent, such as a request, to its receipt, smoothed with an eighth."""
    least: Optional[float]
    """The shortest round trip of what was sent on it, in seconds."""
    segment: int
    """Bytes of one of its segments."""


class Connection(Protocol):
    """A connection whose way can be looked at."""

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""

    def read(self) -> Optional[Reading]:
        """Return what the system tells of it; None if it tells nothing."""

    def bound(self, window: int) -> None:
        """Let at most so many bytes be on their way to us; harmless if that cannot be had."""


@define(eq=False)
class SocketConnection:
    """The connection of a Twisted transport that has a socket."""

    _transport: Any

    @property
    def is_open(self) -> bool:
        return bool(self._transport.connected)

    def read(self) -> Optional[Reading]:
        if _INFO is None or _CLAMP is None:
            return None
        try:
            told = self._transport.socket.getsockopt(socket.IPPROTO_TCP, _INFO, _SIZE)
        except (OSError, AttributeError):
            return None  # Closed meanwhile, or no TCP.
        if len(told) < _SIZE:
            return None  # Before Linux 4.9.
        asked, round_trip, least = (
            each.unpack_from(told)[0] for each in (_ASKED, _ROUND_TRIP, _LEAST)
        )
        return Reading(
            _RECEIVED.unpack_from(told)[0],
            round_trip * _MICROSECONDS if round_trip else None,
            asked * _MICROSECONDS if asked else None,
            least * _MICROSECONDS if least not in (0, _UNKNOWN) else None,
            max(1, _SEGMENT.unpack_from(told)[0]),
        )

    def bound(self, window: int) -> None:
        if _CLAMP is not None:
            try:
                self._transport.socket.setsockopt(
                    socket.IPPROTO_TCP, _CLAMP, min(UNBOUNDED, window)
                )
            except (OSError, AttributeError):
                pass

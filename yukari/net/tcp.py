"""
A TCP connection's round trips, as the system measures them, and a bound on its bytes on their way.

Linux reports them by ``TCP_INFO`` (``struct tcp_info`` of ``linux/tcp.h``, which only ever grows at
its end) and takes the bound by ``TCP_WINDOW_CLAMP``. If either is missing, nothing is known and
nothing is bounded. TLS has the same socket underneath.

What a window has promised is never taken back, so the first one is bounded before the connection is
made: by the size of the socket's buffer, which must be free to grow again or else the window could
never become large (``SO_BUF_LOCK``, Linux 5.14).
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, Optional, Protocol

from attrs import define, field

_MICROSECONDS = 1e-6
"""Seconds."""
_TOLD = struct.Struct("=20xI44xI20xI32xQ12xI72xI")
"""
``tcpi_rcv_mss``: bytes of the segments that arrive. ``tcpi_rtt``: microseconds, smoothed over what
was sent; 0 if nothing is known. ``tcpi_rcv_rtt``: microseconds, measured by what arrives; 0 if
nothing is known. ``tcpi_bytes_received``. ``tcpi_min_rtt``: microseconds, of what was sent; all
ones if nothing is known. ``tcpi_rcv_ooopack``: segments that arrived while an earlier one was
missing (Linux 5.4).
"""
_SIZE = 160
"""Bytes of the structure that are needed: without the last of these, which counts as 0 then."""
_UNKNOWN = 0xFFFFFFFF
ORDINARY = 64 * 1024
"""Bytes of the first window that Linux gives a connection by itself."""
_BUFFER_LOCK = 72
"""``SO_BUF_LOCK``, which Python does not name."""
UNBOUNDED = 1 << 30
"""Bytes of a window that bounds nothing: TCP's largest (RFC 7323)."""

_IS_LINUX = sys.platform == "linux"
_INFO: Optional[int] = getattr(socket, "TCP_INFO", None) if _IS_LINUX else None
_CLAMP: Optional[int] = getattr(socket, "TCP_WINDOW_CLAMP", None) if _IS_LINUX else None


def promise(opened: Any, window: int) -> None:
    """
    Let at most so many bytes be on their way to a socket that is about to connect, until it is
    bounded otherwise; harmless if that cannot be had.
    """
    if _CLAMP is None:
        return
    try:
        free = socket.SOL_SOCKET, _BUFFER_LOCK, 0
        opened.setsockopt(*free)  # Before the size: a system that does not know it would keep that.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(ORDINARY, window))
        opened.setsockopt(*free)
    except (OSError, AttributeError):
        pass


@define  # Not frozen, which takes three times as long: thousands are made in a second.
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
    out_of_order: int = 0
    """Segments that arrived while an earlier one was missing: lost, or overtaken."""


class Connection(Protocol):
    """A connection whose way can be looked at."""

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""

    def read(self) -> Optional[Reading]:
        """Return what the system tells of it; None if it tells nothing."""

    def bound(self, window: int) -> None:
        """
        Let at most so many bytes be on their way to us, whatever was promised before; harmless if
        that cannot be had.
        """


@define(eq=False, repr=False)
class SocketConnection:
    """The connection of a Twisted transport that has a socket."""

    _transport: Any
    _is_large: bool = field(default=False, init=False)
    """Whether its buffer is free to grow from an `ORDINARY` size."""

    @property
    def is_open(self) -> bool:
        return bool(self._transport.connected)

    def read(self) -> Optional[Reading]:
        if _INFO is None or _CLAMP is None:
            return None
        try:
            told = self._transport.socket.getsockopt(socket.IPPROTO_TCP, _INFO, _TOLD.size)
        except (OSError, AttributeError):
            return None  # Closed meanwhile, or no TCP.
        if len(told) < _SIZE:
            return None  # Before Linux 4.9.
        found = _TOLD.unpack(told.ljust(_TOLD.size, b"\0"))
        segment, asked, round_trip, received, least, out_of_order = found
        return Reading(
            received,
            round_trip * _MICROSECONDS if round_trip else None,
            asked * _MICROSECONDS if asked else None,
            least * _MICROSECONDS if least not in (0, _UNKNOWN) else None,
            max(1, segment),
            out_of_order,
        )

    def bound(self, window: int) -> None:
        if _CLAMP is None:
            return
        try:
            opened = self._transport.socket
            if not self._is_large:
                # The system reports twice the size that was set, and never makes it smaller.
                if opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * ORDINARY:
                    promise(opened, ORDINARY)
                self._is_large = True
            opened.setsockopt(socket.IPPROTO_TCP, _CLAMP, min(UNBOUNDED, window))
        except (OSError, AttributeError):
            pass

"""The common base of all ways of sending a blob's bytes: how they end early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from yukari.net.throttle import Taker

STALL = 300.0
"""Seconds after which a reader that takes nothing is dropped."""

READ = 256 * 1024
"""Bytes of one read in a thread."""

InThread = Callable[..., Deferred[Any]]
Join = Callable[[Callable[[], None], Callable[[], None]], Taker]
"""`Line.join` of the line that bounds the rate of a client."""


class ReaderGone(Exception):
    """
    The client has closed its connection, or was dropped; nothing more can be sent.

    ``sent`` bytes of the blob had left by ``sendfile``, not counting those that a helper was
    sending.
    """

    def __init__(self, sent: int = 0) -> None:
        super().__init__(sent)
        self.sent = sent


class Broken(Exception):
    """The blob's bytes end early: ``sent`` bytes have left, and ``error`` is the reason."""

    def __init__(self, sent: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.sent = sent
        self.error = error

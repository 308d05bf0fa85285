"""
Requests that clients send without waiting for the reply to the one before.

Each turn of the reactor begins few of them, whichever connections they are on, and all of those
that clients send one at a time: a crowd that pipelines does not delay the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

BEGUN_IN_A_TURN = 4


@define(eq=False)
class SentAhead:
    """The connections whose next request has been read already, in their turn."""

    _waiting: dict[Any, Callable[[], None]] = field(factory=dict, init=False)
    _call: Optional[IDelayedCall] = field(default=None, init=False)

    def __contains__(self, channel: object) -> bool:
        return channel in self._waiting

    def wait(self, channel: Any, begin: Callable[[], None]) -> None:
        """Call ``begin`` when it is this connection's turn."""
        self._waiting[channel] = begin
        self._call_later(channel)

    def leave(self, channel: Any) -> None:
        """Begin nothing for this connection any more; harmless if nothing waits."""
        self._waiting.pop(channel, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _call_later(self, channel: Any) -> None:
        if self._call is None:
            self._call = channel.callLater(0, self._begin_some)

    def _begin_some(self) -> None:
        self._call = None
        for channel in list(self._waiting)[:BEGUN_IN_A_TURN]:
            begin = self._waiting.pop(channel, None)
            if begin is not None:
                begin()
        for channel in self._waiting:
            self._call_later(channel)
            break

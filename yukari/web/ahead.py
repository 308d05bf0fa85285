"""
Requests that wait for a turn of the reactor, although they have been read.

Each turn begins few of those that clients send without waiting for the reply to the one before, and
not too many for blobs, whichever connections they are on: a crowd does not delay the others, and
new connections are accepted meanwhile. Anything else is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

BEGUN_IN_A_TURN = 4
"""Requests sent ahead that begin in a turn."""
BLOBS_IN_A_TURN = 32
"""Requests for blobs that begin in a turn, which takes some 10 ms."""


@define(eq=False)
class InTurn:
    """Connections that wait, the longest-waiting first, of which ``most`` go on in a turn."""

    _most: int
    _waiting: dict[Any, Callable[[], None]] = field(factory=dict, init=False)
    _begun: int = field(default=0, init=False)
    """Requests begun in this turn."""
    _call: Optional[IDelayedCall] = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, channel: object) -> bool:
        return channel in self._waiting

    def may_begin(self, channel: Any) -> bool:
        """Whether a request may begin in this turn, which counts it; otherwise it has to wait."""
        if self._waiting or self._begun >= self._most:
            return False
        self._begun += 1
        self._call_later(channel)
        return True

    def wait(self, channel: Any, begin: Callable[[], None]) -> None:
        """Call ``begin`` when it is this connection's turn."""
        self._waiting[channel] = begin
        self._call_later(channel)

    def leave(self, channel: Any) -> None:
        """Begin nothing for this connection any more; harmless if nothing waits."""
        self._waiting.pop(channel, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call, self._begun = None, 0

    def _call_later(self, channel: Any) -> None:
        if self._call is None:
            self._call = channel.callLater(0, self._begin_some)

    def _begin_some(self) -> None:
        self._call, self._begun = None, 0
        for channel in list(islice(self._waiting, self._most)):
            begin = self._waiting.pop(channel, None)
            if begin is not None:
                begin()
        for channel in self._waiting:
            self._call_later(channel)
            break

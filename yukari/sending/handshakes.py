"""
The TLS handshakes of clients: few in a turn of the reactor, and few unfinished ones at a time.

A handshake takes half a millisecond of the reactor's thread, and 60 KB until it is complete. A
thousand clients that connect at once, or that never answer, are not to keep the others waiting, nor
to fill the memory.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

IN_A_TURN = 16
"""Handshakes that go on in a turn of the reactor."""
MAX_UNFINISHED = 512
"""Handshakes at most that have begun and are not complete."""
PATIENCE = 1.0
"""Seconds that one has to be completed when others wait; a client needs a round trip or two."""
LOOK_EVERY = 0.05
"""Seconds between two looks for one that has had that long."""


@define(eq=False, repr=False)
class Handshake:
    """The handshake of one client's connection, whose Twisted protocol is ``protocol``."""

    _protocol: Any
    _all: Handshakes
    _goes_on: bool = field(default=False, init=False)
    _is_paused: bool = field(default=False, init=False)
    since: float = field(default=0.0, init=False)
    """When it began, by the clock."""

    @property
    def client(self) -> str:
        """The client's address."""
        return getattr(self._protocol.transport.getPeer(), "host", "")

    @property
    def is_over(self) -> bool:
        """Whether its connection is gone."""
        return not self._protocol.connected

    def is_its_turn(self) -> bool:
        """Whether it may go on; if not, it is continued in its turn."""
        if not self._goes_on and not self._all.wants(self):
            # Or else what the client sends meanwhile would have no bound.
            self._is_paused = True
            self._protocol.transport.pauseProducing()
        return self._goes_on

    def go_on(self) -> None:
        """Let Twisted look at what has arrived."""
        if self.is_over:
            self.ended()
            return
        if self._is_paused:
            self._is_paused = False
            self._protocol.transport.resumeProducing()
        self._goes_on = True
        try:
            self._protocol.dataReceived(b"")
        finally:
            self._goes_on = False

    def ended(self) -> None:
        """Note that it is complete, or has failed."""
        self._all.ended(self)

    def abort(self) -> None:
        """Drop the connection."""
        self._protocol.abortConnection()


@define(eq=False, repr=False)
class _ByClient:
    """Handshakes that wait, in turn over the clients."""

    _waiting: dict[str, dict[Handshake, None]] = field(factory=dict, init=False)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def next_client(self) -> str:
        return next(iter(self._waiting))

    def add(self, handshake: Handshake) -> None:
        self._waiting.setdefault(handshake.client, {})[handshake] = None

    def pop(self) -> Handshake:
        client = self.next_client
        queue = self._waiting.pop(client)
        handshake = next(iter(queue))
        del queue[handshake]
        if queue:
            self._waiting[client] = queue  # Behind the other clients now.
        return handshake


@define(eq=False, repr=False)
class Handshakes:
    """All handshakes in progress."""

    _clock: IReactorTime
    _unfinished: dict[Handshake, str] = field(factory=dict, init=False)
    """Those that have begun, the first of them first, and their clients."""
    _ready: _ByClient = field(factory=_ByClient, init=False)
    """Those of them that wait for a turn of the reactor."""
    _others: _ByClient = field(factory=_ByClient, init=False)
    """Those that wait until fewer are unfinished."""
    _known: set[Handshake] = field(factory=set, init=False)
    """All that are in one of the last two."""
    _made: int = field(default=0, init=False)
    """Those that went on in this turn."""
    _turn: Optional[IDelayedCall] = field(default=None, init=False)
    _look: Optional[IDelayedCall] = field(default=None, init=False)

    def wants(self, handshake: Handshake) -> bool:
        """Continue a handshake at once, or later: then return False."""
        if handshake in self._known:
            return False
        if handshake not in self._unfinished and not self._may_begin(handshake.client):
            self._known.add(handshake)
            self._others.add(handshake)
            self._look_later()
            return False
        return self._begin(handshake)

    def ended(self, handshake: Handshake) -> None:
        """Note that it is complete, or has failed."""
        if self._unfinished.pop(handshake, None) is not None:
            self._begin_others()

    def _begin(self, handshake: Handshake) -> bool:
        if handshake not in self._unfinished:
            self._unfinished[handshake] = handshake.client
            handshake.since = self._clock.seconds()
        if self._made < IN_A_TURN and not self._ready:
            self._go_on(handshake)
            return True
        self._known.add(handshake)
        self._ready.add(handshake)
        return False

    def _go_on(self, handshake: Handshake) -> None:
        self._made += 1
        if self._turn is None:
            self._turn = self._clock.callLater(0, self._next_turn)
        handshake.go_on()

    def _next_turn(self) -> None:
        self._turn, self._made = None, 0
        while self._ready and self._made < IN_A_TURN:
            handshake = self._ready.pop()
            self._known.discard(handshake)
            self._go_on(handshake)

    # when there are too many

    def _may_begin(self, client: str) -> bool:
        return len(self._unfinished) < MAX_UNFINISHED or self._drop_one(client)

    def _drop_one(self, client: str) -> bool:
        """Drop a handshake for one of this client; False if none is to be dropped."""
        counts = Counter(self._unfinished.values())
        busiest, most = counts.most_common(1)[0]
        oldest = next(iter(self._unfinished))
        if most > counts[client] + 1:
            oldest = next(each for each, of in self._unfinished.items() if of == busiest)
        elif self._clock.seconds() - oldest.since < PATIENCE:
            return False
        del self._unfinished[oldest]
        oldest.abort()
        return True

    def _begin_others(self) -> None:
        while self._others and self._may_begin(self._others.next_client):
            handshake = self._others.pop()
            self._known.discard(handshake)
            if not handshake.is_over:
                self._begin(handshake)

    def _look_later(self) -> None:
        if self._look is None:
            self._look = self._clock.callLater(LOOK_EVERY, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._begin_others()
        if self._others:
            self._look_later()

"""
A shared line: a number of bytes a second in all, taken in turn.

Bytes are counted after they have passed, because nobody knows beforehand how many a socket will
take. A taker is granted a share, and is held when the share is used up, until its next turn. What
it took beyond its share is deducted from the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf
from typing import Any, Optional, cast

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from zope.interface import implementer

from yukari.net.bodies import Body

ROUND = 0.25
"""
Seconds within which every taker has its turn. Ollama drops a part that gets no byte for five
seconds, and a part may need several turns: the rest of another request, then one of its own.
"""
LEAST = 1024
LARGE = 256 * 1024
"""Bytes of the smallest share, and of the largest if a hundredth of a second brings fewer."""
BURST = 0.1
"""Seconds' worth of bytes that may pass at once after a quiet time."""
TICK = 0.01
"""Seconds between two looks at the line, at least."""
RATE_LASTS = 1.0
"""Seconds after which a rate that differs by the hour is looked up again."""
ALL = 1 << 60
"""Bytes of a share while nothing is bounded."""
YIELDED = 8.0
"""Seconds after which a yielding taker gets a turn anyway, so that its connection survives."""


@define(eq=False, repr=False)
class Bucket:
    """A token bucket: ``rate`` bytes a second, ``burst`` at once, below zero for a debt."""

    rate: float
    burst: float
    _level: float = field(init=False)
    _at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._level = self.burst

    def level(self, now: float) -> float:
        """Return the bytes that may pass now."""
        self._level = min(self.burst, self._level + self.rate * max(0.0, now - self._at))
        self._at = max(now, self._at)
        return self._level

    def take(self, count: float) -> None:
        """Take bytes out; a negative count gives some back."""
        self._level = min(self.burst, self._level - count)

    def wait(self, now: float) -> float:
        """Return the seconds until some bytes may pass."""
        return max(0.0, -self.level(now) / self.rate)


@define(eq=False, repr=False)
class Taker:
    """
    One of those that share a `Line`.

    It calls `took` for the bytes that it took, and `end` when it is done. ``hold`` is called when
    it must pause, and ``release`` when it may continue. ``yields`` says whether it takes only what
    the others leave.
    """

    _line: Line
    _hold: Callable[[], None]
    _release: Callable[[], None]
    yields: Callable[[], bool]
    share: int = 0
    """Bytes that it may take before it is held."""
    held_at: Optional[float] = None
    """When it was held."""

    @property
    def held(self) -> bool:
        """Whether it waits for its turn."""
        return self.held_at is not None

    def took(self, count: int) -> None:
        """Count bytes that have passed."""
        self._line.keep_rate()
        self.share -= count
        if self.share <= 0 and not self.held:
            self._line.ask(self)

    def hold(self, now: float) -> None:
        """Wait for its turn from ``now`` on, by the clock."""
        self.held_at = now
        self._hold()

    def release(self) -> None:
        """Go on, because its turn has come."""
        self.held_at = None
        self._release()

    def end(self) -> None:
        """Leave the line; harmless when repeated."""
        self._line.leave(self)


def _never() -> bool:
    return False


def _share(rate: float, takers: int) -> int:
    if rate == inf:
        return LARGE
    fair = rate * ROUND / max(1, takers)
    return int(max(LEAST, min(fair, max(LARGE, rate / 100))))


@define(eq=False, repr=False)
class Line:
    """
    At most ``rate`` bytes a second in all, for ``most`` takers at once.

    The rate is infinite if nothing is bounded, which may differ by the hour.
    """

    rate: float
    _clock: IReactorTime
    most: int = 1
    _rate_now: Optional[Callable[[], float]] = field(default=None, init=False)
    _rate_until: float = field(default=-inf, init=False)
    _slowest: float = field(init=False)
    _bucket: Bucket = field(init=False)
    _takers: set[Taker] = field(factory=set, init=False)
    _waiting: dict[Taker, None] = field(factory=dict, init=False)
    _timer: Optional[IDelayedCall] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._slowest = self.rate
        self._bucket = Bucket(self.rate, self.rate * BURST, at=self._clock.seconds())

    def change(self, rate: float) -> None:
        """Let ``rate`` bytes a second pass from now on; those who wait may wait a turn longer."""
        if rate == self.rate:
            return
        was, self.rate = self.rate, rate
        if rate == inf:
            waiting, self._waiting = self._waiting, {}
            for taker in self._takers:
                taker.share = ALL
            for taker in waiting:
                taker.release()
        elif was == inf:
            self._bucket = Bucket(rate, rate * BURST, at=self._clock.seconds())
            for taker in self._takers:
                taker.share = 0
        else:
            self._bucket.rate, self._bucket.burst = rate, rate * BURST

    def follow(self, rate_now: Callable[[], float], slowest: float) -> None:
        """
        Have the rate that ``rate_now`` returns, asked now and at most once a second; ``slowest`` is
        the lowest that it can be.
        """
        self._rate_now, self._rate_until, self._slowest = rate_now, -inf, slowest
        self.keep_rate()

    @property
    def smallest_share(self) -> int:
        """Bytes that each of all takers may take in its turn at the lowest rate."""
        return _share(self._slowest, self.most)

    def join(
        self,
        hold: Callable[[], None],
        release: Callable[[], None],
        yields: Callable[[], bool] = _never,
    ) -> Taker:
        """Add a taker; it is held at once if others wait."""
        self.keep_rate()
        taker = Taker(self, hold, release, yields)
        self._takers.add(taker)
        self.ask(taker)
        return taker

    @property
    def is_short(self) -> bool:
        """Whether a taker that does not yield waits: then nothing is left for one that does."""
        return any(not taker.yields() for taker in self._waiting)

    @property
    def is_waited_for(self) -> bool:
        """Whether any taker waits for its turn."""
        return bool(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nobody takes from it, and no debt is left."""
        return not self._takers and self._bucket.level(self._clock.seconds()) >= self._bucket.burst

    def keep_rate(self) -> None:
        """Take another rate, if it is time for one."""
        if self._rate_now is None or (now := self._clock.seconds()) < self._rate_until:
            return
        self._rate_until = now + RATE_LASTS
        self.change(self._rate_now())

    def ask(self, taker: Taker) -> None:
        """Note that a taker has used up its share."""
        if self.rate == inf:
            taker.share = ALL
            return
        now = self._clock.seconds()
        if not self._waiting and self._bucket.level(now) > 0:
            self._grant(taker)
            if taker.share > 0:
                return
        self._waiting[taker] = None
        taker.hold(now)
        self._look_later(now)

    def leave(self, taker: Taker) -> None:
        """Give the rest of an ended taker's share to the others."""
        if taker in self._takers:
            self._takers.discard(taker)
            self._waiting.pop(taker, None)
            if self.rate < inf:
                self._bucket.take(-taker.share)
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def share_of(self, takers: int) -> int:
        """Return the bytes that each of so many takers may take in its turn."""
        return _share(self.rate, takers)

    def _grant(self, taker: Taker) -> None:
        share = self.share_of(len(self._takers))
        self._bucket.take(share)
        taker.share += share

    def _look_later(self, now: float) -> None:
        if self._timer is None:
            wait = max(TICK, self._bucket.wait(now))
            self._timer = self._clock.callLater(wait, self._look)

    def _look(self) -> None:
        self._timer = None
        self.keep_rate()
        now = self._clock.seconds()
        while self._waiting and self._bucket.level(now) > 0:
            taker = self._next(now)
            del self._waiting[taker]
            self._grant(taker)
            if taker.share > 0:
                taker.release()
            else:
                self._waiting[taker] = None  # it owes more than a share
        if self._waiting:
            self._look_later(now)

    def _next(self, now: float) -> Taker:
        first = next(iter(self._waiting))
        if first.held_at is not None and now - first.held_at >= YIELDED:
            return first
        return next((taker for taker in self._waiting if not taker.yields()), first)


@define(eq=False, repr=False)
class Lines:
    """A line for each client, each at ``rate`` bytes a second."""

    rate: float
    _clock: IReactorTime
    _lines: dict[Hashable, Line] = field(factory=dict, init=False)

    def change(self, rate: float) -> None:
        """As `Line.change`, for every client."""
        self.rate = rate
        for line in self._lines.values():
            line.change(rate)

    def join(self, who: Hashable, hold: Callable[[], None], release: Callable[[], None]) -> Taker:
        """As `Line.join`, on the line of ``who``."""
        line = self._lines.get(who)
        if line is None:
            self._lines = {each: kept for each, kept in self._lines.items() if not kept.is_idle}
            line = self._lines[who] = Line(self.rate, self._clock)
        return line.join(hold, release)


@implementer(IPushProducer)
@define(eq=False, repr=False)
class Paced:
    """
    Stands between a body and the protocol that receives it, as protocol of the one and transport of
    the other: reading pauses while the receiver or the line wants it to.
    """

    _body: Body
    _line: Line
    yields: Callable[[], bool] = lambda: False
    """Whether it takes only what others leave of the line; the receiver may change it."""
    _protocol: Any = field(default=None, init=False)
    _transport: Any = field(default=None, init=False)
    _taker: Optional[Taker] = field(default=None, init=False)
    _paused: bool = field(default=False, init=False)
    _held: bool = field(default=False, init=False)

    @property
    def held(self) -> bool:
        """Whether the line makes it wait, so that silence is not the fault of the other end."""
        return self._held

    def deliverBody(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        self._body.deliverBody(cast(IProtocol, self))
        # `deliverBody` ends by resuming the transport, even if it was paused.
        self._rest_or_go_on()

    # the body's protocol

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        self._taker = self._line.join(self._hold, self._release, lambda: self.yields())
        self._protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        if self._taker is not None:
            self._taker.took(len(data))
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        self._end()
        self._protocol.connectionLost(reason)

    # the protocol's transport

    def pauseProducing(self) -> None:
        self._paused = True
        self._rest_or_go_on()

    def resumeProducing(self) -> None:
        self._paused = False
        self._rest_or_go_on()

    def stopProducing(self) -> None:
        transport = self._transport
        self._end()
        if transport is not None:
            transport.stopProducing()

    # the line

    def _hold(self) -> None:
        self._held = True
        self._rest_or_go_on()

    def _release(self) -> None:
        self._held = False
        self._rest_or_go_on()

    def _rest_or_go_on(self) -> None:
        if self._transport is None:
            return
        if self._paused or self._held:
            self._transport.pauseProducing()
        else:
            self._transport.resumeProducing()

    def _end(self) -> None:
        """The body is complete, or not wanted any more."""
        taker, self._taker, self._transport = self._taker, None, None
        self._held = False
        if taker is not None:
            taker.end()

"""
Who works where: the connections upstream, shared by all fills.

A connection goes to the longest-waiting reader of any fill, then to work ahead
in the blobs that have readers, then in those that have none, in turn over the
blobs: small layers are never stuck behind a large one.
"""

from __future__ import annotations

from collections import Counter
from typing import Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.fills.fetcher import RangeFetch
from yukari.fills.fill import KEPT_WAITING, Fill, State
from yukari.fills.reader import FillReader
from yukari.net.budget import ConnectionBudget, Priority
from yukari.net.throttle import Line

log = Logger()

TICK = 0.5
"""Seconds between two looks at silent connections and hopeless fills."""
OPEN_AHEAD = 128
"""Fills without readers that may have their spools open at once."""
HELD = 32 * 1024 * 1024
"""Received bytes of all fills together that may wait to be written; beyond it connections pause."""
LEAST_HELD = 512 * 1024


@define(eq=False)
class FetchScheduler:
    """At most ``in_all`` requests at once, at most ``per_blob`` of them for one blob."""

    _clock: IReactorTime
    per_blob: int
    in_all: int
    held: int = HELD
    line: Optional[Line] = None
    """What bounds how fast blobs come from upstream, where it is bounded."""
    fills: dict[Fill, None] = field(factory=dict, init=False)
    """Those that are open or wait to be."""
    _own_budget: ConnectionBudget = field(init=False)
    """What requests to hosts that have none of their own take their turns from."""
    _waiting: dict[FillReader, None] = field(factory=dict, init=False)
    _with_readers: dict[Fill, None] = field(factory=dict, init=False)
    _without_readers: dict[Fill, None] = field(factory=dict, init=False)
    _queued: dict[Fill, None] = field(factory=dict, init=False)
    _open: dict[Fill, None] = field(factory=dict, init=False)
    _closed: bool = field(default=False, init=False)
    _assigning: bool = field(default=False, init=False)
    _resting: dict[Fill, IDelayedCall] = field(factory=dict, init=False)
    _kept_waiting: dict[Fill, IDelayedCall] = field(factory=dict, init=False)
    _loop: LoopingCall = field(init=False)
    _ticked_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(self._tick)
        self._loop.clock = self._clock
        self._own_budget = ConnectionBudget(self.in_all)
        self._own_budget.watch(self._assign)

    # what fills and their readers do

    def enlist(self, fill: Fill) -> None:
        """A fill wants to be worked on."""
        if self._closed:
            return
        self.fills[fill] = None
        self._queued[fill] = None
        if not self._loop.running:
            self._ticked_at = self._clock.seconds()
            self._loop.start(TICK, now=False)
        if fill.readers:
            self._open_one(fill)
        else:
            self._open_queued()

    def wanted(self, fill: Fill) -> None:
        """A fill has readers, or has none any more."""
        if fill not in self.fills:
            return
        if fill in self._queued:
            if fill.readers and not self._closed:
                self._open_one(fill)
        elif fill in self._without_readers or fill in self._with_readers:
            self._without_readers.pop(fill, None)
            self._with_readers.pop(fill, None)
            self.offer(fill)

    def offer(self, fill: Fill) -> None:
        """A fill may have bytes to fetch."""
        if fill in self._open:
            (self._with_readers if fill.readers else self._without_readers).setdefault(fill)
            self._assign()

    def close(self) -> None:
        """Nobody is sent to work any more."""
        self._closed = True
        self._queued.clear()

    def dismiss(self, fill: Fill) -> None:
        """A fill needs nobody any more."""
        for where in (
            self.fills,
            self._queued,
            self._open,
            self._with_readers,
            self._without_readers,
        ):
            where.pop(fill, None)
        for timers in (self._resting, self._kept_waiting):
            if fill in timers:
                timers.pop(fill).cancel()
        if not self.fills and self._loop.running:
            self._loop.stop()
        self._open_queued()

    def reader_waits(self, reader: FillReader) -> None:
        """A reader needs a byte that is not here."""
        self._waiting[reader] = None
        if self._may_begin(reader.fill, self._clock.seconds()):
            self._assign()

    def reader_waits_no_more(self, reader: FillReader) -> None:
        """It has the byte, or has gone."""
        self._waiting.pop(reader, None)

    def share(self) -> int:
        """Received, unwritten bytes that one fill may hold before its connections pause."""
        return max(min(LEAST_HELD, self.held), self.held // max(1, len(self._open)))

    # the work

    def _open_queued(self) -> None:
        """Open what has its turn: all that have readers are open already."""
        while self._queued and len(self._open) < OPEN_AHEAD and not self._closed:
            self._open_one(next(iter(self._queued)))

    def _open_one(self, fill: Fill) -> None:
        self._queued.pop(fill, None)
        self._open[fill] = None
        opened = Deferred.fromCoroutine(fill.open())
        opened.addErrback(self._bug, fill)
        opened.addCallback(self._opened, fill)

    def _opened(self, _: None, fill: Fill) -> None:
        self.offer(fill)

    def _bug(self, failure: Failure, fill: Fill) -> None:
        log.failure("{digest}: opening", failure, digest=str(fill.digest))
        fill.give_up(RegistryError("UNKNOWN", "an internal error; the log has more", 500))

    def _next(self, now: float) -> Optional[tuple[Fill, int, Priority]]:
        for fill in self._with_readers:
            # Until its first connection has an answer no reader of the blob can have another.
            if fill.waiting and not fill.lanes and self._may_begin(fill, now):
                wanted = fill.plan.wanted(next(iter(fill.waiting)).position)
                if wanted is not None:
                    return fill, wanted, Priority.READER
        kept: Counter[ConnectionBudget] = Counter()
        for reader in self._waiting:
            fill = reader.fill
            if self._may_begin(fill, now):
                wanted = fill.plan.wanted(reader.position)
                if wanted is not None:
                    return fill, wanted, Priority.READER
            elif fill.awaits_an_answer:
                kept[self._budget(fill)] += 1
        for queue, priority in (
            (self._with_readers, Priority.AHEAD),
            (self._without_readers, Priority.UPKEEP),
        ):
            if queue is self._without_readers and self._line_is_taken():
                break
            for fill in list(queue):
                budget = self._budget(fill)
                if budget.used + kept[budget] >= budget.most:
                    continue
                if not budget.may_take(fill.source.pace.limit, priority):
                    continue
                del queue[fill]
                front = fill.plan.front() if self._may_begin(fill, now, priority) else None
                if front is not None:
                    queue[fill] = None
                    return fill, front, priority
        return None

    def _budget(self, fill: Fill) -> ConnectionBudget:
        budget = fill.source.pace.budget
        if budget is None:
            return self._own_budget
        budget.watch(self._assign)
        return budget

    def _line_is_taken(self) -> bool:
        """
        Whether a bounded line has nothing left for fills without readers, or these have half of
        all connections: the other half is for readers who come while the line is slow.
        """
        if self.line is None:
            return False
        unread = sum(len(fill.lanes) for fill in self._open if not fill.readers)
        return self.line.is_short or unread >= max(1, self.in_all // 2)

    def _may_begin(self, fill: Fill, now: float, priority: Priority = Priority.READER) -> bool:
        return (
            fill.state is State.FILLING
            and len(fill.lanes) < fill.lane_cap()
            and fill.tries.not_before <= now
            and self._budget(fill).may_take(fill.source.pace.limit, priority)
        )

    def _assign(self) -> None:
        if self._assigning:
            return
        self._assigning = True
        try:
            while (found := self._next(self._clock.seconds())) is not None:
                self._begin(*found)
        finally:
            self._assigning = False

    def _begin(self, fill: Fill, start: int, priority: Priority) -> None:
        pace, cap = fill.source.pace, fill.lane_cap()
        waiting = Counter(each for each, _ in {(r.fill, r.position) for r in self._waiting})
        crowding = max(waiting[fill] / cap, sum(waiting.values()) / self.in_all)
        soon = sum(min(count, self.per_blob) for count in waiting.values())
        if fill.is_kept_waiting() and pace.rate() is None:
            length = pace.length_unheard(fill.plan.free)
        else:
            length = pace.length(fill.plan.free, cap, crowding, at_once=min(soon, self.in_all))
        turn = self._budget(fill).take(pace.limit, priority)
        assert turn is not None
        lane = RangeFetch(fill, fill.plan.claim(start, length), turn, self._clock)
        fill.add_lane(lane)
        if cap == 1 and fill not in self._kept_waiting:
            later = self._clock.callLater(KEPT_WAITING, self._was_kept_waiting, fill)
            self._kept_waiting[fill] = later
        Deferred.fromCoroutine(lane.run()).addBoth(self._lane_ended, lane)

    def _was_kept_waiting(self, fill: Fill) -> None:
        del self._kept_waiting[fill]
        self.offer(fill)

    def _lane_ended(self, result: object, lane: RangeFetch) -> None:
        fill = lane.fill
        fill.lane_ended(lane, result if isinstance(result, Failure) else None)
        lane.turn.release()
        rest = fill.tries.not_before - self._clock.seconds()
        if rest <= 0:
            self.offer(fill)
        elif fill in self._open and fill not in self._resting:
            self._resting[fill] = self._clock.callLater(rest, self._rested, fill)
        self._assign()

    def _rested(self, fill: Fill) -> None:
        del self._resting[fill]
        rest = fill.tries.not_before - self._clock.seconds()
        if rest > 0:
            self._resting[fill] = self._clock.callLater(rest, self._rested, fill)
        else:
            self.offer(fill)

    def _tick(self) -> None:
        now = self._clock.seconds()
        late, self._ticked_at = now - self._ticked_at - TICK, now
        if late > TICK:
            # Nothing was read meanwhile: what has come lies in the sockets.
            for fill in self._open:
                fill.was_held_up(late)
        for fill in list(self._open):
            fill.tick(now)
        if self.line is not None:
            self._assign()

"""
The scheduler of connections to upstream, which all downloads share.

A connection goes to the waiting reader whose turn it is, of any blob, in turn over the clients;
then to work ahead in the blobs that have readers, then in those that have none, in turn over the
blobs: small layers are never stuck behind a large one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable
from math import inf
from typing import Optional

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.fills.download import KEPT_WAITING, Download
from yukari.fills.fetcher import RangeFetch
from yukari.fills.hangs import Hangs
from yukari.fills.turns import Turns
from yukari.fills.window import Window
from yukari.net.budget import ConnectionBudget, Priority
from yukari.net.throttle import Line
from yukari.tasks import surviving

log = Logger()

TICK = 0.5
"""Seconds between two looks at silent connections and hopeless downloads."""
OPEN_AHEAD = 128
"""Fills without readers that may have their spools open at once; half of all that may."""
HELD = 32 * 1024 * 1024
"""Received bytes of all fills together that may wait to be written; beyond it connections pause."""
LEAST_HELD = 512 * 1024
"""Bytes of them that each fill may hold at least."""
CROWD = 128
"""Reading positions of a blob that count: 64 of each of two clients. Past that, others go first."""


@frozen
class Assignment:
    """The next request: for which blob, from which byte, and who needs it."""

    download: Download
    start: int
    priority: Priority
    client: Hashable = None
    """Whose reader it is for, if it is for one."""


@define(eq=False, repr=False)
class FetchScheduler:
    """At most ``in_all`` requests at once, at most ``per_blob`` of them for one blob."""

    _clock: IReactorTime
    per_blob: int
    in_all: int
    held: int = HELD
    line: Optional[Line] = None
    """What bounds how fast blobs come from upstream, if that is bounded."""
    may_fetch_ahead: Callable[[], bool] = lambda: True
    """Whether it is the hour for blobs that nobody waits for."""
    most_open: int = sys.maxsize
    """Fills that may have their spools open at once; a spool takes two descriptors."""
    turns: Turns = field(factory=Turns)
    """The order of the readers of all blobs."""
    window: Window = field(factory=Window)
    """The memory for blobs that no disk keeps."""
    hangs: Hangs = field(init=False)
    """The models that come last."""
    fills: dict[Download, None] = field(factory=dict, init=False)
    """Those that are open or wait to be."""
    _own_budget: ConnectionBudget = field(init=False)
    """What requests to hosts that have none of their own take their turns from."""
    _budgets: set[ConnectionBudget] = field(factory=set, init=False)
    """All that turns have been taken from."""
    _with_readers: dict[Download, None] = field(factory=dict, init=False)
    _without_readers: dict[Download, None] = field(factory=dict, init=False)
    _queued: dict[Download, None] = field(factory=dict, init=False)
    _open: dict[Download, None] = field(factory=dict, init=False)
    _awaited: dict[Download, None] = field(factory=dict, init=False)
    """Those of them that readers wait for, or did when somebody looked last."""
    _publishing: dict[Download, None] = field(factory=dict, init=False)  # only a spool is open
    is_closed: bool = field(default=False, init=False)
    _assigning: bool = field(default=False, init=False)
    _resting: dict[Download, IDelayedCall] = field(factory=dict, init=False)
    _kept_waiting: dict[Download, IDelayedCall] = field(factory=dict, init=False)
    _loop: LoopingCall = field(init=False)
    _ticked_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._loop = LoopingCall(surviving(self._tick, "looking at the connections"))
        self._loop.clock = self._clock
        self.hangs = Hangs(self._clock)
        self._own_budget = ConnectionBudget(self.in_all)
        self._watch(self._own_budget)

    # what downloads do

    def submit(self, download: Download) -> None:
        """A blob wants to be worked on."""
        if self.is_closed:
            return
        self.fills[download] = None
        self._queued[download] = None
        if not self._loop.running:
            self._ticked_at = self._clock.seconds()
            self._loop.start(TICK, now=False)
        if download.is_waited_for:
            self._open_one(download)
        else:
            self._open_queued()

    def readers_changed(self, download: Download) -> None:
        """A blob has readers, or has none any more."""
        if download not in self.fills:
            return
        if download in self._queued:
            if download.is_waited_for and not self.is_closed:
                self._open_one(download)
        elif download in self._open:
            queue = self._with_readers if download.is_read else self._without_readers
            other = self._without_readers if download.is_read else self._with_readers
            if download in other:
                del other[download]
                queue[download] = None
                self._assign()

    def runnable(self, download: Download) -> None:
        """A blob may have bytes to fetch."""
        if download in self._open:
            queue = self._with_readers if download.is_read else self._without_readers
            queue.setdefault(download)
            self._assign()

    def reader_waits(self, download: Download) -> None:
        """A reader needs a byte that is not here."""
        # Nothing else can have changed: a crowd is not to be looked through for each who joins it.
        if download in self._open:
            self._awaited[download] = None
            if self._may_begin(download, Priority.READER):
                self._assign()

    def close(self) -> None:
        """Begin no request any more."""
        self.is_closed = True
        self._queued.clear()

    def remove(self, download: Download, *, has_spool: bool = False) -> None:
        """A blob needs no connection any more, but with ``has_spool`` its spool."""
        for where in (self.fills, self._queued, self._open, self._awaited, self._publishing):
            where.pop(download, None)
        if has_spool:
            self._publishing[download] = None
        for queue in (self._with_readers, self._without_readers):
            queue.pop(download, None)
        for timers in (self._resting, self._kept_waiting):
            if download in timers:
                timers.pop(download).cancel()
        if not self.fills and self._loop.running:
            self._loop.stop()
        self._open_queued()

    def share(self) -> int:
        """Received, unwritten bytes that one fill may hold before its connections pause."""
        return max(min(LEAST_HELD, self.held), self.held // max(1, len(self._open)))

    # opening

    def _open_queued(self) -> None:
        """Open what has its turn: all that have readers are open already."""
        most = min(OPEN_AHEAD, max(1, self.most_open // 2) - len(self._publishing))
        while self._queued and len(self._open) < most and not self.is_closed:
            self._open_one(next(iter(self._queued)))

    @property
    def may_open(self) -> bool:
        """Whether those that are open, or are about to be, are not too many."""
        return len(self._open) + len(self._publishing) <= self.most_open

    def _open_one(self, download: Download) -> None:
        self._queued.pop(download, None)
        self._open[download] = None
        if download.coverage.crowd:
            self._awaited[download] = None
        opened = Deferred.fromCoroutine(download.open())
        opened.addErrback(self._bug, download)
        opened.addCallback(lambda _: self.runnable(download))

    def _bug(self, failure: Failure, download: Download) -> None:
        log.failure("{digest}: given up", failure, digest=str(download.digest))
        download.give_up(RegistryError("UNKNOWN", "an internal error; the log has more", 500))

    # assigning

    def _budget(self, download: Download) -> ConnectionBudget:
        budget = download.source.pace.budget or self._own_budget
        if budget not in self._budgets:
            self._watch(budget)
        return budget

    def _watch(self, budget: ConnectionBudget) -> None:
        self._budgets.add(budget)
        budget.watch(self._assign)

    def _may_begin(self, download: Download, priority: Priority) -> bool:
        return (
            len(download.fetches) < download.fetch_cap()
            and download.tries.not_before <= self._clock.seconds()
            and self._budget(download).may_take(
                download.source.pace.limit, priority, is_first=not download.fetches
            )
        )

    def _next(self) -> Optional[Assignment]:
        """What the next free connection should do, as things stand; None for nothing."""
        ranks = (False, True) if self.hangs else (False,)
        for last in ranks:
            found = self._for_readers(last) or self._ahead(self._with_readers, last)
            if found is not None:
                return found
        found_ahead = (self._ahead(self._without_readers, last) for last in ranks)
        return next((found for found in found_ahead if found is not None), None)

    def _for_readers(self, last: bool) -> Optional[Assignment]:
        """For readers of the blobs that come ``last``, or of the others."""
        first: Optional[Download] = None
        best: tuple[int, ...] = ()
        places = bool(self.hangs) and not last
        for download in self._crowded():
            since = download.coverage.waits_since
            if since is None or self.hangs.are_last(download.models) is not last:
                continue
            # Until its first connection has an answer no reader of the blob can have another.
            crowded = download.coverage.crowd > CROWD
            had = download.gave_way if last else since.had
            rank: tuple[int, ...] = had, bool(download.fetches), crowded, since.number
            if places:
                rank = self.hangs.place(download, rank)
            if first is not None and rank >= best:
                continue
            if not self._may_begin(download, Priority.READER):
                continue
            if download.coverage.next_wanted() is not None:
                first, best = download, rank
        if first is None:
            return None
        start, since = first.coverage.next_wanted(), first.coverage.waits_since
        assert start is not None and since is not None
        self.turns.served(since.client)
        return Assignment(first, start, Priority.READER, since.client)

    def _crowded(self) -> list[Download]:
        """The open blobs that readers wait for: few, where hundreds are fetched ahead."""
        found = [each for each in self._awaited if each.coverage.crowd]
        if len(found) < len(self._awaited):
            self._awaited = dict.fromkeys(found)
        return found

    def _waited_for(self) -> list[Download]:
        """Those of them with a reader that no request serves."""
        return [each for each in self._crowded() if each.coverage.waits_since is not None]

    def _ahead(self, queue: dict[Download, None], last: bool) -> Optional[Assignment]:
        """For the blobs of this queue that come ``last``, or for the others."""
        is_unread = queue is self._without_readers
        if not queue or (is_unread and self._line_is_taken()):
            return None
        kept: Counter[ConnectionBudget] = Counter()
        for download in self._waited_for():
            if download.awaits_an_answer:
                kept[self._budget(download)] += download.coverage.crowd
        priority = Priority.UPKEEP if is_unread else Priority.AHEAD
        is_hour = not is_unread or self.may_fetch_ahead()
        for download in list(queue):
            if not (is_hour or download.is_waited_for):
                continue
            if self.hangs.are_last(download.models) is not last:
                continue
            budget = self._budget(download)
            if budget.used + kept[budget] >= budget.most:
                continue
            if not budget.may_take(download.source.pace.limit, priority):
                continue
            del queue[download]
            front = download.front() if self._may_begin(download, priority) else None
            if front is not None:
                queue[download] = None
                return Assignment(download, front, priority)
        return None

    def _line_is_taken(self) -> bool:
        """
        Whether a bounded line has nothing left for blobs without readers, or these have half of all
        connections: the other half is for readers who come while the line is slow.
        """
        if self.line is None or self.line.rate == inf:
            return False
        unread = sum(len(each.fetches) for each in self._open if not each.is_read)
        return self.line.is_short or unread >= max(1, self.in_all // 2)

    def _assign(self) -> None:
        if self._assigning or self.is_closed:
            return
        if all(budget.used >= budget.most for budget in self._budgets):
            return
        self._assigning = True
        try:
            while (assignment := self._next()) is not None:
                self._begin(assignment)
        finally:
            self._assigning = False

    def _begin(self, assignment: Assignment) -> None:
        download = assignment.download
        pace = download.source.pace
        crowded = self.hangs.rivals(download, self._crowded())
        crowds = {each: min(each.coverage.crowd, CROWD) for each in crowded}
        crowd = crowds.get(download, 0)
        cap = pace.limit.at_most(download.fetch_cap(), crowd)
        in_all = pace.limit.at_most(self.in_all, sum(crowds.values()))
        most = inf
        if assignment.priority is Priority.READER:
            most = self.turns.crowd(assignment.client)
        crowding = max(min(most, crowd) / cap, min(most, sum(crowds.values())) / in_all)
        soon = sum(min(crowd, self.per_blob) for crowd in crowds.values())
        claim = download.claim(assignment.start, pace, crowding, min(soon, in_all))
        if claim is None:
            return
        is_first = not download.fetches
        turn = self._budget(download).take(pace.limit, assignment.priority, is_first=is_first)
        assert turn is not None
        fetch = RangeFetch(download, claim, turn, self._clock)
        download.add_fetch(fetch)
        if download.fetch_cap() == 1 and download not in self._kept_waiting:
            later = self._clock.callLater(KEPT_WAITING, self._was_kept_waiting, download)
            self._kept_waiting[download] = later
        ended = Deferred.fromCoroutine(fetch.run())
        ended.addBoth(self._fetch_ended, download, fetch)
        ended.addErrback(self._bug, download)

    def _was_kept_waiting(self, download: Download) -> None:
        del self._kept_waiting[download]
        self.runnable(download)

    def _fetch_ended(self, result: object, download: Download, fetch: RangeFetch) -> None:
        try:
            download.fetch_ended(fetch, result if isinstance(result, Failure) else None)
        finally:
            fetch.turn.release()  # Others have it now, if they can use it.
        if fetch.received:
            self._wake_one(download)
        self._rest(download)

    def _rest(self, download: Download) -> None:
        """Begin more of a blob's requests, or do so once it has rested."""
        rest = download.tries.not_before - self._clock.seconds()
        if rest <= 0:
            self.runnable(download)
        elif download in self._open and download not in self._resting:
            self._resting[download] = self._clock.callLater(rest, self._rested, download)

    def _wake_one(self, ended: Download) -> None:
        """A host has sent what it was asked for: now it may bear the request that it refused."""
        for other, timer in list(self._resting.items()):
            if other.source.pace.limit is ended.source.pace.limit and other.tries.end_rest():
                timer.cancel()
                self._rested(other)
                break

    def _rested(self, download: Download) -> None:
        del self._resting[download]
        self._rest(download)

    # time

    def _tick(self) -> None:
        now = self._clock.seconds()
        late, self._ticked_at = now - self._ticked_at - TICK, now
        if late > TICK:
            # Nothing was read meanwhile: what has come lies in the sockets.
            for download in self._open:
                download.was_held_up(late)
        for download in list(self._open):
            try:
                download.tick(now)
            except Exception:
                self._bug(Failure(), download)
        self.hangs.make_way(self._waited_for(), list(self._open), self._budget)
        self._assign()

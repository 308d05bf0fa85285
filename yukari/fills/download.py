"""
The requests for one blob: how many at once, what becomes of those that fail, and when to give up.

A subclass says where the bytes go: `yukari.fills.fill` keeps them on the disk,
`yukari.fills.memory` for a while in memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Optional

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.fills.coverage import Coverage
from yukari.fills.fetcher import RangeFetch
from yukari.fills.hangs import Trickle, brings_much, goes_on_elsewhere, in_vain, slow_requests
from yukari.fills.lateness import Waits, drop_starved, lasting
from yukari.fills.plan import Claim
from yukari.fills.ports import Scheduler
from yukari.fills.retries import PATIENCE, RetryState, is_crowded_out
from yukari.fills.trial import Trial
from yukari.metrics import Metrics
from yukari.names import Digest
from yukari.sources.base import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.sources.pace import MUCH, STOCK_PARTS, HostPace
from yukari.spans import Span
from yukari.tasks import Waiters

log = Logger()

KEPT_WAITING = 0.4
"""
Seconds without an answer after which a host is taken to be slow to answer, and not merely to be far
away: connecting to two hosts over TLS takes ten round trips.
"""


@define(eq=False, kw_only=True, repr=False)
class Download:
    """One blob of ``size`` bytes on its way from ``source``; ``scheduler`` begins its requests."""

    digest: Digest
    size: int
    source: BlobSource
    scheduler: Scheduler[Download]
    _clock: IReactorTime
    _metrics: Metrics = field(factory=Metrics)
    coverage: Coverage = field(init=False)
    tries: RetryState = field(factory=RetryState, init=False)
    fetches: dict[RangeFetch, float] = field(factory=dict, init=False)
    """The requests under way, each with when it began."""
    streaming: bool = field(default=False, init=False)
    """Upstream ignores Range: one connection brings everything."""
    _regrouped: Optional[bool] = field(default=None, init=False)
    """Whether its requests have made way for one from the front; False while they do so."""
    _halved: Optional[Span] = field(default=None, init=False)
    """What one of them has made free for the next."""
    _waits: Waits = field(factory=Waits, init=False)
    _trial: Trial = field(factory=Trial, init=False)
    is_resumed: bool = field(default=False, init=False)
    """Whether some of the bytes came before this attempt, from a source that is not known."""
    kept: int = field(default=0, init=False)
    """Bytes in the spool that was closed while it rests."""
    upstream_bytes: int = field(default=0, init=False)
    first_word: Waiters = field(factory=Waiters, init=False)
    """Fires when bytes come, at first or after a failure, or upstream asks to wait too often."""
    models: dict[Hashable, None] = field(factory=dict, init=False)
    """Those that are known to have the blob."""
    gave_way: int = field(default=0, init=False)
    """How often its last request was dropped for other blobs' readers, since one was answered."""
    trickle: Trickle = field(factory=Trickle, init=False)
    retries: int = field(default=0, init=False)
    peak_fetches: int = field(default=0, init=False)
    _request_seconds: float = field(default=0.0, init=False)
    """Seconds of all requests together, as far as ticks have counted them."""
    _ticked_at: float = field(init=False)
    _pulls: int = field(default=0, init=False)
    """How many pulls of admins wait for the whole blob."""
    _cap: int = field(init=False)
    """How many requests at once it may have, of those the scheduler allows for one blob."""

    def __attrs_post_init__(self) -> None:
        self._cap = self.scheduler.per_blob
        self._ticked_at = self._clock.seconds()
        self.coverage = self._new_coverage()

    # for subclasses

    def _new_coverage(self) -> Coverage:
        raise NotImplementedError

    @property
    def takes_bytes(self) -> bool:
        """Whether bytes are wanted at all just now."""
        raise NotImplementedError

    @property
    def is_full(self) -> bool:
        """Whether connections must pause until bytes have left the memory."""
        raise NotImplementedError

    def front(self) -> Optional[int]:
        """Return the byte that work ahead would fetch next; None for no such work."""
        raise NotImplementedError

    def _keep(self, offset: int, data: bytes) -> None:
        """Take new bytes of the blob, which belong at ``offset``."""
        raise NotImplementedError

    def give_up(self, error: RegistryError) -> None:
        """Stop trying for now; readers get ``error``."""
        raise NotImplementedError

    async def open(self) -> None:
        """Get ready to take bytes; the scheduler calls this when it is the blob's turn."""
        raise NotImplementedError

    # for the scheduler

    def fetch_cap(self) -> int:
        """Return how many requests it may have just now."""
        if not self.takes_bytes or self.streaming or self._regrouped is False:
            return 0
        if self.source.ranges and not (self.is_unproven or self.tries.are_failing):
            now = self._clock.seconds()
            return self._trial.cap(self.fetches, self.coverage, self.source.pace, self._cap, now)
        return min(self._cap, STOCK_PARTS) if self.is_kept_waiting() else 1

    @property
    def is_unproven(self) -> bool:
        """
        Whether nothing tells how soon bytes are to be expected: none of the blob have come, nor of
        another as large. Some hosts scan a file before they send its body, or before its header.
        """
        pace = self.source.pace
        if self.tries.have_brought or pace.has_brought_much:
            return False
        return self.size >= MUCH or not pace.has_sent

    def is_kept_waiting(self) -> bool:
        """
        Whether its first request has no body for so long that it is asked for in large parts
        meanwhile, as a stock client does.
        """
        if self.tries.are_failing or not self.fetches:
            return False
        if self.source.ranges and not self.is_unproven:
            return False
        pace = self.source.pace
        if pace.round_trip is not None and not pace.ranges:
            return False  # It ignores Range: each of its replies would be the whole blob.
        first, began = next(iter(self.fetches.items()))
        return not first.received and self._clock.seconds() - began >= KEPT_WAITING

    @property
    def awaits_an_answer(self) -> bool:
        """Whether it can use more connections once the one at work has its answer."""
        if not self.fetches or self.tries.are_failing:
            return False
        return self.fetch_cap() == 1 < self._cap

    def length(self, pace: HostPace, crowding: float, at_once: int) -> int:
        """Return how many bytes its next request should ask for."""
        plan, cap = self.coverage.plan, pace.limit.at_most(self.fetch_cap(), self.coverage.crowd)
        if self._trial.is_one_piece(self.coverage, pace):
            return pace.length_unheard(plan.free, 1)
        if self.is_kept_waiting() and not pace.has_brought_much:
            # A host that is new gets few requests at first, and soon more.
            most = self.fetch_cap() if pace.limit.useful.is_new else cap
            parts = min(most, pace.limit.bears) - len(self.fetches)
            return pace.length_unheard(plan.free, max(1, parts))
        under_way = plan.under_way if pace.active <= len(self.fetches) else None
        return pace.length(plan.free, cap, crowding, at_once, under_way, is_read=self.is_read)

    def claim(self, start: int, pace: HostPace, crowding: float, at_once: int) -> Optional[Claim]:
        """Return the bytes around ``start`` that its next request asks for; None for none now."""
        half, self._halved = self._halved, None
        if half is None or half.start != start:
            half = Span(start, start + self.length(pace, crowding, at_once))
        return self.coverage.plan.claim_around(start, pace.blocks.around(half))

    def _release(self, claim: Claim) -> None:
        """Note that a claim's request has ended."""
        self.coverage.released(claim)

    def add_fetch(self, fetch: RangeFetch) -> None:
        """Note that a request begins."""
        now = self._clock.seconds()
        self.tries.begin(now)
        self.fetches[fetch] = now
        self.peak_fetches = max(self.peak_fetches, len(self.fetches))
        if self.is_full:
            fetch.pause()

    def fetch_ended(self, fetch: RangeFetch, failure: Optional[Failure]) -> None:
        """Note that a request ended, well or not."""
        began = self.fetches.pop(fetch, 0.0)
        self._release(fetch.claim)
        if self.streaming and not self.fetches:
            self.streaming = False
        if not self.takes_bytes or (failure is not None and fetch.was_too_slow):
            return
        if failure is None:
            self.tries.succeeded()
            self._cap = min(self.scheduler.per_blob, self._cap + 1)
            return
        error = failure.value
        if isinstance(error, SourceRefused):
            if error.error.code == "SIZE_INVALID" and self.tries.have_brought:
                # The size was right until now: what came is a portal's page, or an error as 200.
                self._failed(SourceFailed(str(error)), fetch, began)
                return
            self.give_up(error.error)
        elif isinstance(error, SourceFailed):
            self._failed(error, fetch, began)
        else:
            log.failure("{digest}: a connection ended", failure, digest=str(self.digest))
            self._failed(SourceFailed("an internal error"), fetch, began)

    def _failed(self, error: SourceFailed, fetch: RangeFetch, began: float) -> None:
        self.retries += 1
        self._metrics.retried()
        log.debug("{digest}: {error}", digest=str(self.digest), error=str(error))
        now = self._clock.seconds()
        if self.fetches and not fetch.received:
            self._trial.failed(self.coverage, self.source.pace, now)
        crowded = is_crowded_out(self, began, self.scheduler.fills)
        delay = self.tries.failed(
            error, now, began=began, brought=fetch.new, crowded=crowded, answered=fetch.answered
        )
        if (delay > PATIENCE or self.tries.keep_failing) and goes_on_elsewhere(self):
            return
        if delay > PATIENCE:
            self.give_up(self.tries.reason())
        elif error.retry_after and self.tries.keep_failing:
            self.first_word.fire()

    def tick(self, now: float) -> None:
        """Twice a second: drop silent connections, give up what is hopeless."""
        if not self.takes_bytes:
            return
        silent = self._waits.silent(self, now)
        if silent:
            self.tries.fell_silent(silent)
            if len(silent) == len(self.fetches):
                self._gives_way(now - min(fetch.began_at for fetch in silent))
            self._waits.drop_silent(self, silent, now)
        self._waits.drop_lost(self, now)
        self._trial.tick(self.fetches, self.coverage, self.source.pace, now)
        self._request_seconds += len(self.fetches) * (now - self._ticked_at)
        self._ticked_at = now
        drop_starved(self.fetches, now, self._request_seconds, self.upstream_bytes)
        if lasting(self.fetches, self.source.pace, now) is not None:
            self.scheduler.runnable(self)
        error = self.tries.reason() if self.tries.are_hopeless(now) else in_vain(self, now)
        if error is not None and not goes_on_elsewhere(self):
            self.give_up(error)

    def drop_slow_fetches(self, now: float, *, last: bool, within: Optional[float]) -> bool:
        """
        Make way for another blob's reader: drop half of the requests that bring next to nothing,
        slowest first, and make do with fewer. ``last`` drops the only one, too; `slow_requests`
        says what ``within`` is. Return whether any was dropped.
        """
        slow = slow_requests(self, now, within=within)
        if not slow:
            return False
        self._cap = max(1, min(self._cap, len(self.fetches) - (len(slow) + 1) // 2))
        kept = self._cap
        if last and len(self.fetches) == 1:
            self._gives_way(now - slow[0].began_at)
            kept = 0
        dropped = slow[: max(0, len(self.fetches) - kept)]
        for fetch in dropped:
            fetch.drop("too slow while others wait", slow=True)
        return bool(dropped)

    def _gives_way(self, seconds: float) -> None:
        """All of its requests have brought next to nothing: its models come last for a while."""
        self.gave_way += 1
        self.scheduler.hangs.gave_way(self.models, seconds)

    def was_held_up(self, seconds: float) -> None:
        """Do not count as silence the ``seconds`` in which this process did nothing."""
        now = self._clock.seconds()
        for fetch in self.fetches:
            fetch.heard_at = min(now, fetch.heard_at + seconds)

    # for requests

    @property
    def is_read(self) -> bool:
        """Whether anybody reads the blob."""
        return bool(self.coverage.readers)

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody reads the blob, or has asked for it to be stored now."""
        return self.is_read or self._pulls > 0

    @contextmanager
    def pulled(self) -> Iterator[None]:
        """Fetch the blob at any hour while the block runs."""
        self._pulls += 1
        self.scheduler.readers_changed(self)
        self.scheduler.runnable(self)
        try:
            yield
        finally:
            self._pulls -= 1

    def answered(self, fetch: RangeFetch, answer: Answer) -> None:
        """A reply's header is here."""
        if answer.asked:
            self.scheduler.runnable(self)
            return
        answer.pace.ranges = False
        # It comes from its first byte: what was asked for is nobody's.
        self._release(fetch.claim)
        if self.streaming:
            fetch.drop("one connection brings it all")
        self.streaming = True

    def received(self, fetch: RangeFetch, offset: int, data: bytes, *, asked: bool) -> int:
        """Bytes of the blob came in; returns how many of them were new."""
        self.upstream_bytes += len(data)
        if not self.takes_bytes:
            return 0
        new, plan = 0, self.coverage.plan
        if asked:
            span = plan.arrived(fetch.claim, len(data))
            if span is not None:
                new = len(span)
                self._keep(span.start, data[:new] if new < len(data) else data)
        else:
            for span in plan.admit(offset, offset + len(data)):
                new += len(span)
                self._keep(span.start, data[span.start - offset : span.end - offset])
        if new and self.gave_way and brings_much(fetch):
            self.gave_way = 0
            self.scheduler.hangs.brought(self.models)
        if new and self.tries.came(self._clock.seconds(), of=fetch.received):
            self._trial.heard(fetch, self.coverage, self.source.pace)
            self.tries.host_got_fewer(self.source.pace.limit.lowered_at)
            self.coverage.wake_all()
            self.first_word.fire()
            self.scheduler.runnable(self)
        elif fetch.received == len(data):
            self._trial.heard(fetch, self.coverage, self.source.pace)
            self.scheduler.runnable(self)  # The host may bear more now.
        if self.source.pace.in_order.is_needed and self._regrouped is None:
            self._regroup()
        if self.is_full:
            for other in list(self.fetches):
                other.pause()
        return new

    def _regroup(self) -> None:
        """Take back the requests without an answer: one for all their bytes is no slower."""
        self._regrouped = False
        for fetch in [each for each in self.fetches if not each.answered]:
            fetch.drop("all is asked for in one piece", slow=True)
        self._regrouped = True
        self.scheduler.runnable(self)

    def _half(self) -> Optional[int]:
        """Free half of a request that goes on for long; return where that begins, None for none."""
        found = lasting(self.fetches, self.source.pace, self._clock.seconds())
        self._halved = None if found is None else self.coverage.plan.halve(found.claim)
        return None if self._halved is None else self._halved.start

    # for the owner

    def drop_fetches(self, why: str) -> None:
        """Close all connections."""
        for fetch in list(self.fetches):
            fetch.drop(why)

    def resume_fetches(self) -> None:
        """There may be room again."""
        if not self.is_full:
            for fetch in list(self.fetches):
                fetch.resume()

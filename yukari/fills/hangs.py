"""
Models whose blobs bring next to nothing: while others' readers wait they give way, and then come
last for a while.

Hosts that bear one request at a time, or few, would be held by the many layers of one model of
which nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Optional, Protocol, TypeVar

from attrs import define, field
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from yukari.errors import RegistryError, upstream_silent
from yukari.fills.fetcher import Marks, RangeFetch
from yukari.fills.retries import Fetched
from yukari.net.budget import ConnectionBudget, HostLimit, Priority

FLOOR = 1024
"""Bytes a second that a connection must bring while another blob's reader waits for a turn."""
FLOOR_SECONDS = 5.0
"""
Seconds over which that is measured, and that a request of which nothing has come has at first;
twice as many each time that its blob has given way, up to what its host may take to answer, unless
blobs wait that have not given way.
"""
LEAST_SECONDS = 1.0
LEAST_DRIPPING = 2.5
"""
Seconds that a request has at least while such blobs wait: one of which nothing has come, and one of
which little has. Down to that, its time is halved for each model of its host that has given way.
"""
IN_VAIN = 30.0
"""
Seconds after which the readers of a blob are told that nothing comes, if it has given way and waits
again: Ollama waits as long for a reply.
"""
ELSEWHERE_AFTER = 5.0
"""Seconds without a byte of a blob after which it is asked for at another host that may have it."""
TRICKLE = 64
TRICKLE_SECONDS = 30.0
"""
Bytes a second below which a blob is given up, and the seconds over which they are measured. No line
is that slow, and a reader that waits for the verdict would get nothing for hours.
"""
SLOW = 16 * 1024
LASTS = 60.0
"""
Bytes a second below which a request gives way, too, if the rest of it would last longer than so
many seconds: its host was quick when it was asked for so much. What has come of it is kept.
"""
USUAL = 3
"""As a factor of the time that its host usually takes to answer, what it has at least."""
RESTS = 10.0
RESTS_LONGEST = 60.0
"""
Seconds for which a model comes last, doubling each time from the first to the longest. Whenever one
comes last all that ever did come last for the first time: else each of many would have its turn
before a healthy one.
"""
MAX_MODELS = 1000
"""Models that are remembered."""


class Blob(Fetched, Protocol):
    """A download, as far as it may give way to another."""

    models: dict[Hashable, None]
    gave_way: int
    upstream_bytes: int
    trickle: Trickle

    @property
    def is_unproven(self) -> bool: ...

    @property
    def is_read(self) -> bool: ...

    def fetch_cap(self) -> int: ...

    def drop_slow_fetches(self, now: float, *, last: bool, within: Optional[float]) -> bool: ...


B = TypeVar("B", bound=Blob)


def slow_requests(blob: Blob, now: float, *, within: Optional[float]) -> list[RangeFetch]:
    """
    Return a blob's requests that bring next to nothing, the slowest first. If ``within`` is given,
    one that has brought little has that many seconds, however often its blob has given way.
    """
    rates = {fetch: _rate_of_late(blob, fetch, now, within) for fetch in blob.fetches}
    slow = {
        fetch: rate
        for fetch, rate in rates.items()
        if rate is not None and (rate < FLOOR or _lasts(blob, fetch, rate))
    }
    return sorted(slow, key=slow.__getitem__)


def _lasts(blob: Blob, fetch: RangeFetch, rate: float) -> bool:
    """Whether a request would last far longer than it was made for; see `SLOW`."""
    left = fetch.claim.end - fetch.claim.cursor
    return blob.source.ranges and rate < SLOW and left > LASTS * rate


def _rate_of_late(
    blob: Blob, fetch: RangeFetch, now: float, within: Optional[float]
) -> Optional[float]:
    """Return bytes a second of late; None if it is too early to say."""
    pace, floor = blob.source.pace, FLOOR_SECONDS
    if within is not None and not is_proven(blob):
        floor = max(LEAST_DRIPPING, within)
    rate = fetch.rate_of_late(now, floor)
    if fetch.received or fetch.paused or fetch.held:
        return rate
    if within is None:
        within = FLOOR_SECONDS * 2.0 ** min(blob.gave_way, 10)
    least = max(within, USUAL * (pace.round_trip or 0.0))
    seconds = min(least, pace.patience if blob.is_unproven else pace.answers_within)
    return 0.0 if now - fetch.began_at >= seconds else None


def brings_much(fetch: RangeFetch) -> bool:
    """Whether a request has brought more than one that drips, or all that it was to bring."""
    whole = fetch.claim.cursor == fetch.claim.end
    return whole or fetch.received >= FLOOR * FLOOR_SECONDS


def is_proven(blob: Blob) -> bool:
    """Whether much of a blob has come, and it has not given way since."""
    return blob.upstream_bytes >= FLOOR * FLOOR_SECONDS and not blob.gave_way


class Trickle:
    """How much of one blob comes, while requests for it may bring all that they can."""

    _marks: Optional[Marks] = None
    _since: Optional[float] = None
    """When the first of the requests that are counted began."""
    _came = 0
    _came_at = 0.0
    """How many bytes have come, and when the last of them did."""
    _gives_way_since: Optional[float] = None
    _waits_since: Optional[float] = None
    """When it began to wait for a turn, or had the last one."""

    def is_all(self, blob: Blob, now: float) -> bool:
        """Whether something has come of late, but less than `TRICKLE`."""
        fetches, tries = list(blob.fetches), blob.tries
        waits = not fetches and tries.not_before <= now
        if not waits:
            self._waits_since = now
        if waits or any(each.paused or each.held for each in fetches):
            self._marks = None
            return False
        if self._marks is None or self._since != tries.tried_at:
            self._marks, self._since = Marks(now, blob.upstream_bytes), tries.tried_at
            self._came_at = now
        if self._came != blob.upstream_bytes:
            self._came, self._came_at = blob.upstream_bytes, now
        passed = self._marks.since(TRICKLE_SECONDS, now, blob.upstream_bytes)
        return passed is not None and 0 < passed[1] < TRICKLE * passed[0]

    def has_stopped(self, now: float) -> bool:
        """Whether it should be coming, and nothing has for `ELSEWHERE_AFTER`; after `is_all`."""
        return self._marks is not None and now - self._came_at >= ELSEWHERE_AFTER

    def is_in_vain(self, blob: Blob, now: float) -> bool:
        """
        Whether its readers wait in vain: it has given way and had no turn for `IN_VAIN`, or it has
        given way (twice if something had come), waits again, and began at least `IN_VAIN` ago.
        """
        if self._waits_since is None:
            self._waits_since = now
        if blob.gave_way and blob.is_read and now - self._waits_since >= IN_VAIN:
            self._waits_since = None
            return True
        began = blob.tries.tried_at
        if not blob.gave_way or began is None:
            self._gives_way_since = None
            return False
        if self._gives_way_since is None:
            self._gives_way_since = now
        if blob.tries.have_brought:
            began = max(began, self._gives_way_since)
        times = 2 if blob.tries.have_brought else 1
        return not blob.fetches and blob.gave_way >= times and now - began >= IN_VAIN


def in_vain(blob: Blob, now: float) -> Optional[RegistryError]:
    """
    Return why a blob that neither fails nor is silent is to be given up; None if it goes on. If
    nothing comes from its host, it goes on at another.
    """
    if blob.trickle.is_all(blob, now):
        return upstream_silent("upstream sends next to nothing of this blob")
    if blob.trickle.has_stopped(now):
        goes_on_elsewhere(blob, soon=True)
    if blob.trickle.is_in_vain(blob, now):
        return upstream_silent("upstream does not answer, and other blobs wait for it")
    return None


def goes_on_elsewhere(blob: Blob, *, soon: bool = False) -> bool:
    """
    Ask for a blob at another place from now on, if there is one, and return whether there is;
    ``soon`` means only one with another host.
    """
    if not blob.source.move_on(soon=soon):
        return False
    for fetch in list(blob.fetches):
        fetch.drop("another place is asked", slow=True)
    blob.tries.begin_elsewhere()
    return True


@define(eq=False, repr=False)
class Hangs:
    """Which models come last. True if any is remembered."""

    _clock: IReactorTime
    _of: LRUCache[Hashable, tuple[int, float]] = field(
        factory=lambda: LRUCache(MAX_MODELS), init=False
    )
    """How often each came last, and until when."""
    _all_until: float = field(default=0.0, init=False)
    """Until when all of them come last."""
    _proven_until: float = field(default=0.0, init=False)
    """Until when blobs of which much has come are first."""
    _newest: bool = field(default=False, init=False)
    """Whether the newest of the other blobs comes next until then, not the oldest."""

    def __bool__(self) -> bool:
        return bool(self._of)

    def gave_way(self, models: Iterable[Hashable], seconds: float = 0.0) -> None:
        """A blob of these models had its time, so many ``seconds``, and brought next to nothing."""
        now = self._clock.seconds()
        self._proven_until, self._newest = now + seconds, not self._newest
        for model in models:
            count, until = self._of.get(model, (0, now))
            if until <= now:  # Its other blobs had theirs before they came last.
                rests = min(RESTS_LONGEST, RESTS * 2.0 ** min(count, 10))
                self._of[model] = count + 1, now + rests
                self._all_until = now + RESTS

    def brought(self, models: Iterable[Hashable]) -> None:
        """A blob that had given way has brought something."""
        for model in models:
            self._of.pop(model, None)

    def are_last(self, models: Iterable[Hashable]) -> bool:
        """Whether all of a blob's models come last now."""
        if not self._of:
            return False
        now = self._clock.seconds()
        return all(
            each in self._of and max(self._of[each][1], self._all_until) > now for each in models
        )

    def place(self, blob: Blob, rank: tuple[int, ...]) -> tuple[int, ...]:
        """
        Return the place of a blob's reader from its usual ``rank``, which ends with its number.

        After a request in vain, blobs that bring much come first for as long as it lasted. The
        newest of the others comes next every second time, so that a healthy one need not wait until
        each blob of which nothing comes has had its time.
        """
        if self._clock.seconds() >= self._proven_until or is_proven(blob):
            return (False, *rank)
        return (True, -rank[-1]) if self._newest else (True, *rank)

    def rivals(self, blob: B, blobs: list[B]) -> list[B]:
        """Return those of the ``blobs`` that may have turns while this one has some."""
        if not self._of or self.are_last(blob.models):
            return blobs
        blobs = [each for each in blobs if not self.are_last(each.models)]
        if self._clock.seconds() < self._proven_until and is_proven(blob):
            blobs = [each for each in blobs if is_proven(each)]
        return blobs

    def make_way(
        self,
        waiting: Iterable[B],
        others: Iterable[B],
        budget_of: Callable[[B], ConnectionBudget],
    ) -> None:
        """
        If readers of the ``waiting`` blobs find no turn free, take some from ``others`` that bring
        next to nothing: first from those that nobody reads, and of the same host if that bears no
        more. For one reader at a time, in each budget and of each such host.
        """
        now, seen = self._clock.seconds(), set[tuple[ConnectionBudget, Optional[HostLimit]]]()
        for blob in sorted(waiting, key=lambda each: self.are_last(each.models)):
            budget, limit = budget_of(blob), blob.source.pace.limit
            full = None if limit.has_room(Priority.READER) else limit
            if blob.fetches or blob.fetch_cap() == 0 or (budget, full) in seen:
                continue
            if blob.tries.not_before > now:
                continue
            if budget.may_take(limit, Priority.READER, is_first=True):
                continue
            is_last = self.are_last(blob.models)
            busy = [
                each
                for each in others
                if each.fetches
                and budget_of(each) is budget
                and (full is None or each.source.pace.limit is full)
                and (not is_last or self.are_last(each.models))
            ]
            busy.sort(key=lambda each: each.is_read)
            within = None if is_last else self._time(blob, others)
            for last in (False, True):
                if any(each.drop_slow_fetches(now, last=last, within=within) for each in busy):
                    break
            seen.add((budget, full))

    def _time(self, blob: B, others: Iterable[B]) -> float:
        """Return the seconds that a request has while this blob, which is not last, waits."""
        limit = blob.source.pace.limit
        silent = {
            model
            for each in others
            if each.gave_way and each.source.pace.limit is limit
            for model in each.models
        }
        return max(LEAST_SECONDS, FLOOR_SECONDS / 2.0 ** min(len(silent), 10))

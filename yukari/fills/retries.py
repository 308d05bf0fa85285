"""
The outcome of a fill's requests: when the next may begin, how many at once, when all is hopeless.

Without a clock of its own: all times are seconds of the caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Optional, Protocol

from attrs import define, field

from yukari.errors import RegistryError, too_many, upstream_silent, upstream_unreachable
from yukari.fills.fetcher import RangeFetch
from yukari.sources.base import BlobSource, SourceFailed
from yukari.tasks import backoff, jittered

SILENCE_WAITED_FOR = 3.0
SILENCE = 10.0
"""
Seconds without a byte after which a connection is dropped: if a reader waits for one of its bytes,
and if none does; doubled each time.
"""
PATIENCE_AT_FIRST = 10.0
PATIENCE = 60.0
"""
Seconds of failures without a byte after which a fill that never had one, or had some, gives up for
now. One that never had one has the longer time while its host is busy with other blobs.
"""
TOLD_AFTER = 3
"""Failures in a row, without a byte before, after which clients get the reason."""
TOLD_OF_WAIT = 20.0
"""
Seconds that upstream may ask to wait before a first byte without clients being told: they give a
request up after 30 s, and show no reason.
"""
HURRIED_AFTER = 1.0
"""Seconds after a failure before a new request of a client shortens the backoff."""
ENOUGH = 64 * 1024
"""Bytes that a request must have brought before it failed for the next to need no pause."""
USEFUL = 1024
USELESS = 30.0
"""
Bytes that a reply must bring before it ends early, else it is useless; and the seconds after which
a fill gives up that had some bytes, if all its replies have been useless: that is no outage.
"""
BACKOFF = 0.25
LONGEST_BACKOFF = 30.0
"""Seconds until the next request, doubling from the first failure to the longest wait."""


@define(eq=False, repr=False)
class RetryState:
    """The requests of one fill."""

    not_before: float = field(default=0.0, init=False)
    """When the next request may begin."""
    asked_to_wait_until: float = field(default=0.0, init=False)
    """When upstream may be asked again, by its Retry-After."""
    _last_failure: SourceFailed = field(factory=lambda: SourceFailed("not tried"), init=False)
    _failures: int = field(default=0, init=False)
    _crowded_out: int = field(default=0, init=False)
    """Failures in a row that do not count, for the host was busy with other blobs."""
    _failed_at: float = field(default=-1.0, init=False)
    silences: int = field(default=0, init=False)
    """How often some fell silent since something came."""
    _stalls: int = field(default=0, init=False)
    """Failures in the middle of a reply."""
    _useless_since: Optional[float] = field(default=None, init=False)
    """Since when all replies have been useless; see `USEFUL`."""
    _progress_at: Optional[float] = field(default=None, init=False)
    tried_at: Optional[float] = field(default=None, init=False)
    """When the first request began."""

    @property
    def are_failing(self) -> bool:
        """Whether requests have failed and no byte has arrived since."""
        return self._failures + self._crowded_out > 0

    @property
    def keep_failing(self) -> bool:
        """
        Whether no byte has arrived and none is likely to in time: so many requests have failed, or
        upstream asks to wait longer than clients do.
        """
        asked_to_wait = self._failures > 0 and (self._last_failure.retry_after or 0) > TOLD_OF_WAIT
        return self._progress_at is None and (self._failures >= TOLD_AFTER or asked_to_wait)

    @property
    def are_bringing(self) -> bool:
        """Whether bytes are arriving."""
        return self._progress_at is not None and not self.are_failing

    @property
    def have_brought(self) -> bool:
        """Whether any byte has ever arrived."""
        return self._progress_at is not None

    def is_waiting(self, began: float, before: float) -> bool:
        """
        Whether a request that ``began`` then began ``before`` that time, and is not one more try
        after one has failed.
        """
        return began <= before and (not self.are_failing or began < self._failed_at)

    def is_asked_to_wait(self, now: float) -> bool:
        """Whether upstream has asked to wait before it sends a first byte, for longer than now."""
        return self._progress_at is None and now < self.asked_to_wait_until

    # what happens

    def begin_anew(self) -> None:
        """The blob is fetched again, from its first byte or after it was given up."""
        self._failures = self._crowded_out = self.silences = self._stalls = 0
        self._progress_at = self.tried_at = self._useless_since = None
        self.not_before = self.asked_to_wait_until

    def begin_elsewhere(self) -> None:
        """Forget how the last place failed, and its wish to wait: another is asked for the blob."""
        self.asked_to_wait_until = 0.0
        self.begin_anew()

    def hurry(self, now: float) -> bool:
        """Shorten the backoff for somebody who asks; return whether a request may begin now."""
        if not self.keep_failing or now < self._failed_at + HURRIED_AFTER:
            return False
        self.not_before = self.asked_to_wait_until
        return self.not_before <= now

    def end_rest(self) -> bool:
        """If the host was only busy with other blobs, rest no longer; return whether that is so."""
        was_crowded = self._crowded_out > 0 and not self._failures
        if was_crowded:
            self.not_before = self.asked_to_wait_until
        return was_crowded

    def begin(self, now: float) -> None:
        """Note that a request begins."""
        if self.tried_at is None:
            self.tried_at = now

    def came(self, now: float, *, of: int = USEFUL) -> bool:
        """
        Note new bytes; ``of`` is how many their reply has brought so far. Return whether they are
        the first, or the first after a failure.
        """
        if of >= USEFUL:
            self._useless_since = None
        news = not self.are_bringing
        self._progress_at = now
        self._failures = self._crowded_out = self.silences = self._stalls = 0
        return news

    def host_got_fewer(self, at: float) -> None:
        """
        Note that the host, which sends bytes, gets fewer requests since ``at``: that, and no pause,
        is the consequence of failures before.
        """
        if at >= self._failed_at:
            self.not_before = self.asked_to_wait_until

    def succeeded(self) -> None:
        """Note that a request has brought all its bytes."""
        self._useless_since = None
        self._failures = self._crowded_out = 0

    def failed(
        self,
        error: SourceFailed,
        now: float,
        *,
        began: float,
        brought: int,
        crowded: bool = False,
        answered: bool = False,
    ) -> float:
        """
        Note that a request that ``began`` then has failed; it ``brought`` so many new bytes before,
        ``answered`` says whether there was a reply, and ``crowded`` whether the host was busy with
        other blobs. Return the seconds to the next.
        """
        if not answered or brought >= USEFUL or self._progress_at is None:
            self._useless_since = None
        elif self._useless_since is None:
            self._useless_since = now
        # Those that were at work when one failed fail for the same reason: they count once.
        is_news, self._failed_at = began > self._failed_at, now
        self._last_failure = error
        if brought and error.retry_after is None:
            self._failures = self._crowded_out = 0
            delay: float = 0.0 if brought >= ENOUGH else BACKOFF
        elif crowded and not (error.busy or error.broken):
            delay = BACKOFF * 2 ** min(self._crowded_out, 2)
            self._crowded_out += 1
        else:
            if is_news or not self._failures:
                self._failures += 1
            delay = backoff(self._failures, BACKOFF, LONGEST_BACKOFF)
        delay = jittered(delay)
        if error.retry_after is not None:
            delay = max(delay, error.retry_after)
            self.asked_to_wait_until = now + delay
        self.not_before = max(self.not_before, now + delay)
        return delay

    def fell_silent(self, silent: Collection[RangeFetch]) -> None:
        """
        Note that requests were dropped for their silence; those dropped together count once. Time
        in which they may have waited for others does not count.
        """
        if self.tried_at is not None:
            behind = (each.heard_at - each.began_at for each in silent if not each.answered)
            self.tried_at += max(behind, default=0.0)
        self.silences += 1
        self._stalls += any(each.received for each in silent)

    # what follows

    def longest_silence(self, *, waited_for: bool) -> float:
        """Return the seconds for which a request may be silent, if a reader waits for it or not."""
        seconds: float = 2 ** min(self._stalls, 4)
        return seconds * (SILENCE_WAITED_FOR if waited_for else SILENCE)

    def are_hopeless(self, now: float) -> bool:
        """Whether requests have failed, or been silent, for too long."""
        if self._useless_since is not None and now - self._useless_since >= USELESS:
            return True
        if not self.are_failing and not self.silences:
            return False
        is_crowded_out = not self._failures and not self.silences
        patience = PATIENCE if is_crowded_out or self.have_brought else PATIENCE_AT_FIRST
        since = self.tried_at if self._progress_at is None else self._progress_at
        if since is None:
            return False
        if self._failures < TOLD_AFTER:
            # Those who ask to wait again and again are not waited for for ever.
            since = max(since, self.asked_to_wait_until)
        return now - since >= patience

    def reason(self) -> RegistryError:
        """Return why the fill is hopeless, for clients."""
        error = self._last_failure
        if error.busy:
            return too_many(str(error), int(error.retry_after or 30))
        if self.silences:
            return upstream_silent(f"upstream does not answer: {error}")
        return upstream_unreachable(f"upstream does not send this blob: {error}")


class Fetched(Protocol):
    """A blob on its way, as far as this matters."""

    @property
    def source(self) -> BlobSource: ...
    @property
    def tries(self) -> RetryState: ...
    @property
    def fetches(self) -> Iterable[RangeFetch]: ...


def is_crowded_out(blob: Fetched, began: float, blobs: Iterable[Fetched]) -> bool:
    """
    Whether the host of ``blob`` sends another of the ``blobs`` just now, or was asked for it before
    ``began``, when the request began that has failed.
    """
    limit = blob.source.pace.limit
    return any(
        (fetch.received or other.tries.is_waiting(fetch.began_at, began))
        and other.source.pace.limit is limit
        for other in blobs
        if other is not blob
        for fetch in other.fetches
    )

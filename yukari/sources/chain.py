"""
Two sources in a row: the bucket first, the upstream registry if the bucket fails.

A blob of the wrong digest whose bytes all came from the bucket is removed from there, so that the
next attempt asks upstream and the fill puts the right one in its place.
"""

from __future__ import annotations

from attrs import define, field

from yukari.errors import upstream_unreachable
from yukari.names import Repository
from yukari.sources.base import Answer, BlobSource, KeptSource, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.spans import Span

FAILURES = 3
"""Failures in a row after which the second source is asked."""


@define(eq=False, repr=False)
class Fallback:
    """
    Asks ``first`` while that has the blob and does not keep failing, else ``second``.

    ``untold`` says that ``first`` may have it without knowing so: it is asked until it refuses.
    (A `BlobSource`.)
    """

    first: KeptSource
    second: BlobSource
    _untold: bool = False
    _failures: int = field(default=0, init=False)
    _has_returned: bool = field(default=False, init=False)
    """Whether ``first`` has been asked again after ``second``, or must not be."""
    _sent: set[BlobSource] = field(factory=set, init=False)
    """The sources whose bytes are in the present attempt."""

    @property
    def _now(self) -> BlobSource:
        has = self.first.there or self._untold
        return self.first if has and self._failures < FAILURES else self.second

    @property
    def pace(self) -> HostPace:
        return self._now.pace

    @property
    def ranges(self) -> bool:
        return self._now.ranges

    async def fetch(self, span: Span) -> Answer:
        if self._now is self.second:
            return await self._fetch_second(span)
        try:
            answer = await self.first.fetch(span)
        except SourceRefused:
            self._untold = False
            return await self._fetch_second(span)
        except SourceFailed:
            self._failures += 1
            raise
        if self._failures < FAILURES:
            self._failures = 0
        self._sent.add(self.first)
        return answer

    async def _fetch_second(self, span: Span) -> Answer:
        try:
            answer = await self.second.fetch(span)
        except SourceRefused as refused:
            if self.first.there and refused.error.status == 404:
                if self._returns():
                    raise SourceFailed(str(refused), moved=True) from None
                # It is stored all the same, and not unknown.
                why = f"{self.first.describe()} does not send it; upstream: {refused}"
                raise SourceRefused(upstream_unreachable(why)) from None
            raise
        self._sent.add(self.second)
        return answer

    def add_repository(self, name: Repository) -> None:
        self.first.add_repository(name)
        self.second.add_repository(name)

    def retry(self) -> None:
        self._failures, self._has_returned = 0, False
        self.first.retry()
        self.second.retry()

    def move_on(self, *, soon: bool = False) -> bool:
        if self._now is self.second:
            return self.second.move_on(soon=soon) or self._returns()
        if self._has_returned:
            return False
        self._failures = FAILURES
        return True

    def _returns(self) -> bool:
        if self._has_returned or not self.first.there:
            return False
        self._has_returned, self._failures = True, 0
        return True

    def describe(self) -> str:
        sent = [each for each in (self.first, self.second) if each in self._sent]
        return " and ".join(each.describe() for each in sent or [self._now])

    async def set_aside(self, *, alone: bool) -> bool:
        sent, self._sent = self._sent, set()
        if self.first not in sent:
            return await self.second.set_aside(alone=alone)
        if self.second in sent or not alone:
            return False  # Nobody knows whose byte was wrong.
        removed = await self.first.set_aside(alone=True)
        if not removed:
            self._failures, self._has_returned = FAILURES, True  # Not to bring the same again.
        return removed

"""Two sources in a row: the bucket first, the upstream registry if the bucket fails."""

from __future__ import annotations

from attrs import define, field

from yukari.names import Repository
from yukari.sources.base import Answer, BlobSource, KeptSource, SourceFailed, SourceRefused
from yukari.sources.pace import HostPace
from yukari.spans import Span

FAILURES = 3
"""So many in a row, and the second source is asked from then on."""


@define(eq=False)
class Fallback:
    """
    Asks ``first`` while that has the blob and does not keep failing, else ``second``.

    ``untold`` says that ``first`` may have it unknown to itself: it is asked until it refuses.
    (A `BlobSource`.)
    """

    first: KeptSource
    second: BlobSource
    _untold: bool = False
    _failures: int = field(default=0, init=False)

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
            return await self.second.fetch(span)
        try:
            answer = await self.first.fetch(span)
        except SourceRefused:
            self._untold = False
            return await self.second.fetch(span)
        except SourceFailed:
            self._failures += 1
            raise
        self._failures = 0
        return answer

    def add_repository(self, name: Repository) -> None:
        self.first.add_repository(name)
        self.second.add_repository(name)

    def retry(self) -> None:
        self._failures = 0
        self.first.retry()
        self.second.retry()

"""A source behind a source: the bucket first, the upstream registry where the bucket fails."""

from __future__ import annotations

from typing import Optional

from attrs import define, field

from yukari.fills.pace import HostPace
from yukari.fills.source import Answer, BlobSource, SourceFailed, SourceRefused
from yukari.names import ModelName
from yukari.spans import Span

FAILURES = 3
"""So many in a row, and the second source is asked from then on."""


@define(eq=False)
class Fallback:
    """Asks ``first`` until it refuses or keeps failing, then ``second`` (a `BlobSource`)."""

    first: BlobSource
    second: BlobSource
    _failures: int = field(default=0, init=False)
    _given_up: bool = field(default=False, init=False)

    @property
    def _now(self) -> BlobSource:
        return self.second if self._given_up else self.first

    @property
    def pace(self) -> Optional[HostPace]:
        return self._now.pace

    @property
    def ranges(self) -> bool:
        return self._now.ranges

    async def fetch(self, span: Span) -> Answer:
        if self._given_up:
            return await self.second.fetch(span)
        try:
            answer = await self.first.fetch(span)
        except SourceRefused:
            self._given_up = True
            return await self.second.fetch(span)
        except SourceFailed:
            self._failures += 1
            self._given_up = self._failures >= FAILURES
            raise
        self._failures = 0
        return answer

    def add_repository(self, name: ModelName) -> None:
        self.first.add_repository(name)
        self.second.add_repository(name)

    def retry(self) -> None:
        self._failures = 0
        self._given_up = False
        self.first.retry()
        self.second.retry()

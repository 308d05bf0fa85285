"""The amount that is stored, as the catalog has it, read at intervals in the background."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.management import Management
from yukari.storage.ports import Holdings

log = Logger()

REST = 10.0
"""Seconds from one count to the next at least, when something was stored."""
SHARE = 100
"""The next count waits at least this many times as long as the last one took."""
RARELY = 600.0
"""Seconds to the next count if we stored nothing: a look may have found something."""


@define(eq=False, repr=False)
class UsageCounter:
    """Counts what a managed store holds, once it has been looked through; keeps the last count."""

    _management: Management
    _clock: IReactorTime
    holdings: Optional[Holdings] = field(default=None, init=False)
    """None until the first count."""
    _timer: Optional[IDelayedCall] = field(default=None, init=False)
    _counting: Optional[Deferred[Any]] = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _soonest: float = field(default=0.0, init=False)
    _changed: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Count now and at intervals."""
        self._count()

    def stop(self) -> None:
        """Stop counting."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counting is not None:
            self._counting.cancel()

    def changed(self) -> None:
        """Note that something was stored."""
        self._changed = True
        if self._timer is not None:
            self._timer.reset(max(0.0, self._soonest - self._clock.seconds()))

    def _count(self) -> None:
        self._timer = None
        self._counting = counting = Deferred.fromCoroutine(self._read())
        counting.addBoth(self._counted)

    async def _read(self) -> Holdings:
        index = self._management.index
        await index.first_look()
        await index.settled()
        self._began, self._changed = self._clock.seconds(), False
        totals = await self._management.catalog.run(CatalogFile.totals)
        return Holdings(totals.tags, totals.blobs, totals.stored)

    def _counted(self, result: Any) -> None:
        self._counting = None
        if self._stopped:
            return
        now = self._clock.seconds()
        rest = max(REST, SHARE * (now - self._began))
        self._soonest = now + rest
        if not isinstance(result, Failure):
            self.holdings = result
        elif result.check(CatalogUnusable):
            log.debug("what is stored was not counted: {error}", error=str(result.value))
        else:
            log.failure("counting what is stored", result)
        wait = rest if self._changed or self.holdings is None else max(rest, RARELY)
        self._timer = self._clock.callLater(wait, self._count)

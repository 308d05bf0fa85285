"""
How much went to clients and how much came from upstream, by the hour, kept in the catalog; and
which clients got how much today.

The counters of the metrics are read once in a while, so that a reply costs nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Optional

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from yukari.library.catalog.catalog import Catalog, CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.tasks import surviving

log = Logger()

EVERY = 300.0
"""Seconds from one look at the counters to the next."""
HOUR = 3600
HOURS, DAYS = 24, 30
"""How far a report goes back."""
MAX_CLIENTS = 1000
"""Clients whose bytes of today are told apart; the one heard of longest ago is forgotten first."""
SHOWN_CLIENTS = 50
"""Clients of today that a report has, those that got most."""


@frozen
class Moved:
    """Bytes sent to clients, and bytes received from upstream."""

    sent: int = 0
    received: int = 0

    def plus(self, other: Moved) -> Moved:
        """Return the sums of both."""
        return Moved(self.sent + other.sent, self.received + other.received)


@frozen
class Period:
    """The traffic of the hour or the day that began ``at``, in seconds of the epoch."""

    at: int
    sent: int
    received: int


@frozen
class ClientToday:
    """A client's address, and the bytes that it got since midnight (UTC)."""

    address: str
    sent: int


@frozen
class TrafficReport:
    """The last hours and days, the oldest first, and the clients of today, the busiest first."""

    hours: tuple[Period, ...]
    days: tuple[Period, ...]
    clients: tuple[ClientToday, ...]


@define(eq=False, repr=False)
class Traffic:
    """
    Keeps count; ``moved`` returns what moved since the process began, ``now`` seconds of the epoch.
    """

    _catalog: Catalog
    _moved: Callable[[], Moved]
    _clock: IReactorTime
    _now: Callable[[], float] = time.time
    _unsaved: dict[int, Moved] = field(factory=dict, init=False)
    """By the hour, in seconds of the epoch."""
    _seen: Moved = field(factory=Moved, init=False)
    _day: int = field(default=0, init=False)
    _clients: dict[str, int] = field(factory=dict, init=False)
    """Bytes of that day that are not saved."""
    _loop: Optional[LoopingCall] = field(default=None, init=False)

    def start(self) -> None:
        """Look at the counters every so often."""
        loop = self._loop = LoopingCall(surviving(self._save, "counting traffic"))
        loop.clock = self._clock
        loop.start(EVERY, now=False)

    async def stop(self) -> None:
        """Save what was counted; the catalog is still open."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        await self._save()

    def sent_to(self, address: str, count: int) -> None:
        """Note that a client got so many bytes."""
        self._begin_day()
        before = self._clients.pop(address, 0)
        self._clients[address] = before + count
        if len(self._clients) > MAX_CLIENTS:
            del self._clients[next(iter(self._clients))]

    def _begin_day(self) -> None:
        day = int(self._now() // (24 * HOUR))
        if day != self._day:
            self._day = day
            self._clients.clear()

    def _look(self) -> None:
        moved, seen = self._moved(), self._seen
        new = Moved(moved.sent - seen.sent, moved.received - seen.received)
        self._seen = moved
        if new != Moved():
            hour = int(self._now() // HOUR) * HOUR
            self._unsaved[hour] = self._unsaved.get(hour, Moved()).plus(new)

    async def _save(self) -> None:
        self._begin_day()
        self._look()
        unsaved, self._unsaved = self._unsaved, {}
        clients, self._clients = self._clients, {}
        if not unsaved and not clients:
            return
        rows = [(hour, moved.sent, moved.received) for hour, moved in unsaved.items()]
        oldest = int(self._now()) - (DAYS + 1) * 24 * HOUR
        try:
            await self._catalog.run(CatalogFile.add_traffic, rows, oldest)
            await self._catalog.run(CatalogFile.add_clients, self._day, clients, MAX_CLIENTS)
        except CatalogUnusable as error:
            log.warn("traffic is not counted: {error}", error=str(error))

    async def report(self) -> TrafficReport:
        """Return what moved of late; hours without traffic are there too."""
        await self._save()
        hour = int(self._now() // HOUR) * HOUR
        day = hour - hour % (24 * HOUR)
        first = day - (DAYS - 1) * 24 * HOUR
        by_hour: dict[int, Moved] = {}
        by_day: dict[int, Moved] = {}
        try:
            rows, clients = await self._catalog.run(
                lambda file: (file.traffic(first), file.clients_of(self._day, SHOWN_CLIENTS))
            )
        except CatalogUnusable:
            rows, clients = [], []
        for at, sent, received in rows:
            by_hour[at] = Moved(sent, received)
            began = at - at % (24 * HOUR)
            by_day[began] = by_day.get(began, Moved()).plus(by_hour[at])
        return TrafficReport(
            _periods(by_hour, hour - (HOURS - 1) * HOUR, HOURS, HOUR),
            _periods(by_day, first, DAYS, 24 * HOUR),
            tuple(ClientToday(*each) for each in clients),
        )


def _periods(found: dict[int, Moved], first: int, count: int, length: int) -> tuple[Period, ...]:
    starts = range(first, first + count * length, length)
    moved = [found.get(at, Moved()) for at in starts]
    return tuple(Period(at, each.sent, each.received) for at, each in zip(starts, moved))

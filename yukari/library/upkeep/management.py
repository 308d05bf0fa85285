"""The management of a library's store: catalog, marks, index and collector together."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, Optional

from attrs import define, evolve, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.leisure import Leisure
from yukari.library.catalog.catalog import Catalog, CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Totals
from yukari.library.library import Library
from yukari.library.models.details import Details
from yukari.library.upkeep.collector import Collector, Unknown
from yukari.library.upkeep.index import Index
from yukari.library.upkeep.managed import Managed
from yukari.library.upkeep.marks import FRESH_FOR, Marks
from yukari.library.upkeep.removal import Removal, Shared
from yukari.library.upkeep.room import Bounds, StoreRoom
from yukari.library.upkeep.scrubbing import Scrubber
from yukari.library.upkeep.sweeping import Sweep
from yukari.library.upkeep.unread import Unread
from yukari.metrics import Metrics
from yukari.names import Repository, Tag
from yukari.storage.ports import Store
from yukari.storage.shared import SharedInventory
from yukari.tasks import Background
from yukari.threads import InThread

log = Logger()

COLLECT_EVERY = 3600.0
"""Seconds from one collection to the next."""
COLLECT_FIRST = 300.0
"""Seconds from the start to the first one."""


@define(eq=False, repr=False)
class Management:
    """
    The management of a store; it begins with `manage`, once the library is made.

    ``catalog_thread`` calls a function in one thread, always the same, ``in_thread`` in any;
    ``now`` returns seconds of the epoch.
    """

    _store: Store
    _catalog_path: str
    _catalog_thread: InThread
    _in_thread: InThread
    _clock: IReactorTime
    bounds: Bounds
    _registry: str
    """The host of the registry, for patterns."""
    now: Callable[[], float] = time.time
    _metrics: Metrics = field(factory=Metrics)
    _leisure: Optional[Leisure] = None
    """Makes looks through the store give way to requests."""
    catalog: Catalog = field(init=False)
    marks: Marks = field(init=False)
    details: Details = field(init=False)
    index: Index = field(init=False)
    library: Library = field(init=False)
    room: StoreRoom = field(init=False)
    collector: Collector = field(init=False)
    scrubbers: list[Scrubber] = field(factory=list, init=False)
    """One for each place of copies that are to be read again."""
    shared: Optional[Shared] = field(default=None, init=False)
    """There if several daemons share the store."""
    _running: Background = field(factory=Background, init=False)
    _loops: list[LoopingCall] = field(factory=list, init=False)
    _starting: list[IDelayedCall] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.catalog = Catalog(self._catalog_path, self._catalog_thread, self._clock, self.now)
        self.marks = Marks(self._store.inventory, self._clock, self.now)
        self.details = Details(self._store)
        self.index = Index(
            store=self._store,
            catalog=self.catalog,
            marks=self.marks,
            details=self.details,
            clock=self._clock,
            now=self.now,
            leisure=self._leisure,
        )

    def manage(
        self,
        library: Library,
        is_upstream: Optional[Callable[[Repository, Tag], Coroutine[Any, Any, bool]]],
    ) -> None:
        """Manage the store of ``library``; for ``is_upstream`` see `Collector`."""
        self.library = library
        managed = Managed(
            self._store,
            self.bounds,
            self.catalog,
            self.marks,
            self.index,
            library.blobs,
            library.in_use,
            self._clock,
            self.now,
        )
        sweep = Sweep(managed)
        shared_inventory = self._store.inventory.shared
        if shared_inventory is not None:
            self.shared = self._share(managed, shared_inventory)
        removal = Removal(managed, sweep, self.shared)
        self.room = StoreRoom(
            self._store, library.filling, self.bounds, self._clock, self.shared is not None
        )
        self.collector = Collector(
            managed,
            self.room,
            library.filling,
            sweep,
            removal,
            is_upstream,
            self._registry,
            library.events.removed,
            self._metrics,
        )
        library.events.observers += [self.index, self.collector]
        library.filling.reserve = self.collector.reserve
        library.listing.index = self.index

    async def stored(self, name: Repository, tag: Tag) -> Optional[tuple[Repository, Tag]]:
        """Return the stored tag of that name, whatever the case of its letters; None if none is."""
        if await self._store.get_manifest(name, tag) is not None:
            return name, tag
        found = await self.catalog.run(CatalogFile.whatever_case, name, tag)
        if found is None or await self._store.get_manifest(*found) is None:
            return None
        return found

    def scrub(
        self, period: float, in_bucket: bool, is_busy: Callable[[], bool], metrics: Metrics
    ) -> None:
        """
        Have the copies on the disk read again in each ``period``, in seconds, 0 for never, and
        those in a bucket if ``in_bucket``.
        """
        for copies in self._store.inventory.copies() if period else ():
            if copies.place == "disk" or in_bucket:
                self.scrubbers.append(
                    Scrubber(
                        copies=copies,
                        period=period,
                        library=self.library,
                        catalog=self.catalog,
                        clock=self._clock,
                        is_busy=is_busy,
                        may_check=self.marks.may_check,
                        metrics=metrics,
                        now=self.now,
                    )
                )
        self.library.events.observers += self.scrubbers

    def _share(self, managed: Managed, inventory: SharedInventory) -> Shared:
        """Return what is needed if other daemons share the store."""
        # Imported lazily (5 ms): a directory belongs to one daemon.
        from yukari.library.upkeep.shared_pulls import SharedPulls
        from yukari.library.upkeep.shared_sweep import SharedSweep

        pulls = SharedPulls(inventory, self.catalog, self._clock)
        self.catalog.noted = pulls.pulled
        return Shared(SharedSweep(managed, inventory), pulls)

    async def totals(self) -> Totals:
        """
        Return how much is held, and for what. `CatalogUnusable`.

        What models of registries stand on that are mirrored no more is needed, too.
        """
        totals = await self.catalog.run(CatalogFile.totals)
        if not totals.unneeded:
            return totals
        try:
            elsewhere = await self._store.inventory.named_elsewhere()
            unneeded = await self.catalog.run(CatalogFile.unneeded_bytes, elsewhere)
        except OSError:
            unneeded = 0  # Nothing would be removed.
        return evolve(totals, unneeded=unneeded)

    def start(self) -> None:
        """Look through the store, keep it within its bounds, and read it again."""
        self.index.start()
        self._running.start("check", self._check_catalog(), _failed)
        for scrubber in self.scrubbers:
            scrubber.start()
        works: list[tuple[Callable[[], Coroutine[Any, Any, object]], float, float]]
        works = [(self.marks.refresh, FRESH_FOR, FRESH_FOR)]
        if self.shared is not None:
            works += [(work, every, every) for work, every in self.shared.pulls.periodic()]
        if self.shared is None or self.bounds.evict:
            works.append((self.collector.collect, COLLECT_EVERY, COLLECT_FIRST))
        for work, period, first in works:
            loop = LoopingCall(self._begin, work)
            loop.clock = self._clock
            self._loops.append(loop)
            self._starting.append(self._clock.callLater(first, loop.start, period))

    async def stop(self) -> None:
        """Collect no more, and write what was gathered."""
        for starting in self._starting:
            if starting.active():
                starting.cancel()
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self._running.stop()
        for scrubber in self.scrubbers:
            scrubber.stop()
        self.index.stop()
        if self.shared is not None:
            await self.shared.sweep.stop()
        await self.catalog.stop()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        if work not in self._running:
            self._running.start(work, work(), _failed)

    async def _check_catalog(self) -> None:
        await self.index.first_look()
        await self.catalog.check(self._in_thread)


def _failed(failure: Failure) -> None:
    if failure.check(Unread):
        log.debug("{error}", error=str(failure.value))  # The index has warned.
    elif failure.check(CatalogUnusable, Unknown, OSError):
        log.warn("upkeep of the store failed: {error}", error=str(failure.value))
    else:
        log.failure("upkeep of the store", failure)

"""
What the cache holds and does at one moment: for the page, for ``/status`` and for the CLI.

Sizes are in bytes, rates in bytes a second, times in seconds of the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Optional

from attrs import asdict, define, field, frozen
from twisted.internet.interfaces import IReactorTime

from yukari import __version__
from yukari.config.registry_names import RegistryNames
from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.rows import Totals
from yukari.library.events import Observer
from yukari.library.recent_errors import RecentErrors, Trouble
from yukari.library.traffic import Traffic, TrafficReport
from yukari.library.upkeep.management import Management
from yukari.library.upkeep.room import RoomUsage
from yukari.library.upkeep.scrubbing import ScrubStatus
from yukari.names import DEFAULT
from yukari.sources.host_facts import HostFacts
from yukari.sources.ways import Access
from yukari.storage.inventory import FrontDisk
from yukari.tasks import Coalescer, together

FORMAT = 1
"""The version of ``/status``: a field that changes its meaning, or goes, raises it."""
TOTALS_LAST = 10.0
"""Seconds for which the sums of a whole catalog are used again."""


@frozen
class UpstreamStatus:
    """A registry that is mirrored."""

    registry: str
    """Its host."""
    prefix: Optional[str]
    """The prefix of namespaces that are its own, such as ``hf--``; None if there is none."""
    offline: bool
    """Whether it is never asked, as OFFLINE says."""
    reachable: bool
    answered: bool
    """Whether it has answered since the start: until then nobody may have asked it."""
    error: Optional[str]
    """Why it was not reached last, None if it was."""
    asked_again_in: Optional[float]
    """Seconds."""
    wait: float
    """Seconds for which it wishes to be left alone (429, 503), at the most."""
    rate: float
    """Of all that comes from it now."""
    access: tuple[Access, ...]
    """The ways in which requests get past its challenges."""
    hosts: tuple[HostFacts, ...]
    """The hosts that its blobs have come from, and what bounds their rate."""


def usage_json(held: Totals, room: RoomUsage, *, complete: bool) -> dict[str, Any]:
    """Return what a store's bytes are for, for programs."""
    facts = asdict(held)
    return {"complete": complete, "models": facts.pop("tags"), **facts, **asdict(room)}


@frozen
class StoreStatus:
    """The use of a store's bytes."""

    where: str
    complete: bool
    """Whether everything was looked through since the start; until then models may be missing."""
    held: Totals
    room: RoomUsage
    front: Optional[FrontDisk]
    """The disk in front of a bucket."""

    def as_json(self) -> dict[str, Any]:
        """For programs, as `Status.as_json`."""
        front = None if self.front is None else asdict(self.front)
        usage = usage_json(self.held, self.room, complete=self.complete)
        return {"where": self.where, **usage, "front_disk": front}


@frozen
class Status:
    """The state of the daemon, as ``/status`` and the page show it."""

    at: float
    started_at: float
    upstream: UpstreamStatus
    """The default registry."""
    others: tuple[UpstreamStatus, ...]
    """The registries beside it."""
    store: Optional[StoreStatus]
    """None while the catalog cannot be read."""
    fills: tuple[dict[str, Any], ...]
    """As `Fill.facts`."""
    errors: tuple[Trouble, ...]
    """The last ones, the newest first."""
    traffic: TrafficReport
    scrub: tuple[ScrubStatus, ...]
    """The progress of reading stored blobs again, by place; empty if they are not read."""

    def as_json(self) -> dict[str, Any]:
        """For programs; docs/status.rst has every field."""
        return {
            "format": FORMAT,
            "version": __version__,
            "at": self.at,
            "started_at": self.started_at,
            "upstream": asdict(self.upstream),
            "other_upstreams": [asdict(each) for each in self.others],
            "store": None if self.store is None else self.store.as_json(),
            "fills": list(self.fills),
            "traffic": asdict(self.traffic),
            "errors": [asdict(each) for each in self.errors],
            "scrub": [asdict(each) for each in self.scrub],
        }


@define(eq=False, repr=False)
class StatusReader(Observer):
    """Reads the status of a managed store; it counts nothing until it is asked."""

    _management: Management
    _registries: RegistryNames
    _offline: bool
    _errors: RecentErrors
    _traffic: Traffic
    _clock: IReactorTime
    _now: Callable[[], float] = time.time
    _started_at: float = field(init=False)
    _totals: Optional[tuple[float, Totals]] = field(default=None, init=False)
    _counting: Coalescer = field(factory=Coalescer, init=False)

    def __attrs_post_init__(self) -> None:
        self._started_at = self._now()
        self._management.library.events.observers.append(self)

    def removed(self) -> None:
        self._totals = None

    def fills(self) -> tuple[dict[str, Any], ...]:
        """Return the blobs on their way, those that readers wait for first."""
        found = [fill.facts() for fill in self._management.library.fills.values()]
        found.sort(key=lambda each: (-each["readers"], each["state"] == "suspended"))
        return tuple(found)

    def upstream(self, registry: str = DEFAULT) -> UpstreamStatus:
        """Return what is known of a registry."""
        library, now = self._management.library, self._clock.seconds()
        state = library.upstream.state_of(registry)
        fills = [each for each in library.fills.values() if each.name.host == registry]
        return UpstreamStatus(
            self._registries.host_of(registry),
            self._registries.prefix_of(registry),
            self._offline,
            state.reachable,
            state.answered,
            state.error,
            state.asked_again_in,
            max([state.wait, *(fill.tries.asked_to_wait_until - now for fill in fills)]),
            sum(fill.facts()["rate"] * 1e6 for fill in fills),
            library.upstream.access_of(registry),
            library.upstream.hosts_of(registry),
        )

    async def store(self) -> Optional[StoreStatus]:
        """Return what the store holds, None while the catalog cannot be read."""
        management = self._management
        try:
            return StoreStatus(
                management.library.store.describe(),
                management.index.looked,
                await self._counting.run("totals", self._count),
                await management.room.usage(),
                await management.library.store.inventory.front_disk(),
            )
        except (CatalogUnusable, OSError):
            return None

    async def _count(self) -> Totals:
        now = self._clock.seconds()
        if self._totals is None or now - self._totals[0] > TOTALS_LAST:
            self._totals = now, await self._management.totals()
        return self._totals[1]

    async def read(self) -> Status:
        """Gather the status."""
        store, traffic = await together(self.store(), self._traffic.report())
        return Status(
            self._now(),
            self._started_at,
            self.upstream(),
            tuple(map(self.upstream, self._registries.hosts_beside)),
            store,
            self.fills(),
            tuple(reversed(self._errors.kept)),
            traffic,
            tuple(scrubber.status() for scrubber in self._management.scrubbers),
        )

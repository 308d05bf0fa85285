"""The room for blobs: what is stored and on its way, and what the bounds leave."""

from __future__ import annotations

from typing import Optional

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from yukari.config.patterns import Patterns
from yukari.config.units import FreeSpace
from yukari.fills.fill import Fill
from yukari.fills.machine import State
from yukari.fills.manager import FillManager
from yukari.names import Digest
from yukari.storage.ports import Store
from yukari.tasks import Coalescer

COUNTED_FOR = 60.0
"""Seconds after which the bytes are counted again, if other daemons store there too."""
SIDECARS = 64 * 1024
"""Bytes that a blob in progress takes beside its own."""


@frozen
class Bounds:
    """The store's bounds; times in seconds."""

    store_max: Optional[FreeSpace] = None
    """Bytes, or a share of the disk; None for what MIN_FREE leaves."""
    evict: bool = True
    keep: Patterns = Patterns()
    superseded_lifetime: float = 720 * 3600.0
    grace: float = 3600.0


@frozen
class RoomUsage:
    """Bytes: on their way, at most stored, and free for more; None for no bound."""

    on_their_way: int
    bound: Optional[int]
    free: Optional[int]


@define(eq=False, repr=False)
class StoreRoom:
    """The room of a store; others may store there too if it ``is_shared``."""

    _store: Store
    _fills: FillManager
    _bounds: Bounds
    _clock: IReactorTime
    _is_shared: bool
    used: Optional[int] = field(default=None, init=False)
    """Bytes of all stored blobs; None if they have to be counted."""
    opening: dict[Digest, int] = field(factory=dict, init=False)
    """Blobs that wait for room, or whose spools are being opened, with their sizes."""
    _counted_at: float = field(default=0.0, init=False)
    _uncounted: int = field(default=0, init=False)
    """Bytes that were stored since the last count began."""
    _counting: Coalescer = field(factory=Coalescer, init=False)

    def stored(self, size: int) -> None:
        """Note that a blob of so many bytes was stored."""
        self._uncounted += size
        if self.used is not None:
            self.used += size

    def freed(self, size: int) -> None:
        """Note that so many bytes were removed; in a shared store they are counted again."""
        self.used = None if self._is_shared or self.used is None else self.used - size

    async def lacking(self, digest: Digest, size: int) -> int:
        """Return how many bytes must be freed for a blob; 0 or less if none. OSError."""
        short_of = self._store.inventory.short_of
        return max(await short_of(size), await self.beyond_bound(digest))

    async def beyond_bound(self, digest: Digest) -> int:
        """Return by how many bytes a blob exceeds STORE_MAX; at most 0 if it does not. OSError."""
        limit = await self.limit()
        if limit is None:
            return 0
        if self._is_shared and self._clock.seconds() - self._counted_at >= COUNTED_FOR:
            self.used = None  # Others store there too.
        if self.used is None:
            await self._counting.run("all", self._count)
        return self.taken(digest) - limit

    async def _count(self) -> None:
        self._uncounted, self._counted_at = 0, self._clock.seconds()
        counted = await self._store.count()
        # What was stored while it was counted may be counted twice, until the next count.
        self.used = counted.bytes + self._uncounted

    def taken(self, digest: Digest) -> int:
        """Return the bytes stored, in progress, or awaited by this blob and those before it."""
        taken = self.used or 0
        for fill in self._fills.fills.values():
            if fill.digest not in self.opening and (room := _room_of(fill)):
                taken += room + SIDECARS
        for waiting, size in self.opening.items():
            taken += size + SIDECARS
            if waiting == digest:
                break
        return taken

    async def limit(self) -> Optional[int]:
        """Return STORE_MAX in bytes; None for no bound. OSError."""
        store_max = self._bounds.store_max
        if store_max is None:
            return None
        if store_max.bytes is not None:
            return store_max.bytes
        return store_max.of(await self._store.inventory.disk_size())

    async def usage(self) -> RoomUsage:
        """Return how much room there is. OSError."""
        free = await self._store.inventory.free_space()
        return RoomUsage(sum(map(_room_of, self._fills.fills.values())), await self.limit(), free)


def _room_of(fill: Fill) -> int:
    """Return the bytes that a fill takes or will take; of one that rests, what it has."""
    return fill.size if fill.spool is not None or fill.state is State.DIRECT else fill.kept

"""
When tags were pulled last, told to and by the other daemons that share a store.

Without it each daemon would take for unused what only the others' clients pull.
"""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from yukari.library.catalog import Catalog
from yukari.library.catalog_file import CatalogFile
from yukari.names import Repository, Tag
from yukari.storage.shared import Pulled, SharedInventory

NOTE_EVERY = 10.0
"""Seconds from one telling of the others to the next."""
NOTED_FOR = 600.0
"""Seconds for which a tag that is pulled again and again is not noted once more."""
READ_EVERY = 300.0
"""Seconds from one reading of what others have noted to the next."""
FRESH_FOR = 30.0
"""Seconds for which what was read is good enough to decide by."""
MAX_REMEMBERED = 10_000


@define(eq=False)
class SharedPulls:
    """Its coroutines raise OSError and `CatalogUnusable`."""

    _shared: SharedInventory
    _catalog: Catalog
    _clock: IReactorTime
    _noted: LRUCache[tuple[Repository, Tag], float] = field(
        factory=lambda: LRUCache(MAX_REMEMBERED), init=False
    )
    """When a tag was noted last, by the clock."""
    _waiting: dict[tuple[Repository, Tag], None] = field(factory=dict, init=False)
    _read_at: Optional[float] = field(default=None, init=False)

    def pulled(self, name: Repository, tag: Tag) -> None:
        """A client has pulled a tag from this daemon."""
        noted = self._noted.get((name, tag))
        is_due = noted is None or self._clock.seconds() - noted >= NOTED_FOR
        if is_due and len(self._waiting) < MAX_REMEMBERED:
            self._waiting[name, tag] = None

    async def tell(self) -> None:
        """Note for the others what was pulled here."""
        while self._waiting:
            name, tag = key = next(iter(self._waiting))
            at = await self._shared.note_pull(name, tag)
            await self._catalog.run(CatalogFile.pulled_elsewhere, [Pulled(name, tag, at)])
            self._waiting.pop(key, None)
            self._noted[key] = self._clock.seconds()

    async def read(self) -> None:
        """Have what the others have noted in the catalog."""
        began, last = self._clock.seconds(), None
        while page := await self._shared.pulls(last):
            last = page[-1]
            await self._catalog.run(CatalogFile.pulled_elsewhere, page)
        self._read_at = began

    async def refresh(self) -> None:
        """`tell` and `read`, unless that was done just now."""
        await self.tell()
        if self._read_at is None or self._clock.seconds() - self._read_at >= FRESH_FOR:
            await self.read()

    async def since(self, name: Repository, tag: Tag, at: float) -> bool:
        """Whether a tag was pulled anywhere after ``at``, in seconds of the epoch."""
        return await self._shared.pulled_at(name, tag) > at

    async def forget(self, name: Repository, tag: Tag) -> None:
        """A tag was removed."""
        self._noted.pop((name, tag), None)
        await self._shared.forget_pulls(name, tag)

"""
When tags were pulled last, exchanged between the daemons that share a store.

Without it each daemon would consider a tag unused that only the others' clients pull.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Optional

from attrs import define, field
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from yukari.library.catalog.catalog import Catalog
from yukari.library.catalog.file import CatalogFile
from yukari.names import Repository, Tag
from yukari.storage.shared import Pulled, SharedInventory

NOTE_EVERY = 10.0
"""Seconds from one `SharedPulls.tell` to the next."""
NOTED_FOR = 600.0
"""Seconds for which a tag that is pulled again and again is not noted once more."""
READ_EVERY = 300.0
"""Seconds from one `SharedPulls.read` to the next."""
FRESH_FOR = 30.0
"""Seconds after a `SharedPulls.read` in which `SharedPulls.refresh` does not read again."""
MAX_REMEMBERED = 10_000
"""Tags that were noted lately, and as many that are still to be noted."""


@define(eq=False, repr=False)
class SharedPulls:
    """Tells the others of pulls and reads theirs; coroutines raise OSError, `CatalogUnusable`."""

    _shared: SharedInventory
    _catalog: Catalog
    _clock: IReactorTime
    _noted: LRUCache[tuple[Repository, Tag], float] = field(
        factory=lambda: LRUCache(MAX_REMEMBERED), init=False
    )
    """When a tag was noted last, by the clock."""
    _waiting: dict[tuple[Repository, Tag], None] = field(factory=dict, init=False)
    """Tags whose pulls are still to be noted."""
    _read_at: Optional[float] = field(default=None, init=False)

    def pulled(self, name: Repository, tag: Tag) -> None:
        """Remember that a client has pulled a tag from this daemon, for the next `tell`."""
        noted = self._noted.get((name, tag))
        is_due = noted is None or self._clock.seconds() - noted >= NOTED_FOR
        if is_due and len(self._waiting) < MAX_REMEMBERED:
            self._waiting[name, tag] = None

    async def tell(self) -> None:
        """Tell the others which tags were pulled here."""
        while self._waiting:
            name, tag = key = next(iter(self._waiting))
            at = await self._shared.note_pull(name, tag)
            await self._catalog.run(CatalogFile.pulled_elsewhere, [Pulled(name, tag, at)])
            self._waiting.pop(key, None)
            self._noted[key] = self._clock.seconds()

    async def read(self) -> None:
        """Copy into the catalog what all daemons have noted."""
        began, last = self._clock.seconds(), None
        while page := await self._shared.pulls(last):
            last = page[-1]
            await self._catalog.run(CatalogFile.pulled_elsewhere, page)
        self._read_at = began

    async def refresh(self) -> None:
        """`tell`; and `read`, unless that was done within `FRESH_FOR`."""
        await self.tell()
        if self._read_at is None or self._clock.seconds() - self._read_at >= FRESH_FOR:
            await self.read()

    def periodic(self) -> list[tuple[Callable[[], Coroutine[Any, Any, None]], float]]:
        """Return what is to be done every so many seconds."""
        return [(self.tell, NOTE_EVERY), (self.read, READ_EVERY)]

    async def since(self, name: Repository, tag: Tag, at: float) -> bool:
        """Whether a tag was pulled anywhere after ``at``, in seconds of the epoch."""
        return await self._shared.pulled_at(name, tag) > at

    async def forget(self, name: Repository, tag: Tag) -> None:
        """Forget the pulls of a tag that was removed."""
        self._noted.pop((name, tag), None)
        await self._shared.forget_pulls(name, tag)

"""
Removing blobs from a store that several daemons share.

The catalog of one daemon does not know what the others have stored. So the sweep looks at all
roots, once before it tells the others which blobs are about to go, and once afterwards; see
`SharedInventory` for why it removes no blob that another daemon is about to use. If it is killed at
any step, it leaves garbage for the next sweep, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import DeferredLock, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.library.catalog.catalog import CatalogUnusable
from yukari.library.catalog.file import CatalogFile
from yukari.library.upkeep.index import PAGE
from yukari.library.upkeep.managed import Managed
from yukari.library.upkeep.sweeping import Failures, Swept
from yukari.names import Digest
from yukari.storage.ports import BlobEntry
from yukari.storage.shared import Root, SharedInventory
from yukari.tasks import Background, all_of

log = Logger()

DOOMED_TOGETHER = 1000
"""Blobs that are removed after one look at all roots."""
MAX_CONCURRENT_CALLS = 16
"""Roots that are read, or blobs that are removed, at the same time."""
WAITS = (2.0, 5.0, 10.0, 30.0)
"""Seconds to wait, one after the other, while another daemon removes."""
STOPS_WITHIN = 5.0
"""Seconds that `SharedSweep.stop` waits at most for the sweep in progress."""


class Busy(OSError):
    """Another daemon is removing blobs from the store now."""

    def __init__(self) -> None:
        super().__init__("another daemon removes from this store just now: try again later")


@define(eq=False, repr=False)
class SharedSweep:
    """Removes blobs that no daemon needs; OSError and `CatalogUnusable` from every method."""

    _managed: Managed
    _shared: SharedInventory
    _lock: DeferredLock = field(factory=DeferredLock, init=False)
    _later: Background = field(factory=Background, init=False)

    async def stop(self) -> None:
        """Cancel the removals in the background, and wait for a sweep in progress."""
        self._later.stop()
        ended = self._lock.acquire().addTimeout(STOPS_WITHIN, self._managed.clock)
        with suppress(TimeoutError):
            await ended

    async def run(self) -> Swept:
        """Remove the blobs that no root stands on and that are older than the grace. `Busy`."""
        swept: Swept = await self._alone(self._run)
        return swept

    async def check(self) -> None:
        """Bring the roots in the catalog up to date."""
        await self._lock.run(self._look)

    async def unneeded(self) -> Swept:
        """Return what `run` would remove."""
        await self.check()
        old = await self._old()
        return Swept(len(old), sum(each.size for each in old))

    async def remove(self, blobs: Iterable[Digest]) -> int:
        """
        Remove those of these blobs that no tag stands on; return how many bytes that freed.

        A manifest among them goes also if it is stored by its digest. A blob that was stored
        within the grace stays. `Busy`.
        """
        freed: int = await self._alone(self._remove_all, list(blobs))
        return freed

    def remove_soon(self, blobs: Iterable[Digest]) -> None:
        """As `remove`, in the background."""
        self._later.start(object(), self.remove(blobs), _failed)

    async def _alone(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await self._lock.run(self._with_lease, work, *arguments)

    async def _with_lease(self, work: Callable[..., Any], *arguments: Any) -> Any:
        for wait in (*WAITS, None):
            if await self._shared.take():
                break
            if wait is None:
                raise Busy()
            await deferLater(self._managed.clock, wait)
        try:
            return await work(*arguments)
        finally:
            try:
                await self._shared.release()
            except OSError as error:
                log.warn("other daemons may remove nothing for now: {error}", error=str(error))

    # all roots

    def _oldest(self) -> float:
        return self._managed.now() - self._managed.bounds.superseded_lifetime

    async def _look(self) -> None:
        """Bring the roots in the catalog up to date."""
        look, after = await self._managed.catalog.run(CatalogFile.begin_roots), ""
        while page := await self._shared.roots(after):
            after = page[-1].key
            unknown = await self._managed.catalog.run(CatalogFile.see_roots, page, look)
            for start in range(0, len(unknown), MAX_CONCURRENT_CALLS):
                reads = map(self._shared.read, unknown[start : start + MAX_CONCURRENT_CALLS])
                found = [each for each in await all_of(reads) if each is not None]
                await self._managed.catalog.run(CatalogFile.put_roots, found, look)
        await self._managed.catalog.run(CatalogFile.end_roots, look)

    # the sweep

    async def _run(self) -> Swept:
        await self._look()
        old = await self._old()
        expired = await self._managed.catalog.run(CatalogFile.expired_roots, self._oldest())
        manifests = [root.digest for root in expired if root.digest is not None]
        blobs = freed = 0
        for start in range(0, max(len(old), len(manifests)), DOOMED_TOGETHER):
            batch = {each.digest: each for each in old[start : start + DOOMED_TOGETHER]}
            removed = await self._remove_batch(
                batch, frozenset(manifests[start : start + DOOMED_TOGETHER])
            )
            blobs += len(removed)
            freed += sum(batch[digest].size for digest in removed)
        if blobs:
            log.info("{count} blobs that nothing stands on are removed", count=blobs)
        return Swept(blobs, freed)

    async def _old(self) -> list[BlobEntry]:
        """The blobs that no root stands on and that were stored before the grace."""
        before, oldest = self._managed.now() - self._managed.bounds.grace, self._oldest()
        found: list[BlobEntry] = []
        last = None
        while page := await self._managed.store.blobs(last, PAGE):
            last = page[-1].digest
            old = [each for each in page if each.stored_at < before]
            unneeded = set(
                await self._managed.catalog.run(
                    CatalogFile.without_root, [each.digest for each in old], oldest
                )
            )
            found += [each for each in old if each.digest in unneeded]
        return found

    async def _remove_all(self, blobs: list[Digest]) -> int:
        # Other daemons take a doomed blob for not stored, so none that they need may be doomed.
        await self._look()
        blobs = await self._managed.catalog.run(
            CatalogFile.without_root, blobs, self._oldest(), blobs
        )
        freed = 0
        for start in range(0, len(blobs), DOOMED_TOGETHER):
            sizes, batch = {}, blobs[start : start + DOOMED_TOGETHER]
            for digest in batch:
                size = await self._managed.store.blob_size(digest)
                if size is not None:
                    sizes[digest] = BlobEntry(digest, size)
            removed = await self._remove_batch(sizes, frozenset(batch))
            freed += sum(sizes[digest].size for digest in removed)
        return freed

    async def _remove_batch(
        self, batch: dict[Digest, BlobEntry], dropped: frozenset[Digest]
    ) -> list[Digest]:
        """Remove those of a batch that are still not needed, and return them."""
        await self._shared.doom({*batch, *dropped})
        await self._look()
        oldest = self._oldest()
        for root in await self._managed.catalog.run(CatalogFile.expired_roots, oldest, dropped):
            if root.digest in dropped:
                await self._remove_root(root)
        unneeded = await self._managed.catalog.run(
            CatalogFile.without_root, [*batch], oldest, dropped
        )
        removed: list[Digest] = []
        failures = Failures()
        for start in range(0, len(unneeded), MAX_CONCURRENT_CALLS):
            some = unneeded[start : start + MAX_CONCURRENT_CALLS]
            removals = [self._remove_one(digest, failures) for digest in some]
            removed += [digest for digest in await all_of(removals) if digest is not None]
        return removed

    async def _remove_root(self, root: Root) -> None:
        self._shared.check()
        await self._shared.remove_root(root)
        if root.digest is not None:
            await self._managed.catalog.run(CatalogFile.forget_superseded, root.digest)

    async def _remove_one(self, digest: Digest, failures: Failures) -> Optional[Digest]:
        # A client of the bucket that does not read the lease may have stored it meanwhile.
        stored_at = await self._shared.stored_at(digest)
        if stored_at is None or stored_at >= self._managed.now() - self._managed.bounds.grace:
            return None
        self._shared.check()
        try:
            if self._managed.in_use.is_held(digest) or not await self._managed.blobs.remove(digest):
                return None
        except OSError as error:
            failures.add(digest, error)
            return None
        await self._managed.catalog.run(CatalogFile.blob_removed, digest)
        return digest


def _failed(failure: Failure) -> None:
    if failure.check(CatalogUnusable, OSError):
        log.warn("blobs are not removed: {error}", error=str(failure.value))
    else:
        log.failure("removing blobs", failure)

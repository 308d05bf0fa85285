"""
Removing blobs that no version stands on.

Blobs that are in use stay, and those of other registries' models that lie in the same directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from attrs import define, frozen
from twisted.logger import Logger

from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Need, Version
from yukari.library.upkeep.index import ORPHANS, PAGE
from yukari.library.upkeep.managed import Managed
from yukari.manifest import Manifest
from yukari.names import Digest
from yukari.storage.ports import BlobEntry

log = Logger()

ADOPTED_WITHIN = 3600.0
"""Seconds after the catalog was made within which manifests of an older store are still moved."""
MAX_FAILURES = 10
"""Failed removals that one pass tolerates."""
MAX_ORPHAN = 1024 * 1024
"""Bytes; a larger blob is not looked at for whether it is a manifest."""


@frozen
class Swept:
    """The number of blobs that were removed, or would be, and their bytes."""

    blobs: int
    bytes: int


@define
class Failures:
    """Counts the blobs that one pass could not remove; too many of them end the pass."""

    count: int = 0

    def add(self, digest: Digest, error: OSError) -> None:
        """Log that a blob stays; raise its ``error`` if too many do: then the store is at fault."""
        self.count += 1
        if self.count > MAX_FAILURES:
            raise error
        log.warn("{digest}: not removed: {error}", digest=str(digest), error=str(error))


@define(eq=False, repr=False)
class Sweep:
    """Removes blobs from the store and from the catalog."""

    _managed: Managed

    async def check(self) -> frozenset[Digest]:
        """
        Return the blobs of other registries' models, which stay.

        `Unread`, OSError if a manifest cannot be read: then it is unknown which blobs are needed.
        """
        await self._managed.index.check()
        return await self._managed.store.inventory.named_elsewhere()

    async def remove(
        self,
        unneeded: Iterable[Digest],
        *,
        at_once: bool = False,
        failures: Optional[Failures] = None,
    ) -> int:
        """
        Remove these blobs, manifests first; return how many bytes that freed.

        Those that are needed or in use by now stay, for a later sweep, and so do those that cannot
        be removed; ``at_once`` removes also those that were in use a moment ago.
        `CatalogUnusable`, `Unread`, OSError.
        """
        failures = failures or Failures()
        elsewhere = await self.check()
        sizes: list[tuple[int, Digest]] = []
        for digest in unneeded:
            size = await self._managed.store.blob_size(digest)
            if size is not None and digest not in elsewhere:
                sizes.append((size, digest))
        freed = 0
        # A manifest is smaller than what it stands on.
        for size, digest in sorted(sizes):
            if await self._remove_one(digest, at_once, failures):
                freed += size
        return freed

    async def _remove_one(self, digest: Digest, at_once: bool, failures: Failures) -> bool:
        await self._managed.index.settled()
        if await self._managed.catalog.run(CatalogFile.is_needed, digest):
            return False
        # From here to the call that removes it nothing else runs.
        is_used = (
            self._managed.in_use.is_held(digest) if at_once else digest in self._managed.in_use
        )
        try:
            if is_used or not await self._managed.blobs.remove(digest):
                return False
        except OSError as error:
            failures.add(digest, error)
            return False
        await self._managed.catalog.run(CatalogFile.blob_removed, digest)
        return True

    async def run(self, grace: float, *, dry: bool = False) -> Swept:
        """
        Remove what no version stands on and was stored before the ``grace``, in seconds.

        Manifests that were here before the catalog count as superseded versions. With ``dry``,
        only count it. `CatalogUnusable`, `Unread`, OSError.
        """
        if not self._managed.index.looked:
            return Swept(0, 0)
        await self._managed.index.settled()
        await self._managed.index.check()
        old = await self._old_unneeded(self._managed.now() - grace)
        if old and not dry and await self._adopt(old):
            old = await self._old_unneeded(self._managed.now() - grace)
        blobs, freed, failures = 0, 0, Failures()
        if dry:
            return Swept(len(old), sum(each.size for each in old))
        for each in old:
            gone = await self.remove([each.digest], failures=failures)
            blobs += gone > 0 or each.size == 0
            freed += gone
        if blobs:
            log.info("{count} blobs that nothing stands on are removed", count=blobs)
        return Swept(blobs, freed)

    async def _old_unneeded(self, before: float) -> list[BlobEntry]:
        unneeded = set(await self._managed.catalog.run(CatalogFile.unneeded))
        if not unneeded:
            return []
        unneeded -= await self.check()
        found: list[BlobEntry] = []
        last: Optional[Digest] = None
        while page := await self._managed.store.blobs(last, PAGE):
            last = page[-1].digest
            found += [each for each in page if each.digest in unneeded and each.stored_at < before]
        return found

    async def _adopt(self, old: list[BlobEntry]) -> bool:
        """
        Take manifests that were here before the catalog for superseded versions.

        A catalog that was lost knew of which tags they were. Return whether there are any.
        """
        made_at = await self._managed.catalog.run(CatalogFile.made_at)
        adopted: list[Version] = []
        for each in old:
            if each.stored_at < made_at + ADOPTED_WITHIN and each.size <= MAX_ORPHAN:
                stored = await self._managed.store.get_manifest(ORPHANS[0], each.digest)
                if stored is not None and isinstance(stored.manifest, Manifest):
                    needs = {blob.digest: blob.size for blob in stored.manifest.blobs}
                    needs[each.digest] = each.size
                    adopted.append(
                        Version(*ORPHANS, each.digest, tuple(Need(*need) for need in needs.items()))
                    )
        if adopted:
            await self._managed.catalog.run(CatalogFile.adopt, adopted, made_at)
        return bool(adopted)

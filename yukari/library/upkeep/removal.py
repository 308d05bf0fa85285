"""
Removing a version: first its tag, then its row in the catalog, then its blobs.

Each step is durable before the next, so a crash leaves everything, or blobs that no tag stands on,
which the next sweep finds. A tag stays if it is pulled while it is being evicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Optional

from attrs import frozen
from twisted.logger import Logger

from yukari.library.catalog.file import CatalogFile
from yukari.library.catalog.rows import Candidate
from yukari.library.upkeep.managed import Managed
from yukari.library.upkeep.sweeping import Sweep
from yukari.manifest import Variant
from yukari.names import Digest, Repository, Tag
from yukari.storage.ports import NoRoom, StoredManifest

if TYPE_CHECKING:
    from yukari.library.upkeep.shared_pulls import SharedPulls
    from yukari.library.upkeep.shared_sweep import SharedSweep

log = Logger()


@frozen(eq=False, repr=False)
class Shared:
    """The work that a daemon shares with others of the same store."""

    sweep: SharedSweep
    pulls: SharedPulls


@frozen(eq=False, repr=False)
class Removal:
    """Removes tags and blobs; ``shared`` is None unless several daemons share the store."""

    _managed: Managed
    _sweep: Sweep
    shared: Optional[Shared] = None

    async def check(self) -> None:
        """`Unread`, OSError if blobs cannot be removed now: removing a tag would free nothing."""
        if self.shared is None:
            await self._sweep.check()
        else:
            await self.shared.sweep.check()

    async def let_go(self, candidate: Candidate) -> Optional[list[Digest]]:
        """Remove a superseded version's row, or a current one's tag; for the rest see `tag`."""
        version = candidate.version
        if candidate.superseded_at is None:
            return await self.tag(version.name, version.tag, version.digest, candidate.used_at)
        unneeded = await self._managed.catalog.run(
            CatalogFile.remove, version.name, version.tag, version.digest
        )
        return unneeded if self.shared is None else [need.digest for need in version.needs]

    async def tag(
        self, name: Repository, tag: Tag, digest: Optional[Digest] = None, used_at: float = 0.0
    ) -> Optional[list[Digest]]:
        """
        Remove a tag and what it named before; return the blobs that it may have stood on alone.

        With a ``digest``, the tag stays, and None is returned, if it names another one by now, if
        it cannot be read, or if it was pulled: from this daemon since the call, or from any other
        since ``used_at``, in seconds of the epoch.
        """
        began, needs = self._managed.clock.seconds(), list[Digest]()
        if self.shared is not None:
            # This daemon's catalog may know nothing of it.
            needs = await self._managed.index.needs(name, tag)
        (variants,) = await self._managed.store.read_anew([(name, tag)])
        if digest is not None:
            if digest not in {each.manifest.digest for each in variants.values()}:
                return None
            if await self._is_pulled(name, tag, began, used_at):
                return None
        await self._managed.store.inventory.remove_tag(name, tag)
        pulled = digest is not None and await self._is_pulled(name, tag, began, used_at)
        if pulled and await self._put_back(name, tag, variants):
            self._managed.index.tag_stored(name, tag)
            return None
        if self.shared is not None:
            await self.shared.pulls.forget(name, tag)
        await self._managed.marks.forget(name, tag)
        await self._managed.index.settled()
        unneeded = await self._managed.catalog.run(CatalogFile.remove, name, tag)
        if self.shared is not None and not await self._managed.store.tags(name):
            # What the model's tags named before, also as other daemons have seen it.
            needs += await self._managed.catalog.run(CatalogFile.kept_by_digest, name)
        return list({*unneeded, *needs})

    async def _put_back(
        self, name: Repository, tag: Tag, variants: Mapping[Variant, StoredManifest]
    ) -> bool:
        """Store a tag again and return True; without room remove it and return False. OSError."""
        try:
            for variant, stored in variants.items():
                if stored.checked_at:
                    await self._managed.store.put_manifest(
                        name, tag, stored.manifest, stored.checked_at, variant
                    )
        except (NoRoom, OSError) as error:
            log.warn(
                "{name}:{tag} is evicted although it was just pulled: {error}",
                name=str(name),
                tag=str(tag),
                error=str(error),
            )
            await self._managed.store.inventory.remove_tag(name, tag)
            return False
        return True

    async def _is_pulled(self, name: Repository, tag: Tag, began: float, used_at: float) -> bool:
        """Whether a tag was asked for since ``began``, or anywhere else since ``used_at``."""
        if self._managed.in_use.asked_at((name, tag)) >= began:
            return True
        return self.shared is not None and await self.shared.pulls.since(name, tag, used_at)

    async def blobs(self, unneeded: Iterable[Digest], *, at_once: bool = False) -> int:
        """
        Remove those of these blobs that nothing stands on; return how many bytes that freed.

        ``at_once`` removes also those that were in use a moment ago. `CatalogUnusable`, OSError.
        """
        if self.shared is not None:
            return await self.shared.sweep.remove(unneeded)
        return await self._sweep.remove(unneeded, at_once=at_once)

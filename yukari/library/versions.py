"""
Whether upstream has another version of a tag, and how it takes the place of the stored one.

Each variant that upstream was asked for has a time and a digest of its own. What is new of them is
put together, once the blobs are here that clients of the old version had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional, Union

from attrs import define, frozen

from yukari.errors import RegistryError
from yukari.library.agents import UserAgents
from yukari.library.blobs import Blobs
from yukari.library.children import Children
from yukari.library.prefetch import Prefetch
from yukari.manifest import AnyManifest, Manifest, ManifestList, Variant
from yukari.names import Digest, Repository, Tag
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.ports import NEVER_CHECKED, Store, StoredManifest


@frozen
class NewVersion:
    """Upstream's current manifests of the variants of a tag that changed, and the stored ones."""

    name: Repository
    tag: Tag
    fresh: dict[Variant, AnyManifest]
    stored: dict[Variant, StoredManifest]
    asked_at: float
    """When upstream was asked, in seconds of the epoch."""


@define(eq=False, repr=False)
class Versions:
    """Asks upstream about tags, and replaces what is stored."""

    _store: Store
    _upstream: AnyUpstream
    _blobs: Blobs
    _children: Children
    _prefetch: Prefetch
    agents: UserAgents
    _now: Callable[[], float]

    async def check(
        self, name: Repository, tag: Tag, is_due: Callable[[float], bool]
    ) -> Optional[NewVersion]:
        """
        Ask upstream about the stored variants of a tag that are due, by the time of their check.

        None if none is due: the tag was removed, or checked by another daemon. If one has changed
        the others are asked about too. `RegistryError`, OSError.
        """
        (stored,) = await self._store.read_anew([(name, tag)])
        asked = {v: each for v, each in stored.items() if each.checked_at != NEVER_CHECKED}
        if asked:
            stored = asked
        due = [variant for variant, each in stored.items() if is_due(each.checked_at)]
        if not due:
            return None
        new = NewVersion(name, tag, {}, stored, self._now())
        for variant in due:
            await self._ask(new, variant)
        for variant in stored.keys() - due if new.fresh else ():
            await self._ask(new, variant)
        return new

    async def _ask(self, new: NewVersion, variant: Variant) -> None:
        """Ask about one variant, as the newest client of the tag would."""
        name, tag = new.name, new.tag
        agent = self.agents.of(name, tag)
        try:
            await self._ask_as(agent, new, variant)
        except RegistryError as error:
            if error.status != 412 or self.agents.refused(name, tag, agent):
                raise
            await self._ask_as("", new, variant)
        else:
            self.agents.granted(name, tag, agent)

    async def _ask_as(self, agent: str, new: NewVersion, variant: Variant) -> None:
        """Ask about one variant; what is unchanged is noted as checked."""
        name, tag = new.name, new.tag
        digest = new.stored[variant].manifest.digest
        there = await self._upstream.manifest_digest(name, tag, agent, variant)
        if there != digest:
            manifest = await self._upstream.manifest(name, tag, agent, variant)
            if isinstance(manifest, ManifestList) and variant is Variant.PLAIN:
                manifest = await self._children.runnable(name, manifest)
            if manifest.digest != digest:
                new.fresh[variant] = manifest
                if isinstance(manifest, Manifest) and self._store.inventory.shared is not None:
                    # Other daemons are not to remove what it stands on, while it comes.
                    await self._store.put_manifest(name, manifest.digest, manifest, new.asked_at)
                return
        await self._store.touch_manifest(name, tag, digest, self._now(), variant)

    async def replace(self, new: NewVersion, *, at_any_hour: bool = False) -> None:
        """
        Put what is new in the place of what is stored, once its blobs are here.

        They come within PREFETCH_HOURS, unless ``at_any_hour``.
        """
        for manifest in new.fresh.values():
            if isinstance(manifest, Manifest):
                await self._prefetch.ensure_stored(new.name, manifest, at_any_hour=at_any_hour)
            else:
                await self._bring_children(new, manifest, at_any_hour=at_any_hour)
        # As of when upstream was asked: another daemon may have been told of a newer one since.
        for variant in Variant:
            if variant in new.fresh:
                await self._store.put_manifest(
                    new.name, new.tag, new.fresh[variant], new.asked_at, variant
                )

    async def _bring_children(
        self, new: NewVersion, listed: ManifestList, *, at_any_hour: bool
    ) -> None:
        """Bring a new list's children of those runners whose old child is stored with its blobs."""
        self._children.learn(new.name, listed)
        before = new.stored[Variant.LIST].manifest
        if isinstance(before, ManifestList):
            runners = [
                child.runner
                for child in before.children
                if await self._is_stored(new.name, child.inline or child.digest)
            ]
        else:
            runners = [listed.by_preference()[0].runner]
        for child in listed.children:
            if child.runner in runners:
                manifest = await self._children.get(new.name, child.digest)
                await self._prefetch.ensure_stored(new.name, manifest, at_any_hour=at_any_hour)

    async def _is_stored(self, name: Repository, child: Union[Manifest, Digest]) -> bool:
        """Whether a list's child is stored with all its blobs."""
        if isinstance(child, Digest):
            stored = await self._store.get_manifest(name, child)
            if stored is None or not isinstance(stored.manifest, Manifest):
                return False
            child = stored.manifest
        for blob in child.blobs:
            if await self._blobs.stored_size(name, blob.digest) is None:
                return False
        return True

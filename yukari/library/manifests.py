"""Manifests: from the store if they are there, else from upstream, once for all who ask."""

from __future__ import annotations

from typing import Optional

from attrs import define, field, frozen
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from yukari.errors import RegistryError, manifest_unknown
from yukari.library.agents import UserAgents
from yukari.library.blobs import Blobs
from yukari.library.children import Children
from yukari.library.events import Events
from yukari.library.in_use import InUse
from yukari.library.keeping import Keeper
from yukari.library.prefetch import Prefetch
from yukari.library.revalidator import Revalidator
from yukari.manifest import AnyManifest, ManifestList, Variant, manifests_in
from yukari.names import Digest, Reference, Repository, Tag
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.ports import NEVER_CHECKED, SHORT, Store
from yukari.storage.variants import differ
from yukari.tasks import Coalescer, Slices

UNKNOWN_FOR = 5.0
"""
Seconds for which "no such model" and "not for you" are believed: against storms of one question,
each of which may take several requests if a registry challenges.
"""
ASKED_WITHIN = 5.0
"""Seconds for which a client waits for a variant of a tag whose other variant is stored."""
UNASKED_FOR = 60.0
"""Seconds for which no other client waits so, if one has waited in vain."""
MAX_UNKNOWN = 1000
"""References of which a refusal is remembered, and variants that were asked for in vain."""
MAX_LEARNED = 10_000
"""Manifests that are remembered as having had the sizes of their blobs noted."""
LEARNED_IN_A_TURN = 2000
"""Blobs of a manifest whose sizes are noted in one turn of the reactor, some 5 ms."""


@frozen
class FoundManifest:
    """
    A manifest or a list, and how it was found: ``hit``, ``stale``, or ``miss`` if upstream was
    asked.
    """

    manifest: AnyManifest
    result: str


@define(eq=False, repr=False)
class Manifests:
    """All manifests, wherever they are."""

    _store: Store
    _upstream: AnyUpstream
    _blobs: Blobs
    _children: Children
    _prefetch: Prefetch
    _agents: UserAgents
    _revalidator: Optional[Revalidator]
    """None if upstream is never asked."""
    _clock: IReactorTime
    _keeper: Keeper
    _in_use: InUse
    _events: Events
    _unasked: TTLCache[tuple[Repository, Tag, Variant], None] = field(init=False)
    """Variants for which a client has waited in vain."""
    _unknown: TTLCache[tuple[Repository, Reference], RegistryError] = field(init=False)
    _learned: LRUCache[tuple[Repository, Digest], None] = field(
        factory=lambda: LRUCache(MAX_LEARNED), init=False
    )
    """Manifests whose blobs' sizes are known."""
    _once: Coalescer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._once = Coalescer(Slices(self._clock))
        self._unknown = TTLCache(MAX_UNKNOWN, UNKNOWN_FOR, self._clock.seconds)
        self._unasked = TTLCache(MAX_UNKNOWN, UNASKED_FOR, self._clock.seconds)

    def stop(self) -> None:
        """Give up what upstream is being asked."""
        self._once.stop()

    async def get(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
        *,
        prefetch: bool,
    ) -> FoundManifest:
        """
        Return a manifest, or a list to clients that accept lists. `RegistryError`.

        With ``prefetch`` its blobs are fetched ahead.
        """
        if isinstance(reference, Tag):
            self._in_use.ask([(name, reference)])
        found = await self._find(name, reference, user_agent, variant)
        manifest = found.manifest
        if isinstance(manifest, ManifestList):
            if variant is Variant.PLAIN:
                raise manifest_unknown(name, reference)
            self._children.learn(name, manifest)
        for each in manifests_in(manifest):
            self._in_use.ask_whole(each)
        if isinstance(reference, Tag):
            self._in_use.ask([(name, reference)])
            if found.result == "miss":
                self._agents.seen(name, reference, user_agent, granted=True)
        await self.learn(name, manifest)
        if prefetch:
            is_first = found.result == "miss"
            await self._prefetch.seen_and_checked(name, manifest, is_first=is_first)
        return found

    async def _find(
        self, name: Repository, reference: Reference, user_agent: str, variant: Variant
    ) -> FoundManifest:
        try:
            stored = await self._store.get_manifest(name, reference, variant)
        except OSError as error:
            if error.errno in SHORT:
                raise
            return await self._past_store(error, name, reference, user_agent, variant)
        if stored is None:
            return FoundManifest(await self._miss(name, reference, user_agent, variant), "miss")
        if isinstance(reference, Digest):
            return FoundManifest(stored.manifest, "hit")
        self._agents.seen(name, reference, user_agent, granted=False)
        revalidator = self._revalidator
        if revalidator is not None and not revalidator.may_check(name, reference):
            revalidator = None  # Upstream is not asked about it.
        if stored.checked_at == NEVER_CHECKED and revalidator is not None:
            told = await self._ask_soon(name, reference, user_agent, variant, stored.manifest)
            if told is not None:
                return FoundManifest(told, "miss")
        result = "hit"
        if revalidator is not None:
            if revalidator.is_stale(name, reference, stored):
                result = "stale"
            revalidator.pulled(name, reference, stored)
        return FoundManifest(stored.manifest, result)

    async def learn(self, name: Repository, manifest: AnyManifest) -> None:
        """Note the sizes of a manifest's blobs; if they are many, a part of them in a turn."""
        if (name, manifest.digest) in self._learned:
            return
        for each in manifests_in(manifest):
            self._blobs.learn(name, each.blobs[:LEARNED_IN_A_TURN], each.config)
            for start in range(LEARNED_IN_A_TURN, len(each.blobs), LEARNED_IN_A_TURN):
                await deferLater(self._clock, 0)
                self._blobs.learn(name, each.blobs[start : start + LEARNED_IN_A_TURN])
        self._learned[name, manifest.digest] = None

    # what is not stored

    async def _past_store(
        self,
        error: OSError,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant,
    ) -> FoundManifest:
        """Return what upstream has, or raise the ``error`` with which the store did not answer."""
        try:
            found = await self._miss(name, reference, user_agent, variant)
        except RegistryError:
            raise error from None
        return FoundManifest(found, "miss")

    async def _miss(
        self, name: Repository, reference: Reference, user_agent: str, variant: Variant
    ) -> AnyManifest:
        if isinstance(reference, Digest):
            child = await self._children.find(name, reference)
            if child is not None:
                return child
        unknown = self._unknown.get((name, reference))
        if unknown is not None:
            raise unknown.with_traceback(None)
        key = name, reference, user_agent, variant
        return await self._once.run(key, self._fetch, *key)

    async def _fetch(
        self, name: Repository, reference: Reference, user_agent: str, variant: Variant
    ) -> AnyManifest:
        try:
            manifest = await self._upstream.manifest(name, reference, user_agent, variant)
        except RegistryError as error:
            if error.status in (403, 404):
                self._unknown[name, reference] = error
            raise
        if isinstance(manifest, ManifestList) and isinstance(reference, Tag):
            await self._put(name, reference, manifest, Variant.LIST)
            if variant is Variant.PLAIN:
                manifest = await self._children.runnable(name, manifest)
                await self._put(name, reference, manifest, Variant.PLAIN)
            return manifest
        await self._put(name, reference, manifest, Variant.PLAIN)
        if variant is Variant.LIST and isinstance(reference, Tag):
            await self._put(name, reference, manifest, Variant.LIST)
        return manifest

    async def _put(
        self, name: Repository, reference: Reference, manifest: AnyManifest, variant: Variant
    ) -> None:
        await self._keeper.put(name, reference, manifest, variant)
        if isinstance(reference, Tag):
            self._events.tag_stored(name, reference)

    # a variant that upstream was never asked for

    async def _ask_soon(
        self,
        name: Repository,
        tag: Tag,
        user_agent: str,
        variant: Variant,
        stored: AnyManifest,
    ) -> Optional[AnyManifest]:
        """Return what upstream says; None if it says nothing, or not within `ASKED_WITHIN`."""
        if (name, tag, variant) in self._unasked:
            return None
        key = name, tag, user_agent, variant
        answer: Deferred[Optional[AnyManifest]] = Deferred.fromCoroutine(
            self._once.run(key, self._ask_variant, *key, stored)
        )

        def in_vain(*_: object) -> None:
            self._unasked[name, tag, variant] = None

        answer.addTimeout(ASKED_WITHIN, self._clock, in_vain)
        try:
            return await answer
        except RegistryError:
            return None

    async def _ask_variant(
        self,
        name: Repository,
        tag: Tag,
        user_agent: str,
        variant: Variant,
        stored: AnyManifest,
    ) -> AnyManifest:
        """
        Ask upstream for the variant of a tag of which the other one is stored.

        What it says is stored, unless it is of another version: that one takes the place of the
        stored one once its blobs are here.
        """
        manifest = await self._upstream.manifest(name, tag, user_agent, variant)
        if isinstance(manifest, ManifestList) and variant is Variant.PLAIN:
            manifest = await self._children.runnable(name, manifest)
        other = Variant.PLAIN if variant is Variant.LIST else Variant.LIST
        beside = await self._store.get_manifest(name, tag, other)
        known = stored if beside is None else beside.manifest
        is_other = differ(known, manifest) if variant is Variant.LIST else differ(manifest, known)
        if manifest.digest == stored.digest or not is_other:
            await self._put(name, tag, manifest, variant)
        else:
            await self._put(name, manifest.digest, manifest, variant)
            assert self._revalidator is not None
            self._revalidator.moved(name, tag)
        return manifest

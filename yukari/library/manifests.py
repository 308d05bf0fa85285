"""Manifests: from the store if they are there, else from upstream, once for all who ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional, Union

from attrs import define, field, frozen
from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.errors import RegistryError
from yukari.library.agents import UserAgents
from yukari.library.blobs import Blobs
from yukari.library.prefetch import Prefetch
from yukari.library.revalidator import Revalidator
from yukari.manifest import Manifest
from yukari.names import Digest, ModelName, Reference, Tag
from yukari.sources.offline import Offline
from yukari.sources.upstream import Upstream
from yukari.storage.ports import NoRoom, Store
from yukari.tasks import Coalescer

log = Logger()

UNKNOWN_FOR = 5.0
"""Seconds for which upstream's "no such model" is believed, against storms of one question."""
MAX_UNKNOWN = 1000
MAX_LEARNED = 10_000


@frozen
class Found:
    """A manifest and how it was found: ``hit``, ``stale``, or ``miss`` if upstream was asked."""

    manifest: Manifest
    result: str


@define(eq=False)
class Manifests:
    """All manifests, wherever they are."""

    _store: Store
    _upstream: Union[Upstream, Offline]
    _blobs: Blobs
    _prefetch: Prefetch
    _agents: UserAgents
    _revalidator: Optional[Revalidator]
    """None if upstream is never asked."""
    _clock: IReactorTime
    _now: Callable[[], float]
    _stored: Callable[[], None]
    """Called whenever a manifest was stored."""
    _unknown: TTLCache[tuple[ModelName, Reference], RegistryError] = field(init=False)
    _learned: LRUCache[tuple[ModelName, Digest], None] = field(
        factory=lambda: LRUCache(MAX_LEARNED), init=False
    )
    """Manifests whose blobs' sizes are known."""
    _once: Coalescer = field(factory=Coalescer, init=False)

    def __attrs_post_init__(self) -> None:
        self._unknown = TTLCache(MAX_UNKNOWN, UNKNOWN_FOR, self._clock.seconds)

    async def get(
        self, name: ModelName, reference: Reference, user_agent: str, *, prefetch: bool
    ) -> Found:
        """Return a manifest; with ``prefetch`` its blobs start to come. `RegistryError`."""
        stored = await self._store.get_manifest(name, reference)
        if stored is not None and isinstance(stored.manifest, Manifest):
            manifest, result = stored.manifest, "hit"
            if isinstance(reference, Tag) and self._revalidator is not None:
                if self._revalidator.is_stale(name, reference, stored):
                    result = "stale"
                self._revalidator.pulled(name, reference, stored)
        else:
            unknown = self._unknown.get((name, reference))
            if unknown is not None:
                raise unknown.with_traceback(None)
            key = name, reference, user_agent
            manifest = await self._once.run(key, self._fetch, name, reference, user_agent)
            result = "miss"
        if isinstance(reference, Tag):
            self._agents.seen(name, reference, user_agent)
        if (name, manifest.digest) not in self._learned:
            self._learned[name, manifest.digest] = None
            self._blobs.learn(name, manifest.blobs)
        if prefetch:
            self._prefetch.start(name, manifest)
        return Found(manifest, result)

    async def _fetch(self, name: ModelName, reference: Reference, user_agent: str) -> Manifest:
        try:
            manifest = await self._upstream.manifest(name, reference, user_agent)
        except RegistryError as error:
            if error.status == 404:
                self._unknown[name, reference] = error
            raise
        try:
            await self._store.put_manifest(name, reference, manifest, self._now())
        except (OSError, NoRoom) as error:
            log.error(
                "{name}:{reference}: manifest not stored: {error}",
                name=str(name),
                reference=str(reference),
                error=str(error),
            )
        self._stored()
        return manifest

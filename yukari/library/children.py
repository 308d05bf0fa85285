"""The manifests that lists refer to: upstream has them among the blobs, and so do clients here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define, evolve, field
from cachetools import LRUCache
from twisted.internet.defer import Deferred

from yukari.errors import RegistryError
from yukari.large import IsLarge, LargeManifests
from yukari.library.keeping import Keeper
from yukari.manifest import LARGE, MAX_BYTES, InvalidManifest, Manifest, ManifestList, Variant
from yukari.names import Digest, Repository
from yukari.sources.upstreams import AnyUpstream
from yukari.storage.manifest_cache import cost_of
from yukari.storage.ports import SHORT, Store, StoredManifest
from yukari.storage.readable import StoredBlob
from yukari.tasks import Coalescer, Slices

MAX_CHILDREN = 50_000
"""Children, and blobs that are no manifests, that are remembered."""
MAX_INLINE = 12 * 1024 * 1024
"""
Bytes of memory, about, of the children that lists have inline, and the same of those read from
blobs; the largest one fits.
"""
MAX_TRIED = 8
"""Children of a list that are tried for a client that accepts no lists."""
MAX_RECALLED = 20
"""Stored tags of a model in whose lists a child is looked for."""


def _cost(child: Manifest) -> int:
    return cost_of(StoredManifest(child, 0.0))


class _Inline(LRUCache[tuple[Repository, Digest], Manifest]):
    """Children that lists have inline; ``dropped`` is called with the key of each that goes."""

    def __init__(self, dropped: Callable[[tuple[Repository, Digest]], object]) -> None:
        super().__init__(MAX_INLINE, _cost)
        self._dropped = dropped

    def popitem(self) -> tuple[tuple[Repository, Digest], Manifest]:
        key, child = super().popitem()
        self._dropped(key)
        return key, child


@define(eq=False, repr=False)
class Children:
    """The children of all lists that were served, or that are stored for a model asked for."""

    _store: Store
    _upstream: AnyUpstream
    _in_thread: Callable[..., Deferred[Any]]
    _keeper: Keeper
    _stored: Callable[[Repository], None]
    """Called with the model whenever a child was stored."""
    _large: LargeManifests = field(factory=LargeManifests)
    _slices: Optional[Slices] = None
    """Continues those who wait for one child."""
    _known: LRUCache[tuple[Repository, Digest], None] = field(
        factory=lambda: LRUCache(MAX_CHILDREN), init=False
    )
    """Children of lists."""
    _inline: _Inline = field(init=False)
    _recalled: LRUCache[Repository, None] = field(
        factory=lambda: LRUCache(MAX_CHILDREN), init=False
    )
    _blobs: LRUCache[Digest, None] = field(factory=lambda: LRUCache(MAX_CHILDREN), init=False)
    """Stored blobs that are no manifests."""
    _read: LRUCache[Digest, Manifest] = field(
        factory=lambda: LRUCache(MAX_INLINE, _cost), init=False
    )
    """Stored blobs that are manifests, without their bytes."""
    _once: Coalescer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._once = Coalescer(self._slices)
        self._inline = _Inline(self._forget)

    def stop(self) -> None:
        """Give up what upstream is being asked."""
        self._once.stop()

    def learn(self, name: Repository, listed: ManifestList) -> None:
        """Note a list's children."""
        for child in listed.children:
            self._known[name, child.digest] = None
            if child.inline is not None:
                self._inline[name, child.digest] = child.inline

    def _forget(self, key: tuple[Repository, Digest]) -> None:
        """Let the child be looked for among the stored lists."""
        self._known.pop(key, None)
        self._recalled.pop(key[0], None)

    async def find(
        self, name: Repository, digest: Digest, *, recall: bool = True
    ) -> Optional[Manifest]:
        """
        Return the child of that digest, fetched if need be; None if no known list has it.

        With ``recall`` the lists that are stored for the model count too, whoever served them.
        `RegistryError` if it is a child and cannot be had.
        """
        if recall and (name, digest) not in self._known and name not in self._recalled:
            await self._recall(name)
        if (name, digest) not in self._known:
            return None
        return await self.get(name, digest)

    async def get(self, name: Repository, digest: Digest) -> Manifest:
        """Return a list's child, from the store or from upstream. `RegistryError`, OSError."""
        try:
            stored = await self._store.get_manifest(name, digest)
        except OSError as error:
            if error.errno in SHORT:
                raise
            stored = None
        if stored is not None and isinstance(stored.manifest, Manifest):
            return stored.manifest
        child = self._inline.get((name, digest))
        return await self._once.run((name, digest), self._fetch, name, digest, child)

    async def _fetch(self, name: Repository, digest: Digest, child: Optional[Manifest]) -> Manifest:
        if child is None:
            child = await self._upstream.child(name, digest)
        await self._keeper.put(name, digest, child)
        self._stored(name)
        return child

    async def runnable(self, name: Repository, listed: ManifestList) -> Manifest:
        """
        Return what a client gets of a list that does not accept lists. `RegistryError`.

        It is the first child in the order of preference that can be had, of the first `MAX_TRIED`.
        """
        self.learn(name, listed)
        failed: Optional[RegistryError] = None
        for child in listed.by_preference()[:MAX_TRIED]:
            try:
                return await self.get(name, child.digest)
            except RegistryError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    async def of_blob(self, digest: Digest, blob: StoredBlob) -> Optional[Manifest]:
        """Return the manifest that an opened blob is; None if it is none, or cannot be read."""
        if blob.size > MAX_BYTES or digest in self._blobs:
            return None
        manifest: Optional[Manifest] = self._read.get(digest)
        if manifest is not None:
            return manifest
        try:
            manifest = await self._in_thread(_read_manifest, blob, LARGE)
        except IsLarge:
            manifest = await self._large.alone(self._in_thread, _read_manifest, blob, MAX_BYTES)
        except OSError:
            return None
        if manifest is None:
            self._blobs[digest] = None
        else:
            self._read[digest] = manifest
        return manifest

    async def _recall(self, name: Repository) -> None:
        """Learn the lists that are stored for a model: an earlier process served them."""
        self._recalled[name] = None
        try:
            for tag in (await self._store.tags(name))[:MAX_RECALLED]:
                stored = await self._store.get_manifest(name, tag, Variant.LIST)
                if stored is not None and isinstance(stored.manifest, ManifestList):
                    self.learn(name, stored.manifest)
        except OSError:
            self._recalled.pop(name, None)  # They cannot be read now.


def _read_manifest(blob: StoredBlob, most: int) -> Optional[Manifest]:
    """
    The manifest that a blob is, without its bytes; None if it is none. `IsLarge` if it may be one
    of more than ``most`` bytes; OSError. Blocks: for a disk thread.
    """
    try:
        if blob.read(0, 1) != b"{":
            return None
        if blob.size > most:
            raise IsLarge
        return evolve(Manifest.parse(blob.read(0, blob.size)), body=b"")
    except InvalidManifest:
        return None

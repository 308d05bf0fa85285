"""Fetching the blobs of a manifest before anybody asks for them."""

from __future__ import annotations

from typing import Optional

from attrs import define, field
from cachetools import LRUCache
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.errors import RegistryError
from yukari.fills.fill import Fill
from yukari.fills.manager import FillManager
from yukari.library.blobs import Blobs
from yukari.manifest import AnyManifest, Descriptor, Manifest, manifests_in
from yukari.names import Digest, ModelName
from yukari.tasks import Background

log = Logger()

MAX_ARMED = 50_000
"""Blobs that, once asked for, bring the others of their manifest."""
MAX_WHOLE = 10_000
"""Manifests of which it is remembered that all their blobs are stored."""


@define(eq=False)
class Prefetch:
    """Starts fills for the blobs that manifests name."""

    _blobs: Blobs
    _fills: FillManager
    _mode: str = "all"
    """``all``; ``asked``, if a manifest alone starts nothing; or ``none``."""
    running: Background = field(factory=Background, init=False)
    _whole: LRUCache[Digest, int] = field(factory=lambda: LRUCache(MAX_WHOLE), init=False)
    """Manifests whose blobs were all found stored, with `Blobs.removed` as it was then."""

    _armed: LRUCache[tuple[ModelName, Digest], Optional[Manifest]] = field(
        factory=lambda: LRUCache(MAX_ARMED), init=False
    )
    """What `asked` starts by a blob; None if the blob does not tell which of several manifests."""

    def seen(self, name: ModelName, found: AnyManifest) -> None:
        """
        A client got a manifest, or a list.

        Of a list nothing is fetched: nobody knows yet which of its children the client runs. Once
        the client asks for a blob that only one of the inline children has, it is known.
        """
        if self._mode == "all" and isinstance(found, Manifest):
            self.start(name, found)
        elif self._mode != "none":
            for manifest in manifests_in(found):
                self._arm(name, manifest)

    def _arm(self, name: ModelName, manifest: Manifest) -> None:
        for blob in manifest.blobs:
            key = name, blob.digest
            other = self._armed.get(key, manifest)
            same = other is not None and other.digest == manifest.digest
            self._armed[key] = manifest if same else None

    def asked(self, name: ModelName, digest: Digest) -> None:
        """A client asks for a blob."""
        manifest = self._armed.get((name, digest))
        if manifest is not None:
            self.start(name, manifest)

    def start(self, name: ModelName, manifest: Manifest) -> None:
        """Start to fetch those blobs of a manifest that are not stored, in the background."""
        if self._whole.get(manifest.digest) == self._blobs.removed:
            return
        if manifest.digest not in self.running:
            self.running.start(manifest.digest, self._fetch_all(name, manifest), _failed)

    async def _fetch_all(self, name: ModelName, manifest: Manifest) -> None:
        removed, missing = self._blobs.removed, 0
        for blob in manifest.blobs:
            try:
                missing += await self._start_one(name, blob) is not None
            except (RegistryError, OSError) as error:
                missing += 1
                log.warn("{digest}: {error}", digest=str(blob.digest), error=str(error))
        if not missing:
            self._whole[manifest.digest] = removed

    async def _start_one(self, name: ModelName, blob: Descriptor) -> Optional[Fill]:
        """Start the fill of a blob; None if the blob is stored."""
        self._blobs.learn(name, [blob])
        found = await self._blobs.fetch(name, blob.digest)
        if not isinstance(found, Fill):
            return None
        found.start()
        return found

    async def ensure_stored(self, name: ModelName, manifest: Manifest) -> None:
        """Return when all blobs of a manifest are stored; `RegistryError` if one cannot be."""
        started = [await self._start_one(name, blob) for blob in manifest.blobs]
        for fill in started:
            if fill is not None:
                await self._fills.end_of(fill)
                if isinstance(fill.error, RegistryError):
                    raise fill.error
        for blob in manifest.blobs:
            if await self._blobs.stored_size(name, blob.digest) is None:
                raise RegistryError("UNAVAILABLE", f"blob {blob.digest} is not stored", 503)

    def stop(self) -> None:
        """Start no more fills."""
        self.running.stop()


def _failed(failure: Failure) -> None:
    log.failure("prefetching", failure)

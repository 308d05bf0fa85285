"""
Putting an archive's models into a store.

The archive is read in a thread of its own; every blob goes through a spool and is stored once its
digest was checked, and a model's tag once all of its blobs are stored. What is there already is
skipped, so an import that broke off is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Optional

from attrs import define, field
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import blockingCallFromThread

from yukari.config.registries import is_known
from yukari.errors import RegistryError
from yukari.fills.manager import Reserve, open_at_once
from yukari.library.models.archive import (
    Archived,
    ArchivedBlob,
    ArchiveIndex,
    BadArchive,
    Packed,
    read_archive,
)
from yukari.library.models.shown_names import ShownNames
from yukari.manifest import AnyManifest, Manifest, ManifestList, Variant
from yukari.names import AS_LLAMA_CPP, DEFAULT, Digest, Repository, Tag
from yukari.storage.ports import NEVER_CHECKED, Spool, Store

Stored = Callable[[Repository, Tag], None]
IMPORTED = Repository(DEFAULT, "library", "imported")
"""The repository that a spool of an archive's blob notes; it is asked for nothing."""


@define(eq=False, repr=False)
class Importer:
    """
    Imports one archive into ``store``.

    ``reactor`` is the running one; ``skips`` says which blobs come another way, and ``progress`` is
    told of the bytes that were read, from any thread.
    """

    _store: Store
    _names: ShownNames
    _reactor: Any
    _reserve: Reserve = open_at_once
    _hold: Callable[[Iterable[Any]], AbstractContextManager[None]] = lambda _: nullcontext()
    _skips: Callable[[Digest], bool] = lambda _: False
    _blob_stored: Callable[[Digest, int], None] = lambda *_: None
    _tag_stored: Stored = lambda *_: None
    _link: Optional[Callable[[str, Digest], bool]] = None
    """Stores a file by linking it, without a copy; False if it cannot. Blocks."""
    progress: Callable[[int], None] = lambda _: None
    _held: ExitStack = field(factory=ExitStack, init=False)
    models: list[str] = field(factory=list, init=False)
    """The names of the models that were stored."""
    skipped: int = field(default=0, init=False)
    """Bytes that were stored already."""
    written: int = field(default=0, init=False)

    def read(self, file: Any) -> None:
        """
        Import what ``file.read(count)`` gives; blocks, in a thread that is not the reactor's.

        `BadArchive`, OSError, `NoRoom`.
        """
        self.take(read_archive(file))

    def take(self, archive: Iterator[Archived]) -> None:
        """Import what an archive consists of; as `read`."""
        index: Optional[ArchiveIndex] = None
        try:
            for found in archive:
                if isinstance(found, ArchiveIndex):
                    index = found
                    for packed in index.models:
                        self._named(packed)  # Nothing is stored if one may not be.
                else:
                    self._take_blob(found)
            if index is None:
                raise BadArchive("it has no index")
            for packed in index.models:
                self._call(self._store_model, packed)
        finally:
            self._call(self._release)

    def _call(self, work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Run a coroutine in the reactor's thread, and wait for it here."""

        def begin() -> Deferred[Any]:
            return ensureDeferred(work(*arguments))

        return blockingCallFromThread(self._reactor, begin)

    # blobs

    def _take_blob(self, blob: ArchivedBlob) -> None:
        if self._call(self._is_stored, blob.digest):
            self.skipped += blob.size
            return  # Its bytes are passed by unread.
        if blob.path is not None and self._link is not None:
            for chunk in blob.chunks():
                self.progress(len(chunk))
            if self._link(blob.path, blob.digest):
                self.written += blob.size
                return
            with open(blob.path, "rb") as file:
                self._take_blob(ArchivedBlob(blob.digest, blob.size, file))
            return
        spool: Optional[Spool] = None
        try:
            if not self._skips(blob.digest):
                spool = self._call(self._open, blob)
            offset = 0
            for chunk in blob.chunks():
                if spool is not None:
                    spool.write([(offset, [chunk])])
                offset += len(chunk)
                self.progress(len(chunk))
            if spool is not None:
                self._call(self._store.publish, spool)
                self._reactor.callFromThread(self._blob_stored, blob.digest, blob.size)
                self.written += blob.size
                spool.close()
        except BaseException:
            if spool is not None:
                spool.discard()
            raise

    async def _release(self) -> None:
        self._held.close()

    async def _is_stored(self, digest: Digest) -> bool:
        # Until its model is stored nothing stands on it.
        self._held.enter_context(self._hold([digest]))
        return await self._store.blob_size(digest) is not None

    async def _open(self, blob: ArchivedBlob) -> Spool:
        return await self._reserve(
            blob.digest,
            blob.size,
            lambda: self._store.new_spool(blob.digest, blob.size, IMPORTED),
        )

    # models

    async def _store_model(self, packed: Packed) -> None:
        name, tag = self._named(packed)
        variants: list[tuple[Variant, AnyManifest]] = []
        for variant, digest in ((Variant.PLAIN, packed.plain), (Variant.LIST, packed.listed)):
            if digest is not None:
                found = await self._store.get_manifest(name, digest)
                if found is None:
                    raise BadArchive(f"{packed.model}: its manifest {digest} is not in the archive")
                is_list = isinstance(found.manifest, ManifestList)
                variants.append((Variant.LIST if is_list else variant, found.manifest))
        checked_at = await self._checked_at(name, tag)
        for variant, manifest in variants:
            if isinstance(manifest, Manifest):
                if self._store.inventory.shared is not None:
                    # Other daemons do not remove from now on what it stands on.
                    await self._store.put_manifest(name, manifest.digest, manifest, NEVER_CHECKED)
                await self._check_whole(packed.model, manifest)
            await self._store.put_manifest(name, tag, manifest, checked_at, variant)
        self._tag_stored(name, tag)
        self.models.append(self._names.show(str(name), str(tag)))

    async def _checked_at(self, name: Repository, tag: Tag) -> float:
        """
        Return the check time to store for an imported tag: later than all that it replaces.

        In a bucket, and beside a list, the manifest that was checked last wins.
        """
        there = [await self._store.get_manifest(name, tag, variant) for variant in Variant]
        last = max((each.checked_at for each in there if each is not None), default=NEVER_CHECKED)
        return last if last == NEVER_CHECKED else last + 1

    def _named(self, packed: Packed) -> tuple[Repository, Tag]:
        """
        Return a model's name in this cache.

        A host that is not known may be a cache's own: its models become the default registry's.

        `BadArchive` for a model of Hugging Face, say, if that is not mirrored.
        """
        parts = packed.model.split("/")
        is_named = len(parts) == 3 and (
            self._names.registries.find(parts[0]) is not None
            or is_known(parts[0].removesuffix(AS_LLAMA_CPP))
        )
        try:
            wanted = self._names.parse(packed.model if is_named else "/".join(parts[-2:]))
        except RegistryError as error:
            raise BadArchive(f"{packed.model[:200]}: {error}") from None
        return wanted.name, wanted.tag

    async def _check_whole(self, model: str, manifest: Manifest) -> None:
        for blob in manifest.blobs:
            stored = await self._store.blob_size(blob.digest)
            if stored is None and not self._skips(blob.digest):
                raise BadArchive(f"{model}: its blob {blob.digest} is not in the archive")

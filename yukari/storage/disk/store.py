"""
The embedded default: a directory, laid out as Ollama lays out its own.

::

    manifests/HOST/NAMESPACE/MODEL/TAG     as Ollama has them; HOST is the upstream's
    manifests-v2/HOST/NAMESPACE/MODEL/TAG  links to blobs, as Ollama 0.40 has them
    blobs/sha256-HEX                       as Ollama has them; manifests too
    yukari/lock                            held while a daemon owns the directory
    yukari/spool/sha256-HEX.spool, .cover  blobs on their way (or in ``spool_dir``)
    yukari/tmp/                            files in the making; emptied at the start

So an existing ``OLLAMA_MODELS`` directory works as a store at once, and a store can be copied to
one. Nothing is ever removed but damaged blobs (`forget_blob`) and what lies in ``yukari/``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from typing import Any, Optional, cast

from attrs import Attribute, define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.units import FreeSpace
from yukari.manifest import AnyManifest, Variant
from yukari.names import Digest, ModelName, Reference, Tag
from yukari.sources.base import BlobSource, KeptSource
from yukari.storage.disk.atomic import (
    make_directories,
    remove,
    sync_directory,
    temporary,
    write_all,
)
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.layout import Layout, is_blob
from yukari.storage.disk.lock import DirectoryLock
from yukari.storage.disk.manifests import Loaded, ManifestFiles
from yukari.storage.disk.migration import Migration
from yukari.storage.disk.space import Room, Statvfs
from yukari.storage.disk.spool import SpoolFile, digests_in, open_in_rooms, put_back
from yukari.storage.manifest_cache import ManifestCache
from yukari.storage.ports import (
    BlobFile,
    Holdings,
    ManifestEntry,
    Spool,
    StoredManifest,
    StoreUnusable,
    Unfinished,
)
from yukari.storage.variants import check_put
from yukari.threads import DiskWork, InThread

_HOST = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]{0,254}")
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_BLOCK = 1024 * 1024


def _absolute(path: str) -> str:
    return os.path.abspath(path)


def _is_host(_: object, __: Attribute[str], value: str) -> None:
    if not _HOST.fullmatch(value):
        raise ValueError(f"upstream host {value!a}: expected a host name, with its port if need be")


@define(eq=False)
class DirectoryStore(DiskWork):
    """
    `Store` in the directory ``path``, of what ``upstream_host`` (with its port, if need be) has.

    ``in_thread`` calls a blocking function in one of several disk threads.
    ``spool_dir`` may be on another file system than ``path``: publishing is then
    a copy and takes the blob's size there as well. Whoever stops the store has
    closed its spools.
    """

    path: str = field(converter=_absolute)
    upstream_host: str = field(validator=_is_host)
    _in_thread: InThread
    _clock: IReactorTime
    spool_dir: Optional[str] = None
    min_free: FreeSpace = FreeSpace(percent=5.0)
    _statvfs: Statvfs = os.statvfs
    _cache: ManifestCache[Loaded] = field(init=False)
    _files: ManifestFiles = field(init=False)
    _migration: Migration = field(init=False)
    _migrating: Deferred[None] = field(factory=lambda: succeed(None), init=False)
    _changes: int = field(default=0, init=False)
    """How often a manifest was put or touched."""
    _room: Room = field(init=False)
    _landing: Optional[Room] = field(default=None, init=False)
    """The room for blobs where spools are on another file system."""
    _locks: list[DirectoryLock] = field(factory=list, init=False)
    _under_way: set[Deferred[Any]] = field(factory=set, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        own = self._own("spool")
        self.spool_dir = os.path.abspath(self.spool_dir) if self.spool_dir else own
        self._cache = ManifestCache(self._clock)
        layout = Layout(self.path, self.upstream_host)
        older = self._own("manifests", self.upstream_host)
        self._files = ManifestFiles(layout, self._own("tmp"), older)
        self._migration = Migration(self._own("manifests"), self._files)
        self._room = Room(self.spool_dir, self.min_free, self._statvfs)

    def describe(self) -> str:
        return f"directory {self.path}"

    async def start(self) -> None:
        await self._run(self._take_hold)
        if await self._run(lambda: self._migration.needed):
            self._migrating = Deferred.fromCoroutine(self._migrate())
            self._migrating.addErrback(self._not_migrated)
        else:
            self._files.older = None

    async def _migrate(self) -> None:
        while await self._run(self._migration.step):
            pass
        self._files.older = None

    def _not_migrated(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.warn(
                "{path}: not all manifests were moved to blobs; the next start goes on: {error}",
                path=self._migration.old,
                error=failure.getErrorMessage(),
            )

    def interrupt(self) -> None:
        pass

    async def stop(self) -> None:
        self._migrating.cancel()
        await self._disk_work_ended()
        self._let_go()

    async def check(self) -> None:
        await self._run(self._look)

    async def count(self) -> Holdings:
        return await self._run(self._count)

    # manifests

    async def get_manifest(
        self,
        name: ModelName,
        reference: Reference,
        variant: Variant = Variant.PLAIN,
        *,
        anew: bool = False,
    ) -> Optional[StoredManifest]:
        key = name, reference, variant
        known, trusted = self._cache.get(key)
        if known is not None and trusted and not anew:
            return known.stored
        changes = self._changes
        if known is None:
            found = await self._run(self._files.load, *key)
        else:
            found = await self._run(self._files.reload, *key, known)
        if changes == self._changes and (known is not None or not anew):
            # Else it may have been read before the change; the next one reads again.
            # And who looks at all of them anew must not drive out what is asked for.
            if found is None:
                self._cache.forget(key)
            else:
                self._cache.keep(key, found)
        return None if found is None else found.stored

    async def put_manifest(
        self,
        name: ModelName,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        check_put(reference, manifest, variant)
        also = await self._run(
            self._put_manifest,
            *(name, reference, manifest, checked_at, variant),
            ended=self._changed(name, reference, manifest.digest),
        )
        self._changed(name, *also)()

    async def touch_manifest(
        self,
        name: ModelName,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        await self._run(
            self._files.touch,
            *(name, tag, digest, checked_at, variant),
            ended=self._changed(name, tag),
        )

    async def tags(self, name: ModelName) -> list[Tag]:
        return await self._run(self._files.listing.tags, name)

    async def manifests(
        self, after: Optional[tuple[ModelName, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        return await self._run(self._files.listing.page, after, most)

    # blobs

    async def blob_size(self, digest: Digest) -> Optional[int]:
        return await self._run(self._blob_size, digest)

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        return await self._run(self._open_blob, digest, undo=_close)

    def source(self, digest: Digest, size: int) -> Optional[KeptSource]:
        return None

    async def presigned(self, digest: Digest) -> Optional[str]:
        return None

    async def forget_blob(self, digest: Digest) -> None:
        await self._run(self._forget_blob, digest)

    # spools

    async def spools(self) -> list[Spool]:
        return await self._run(self._reopen_spools, undo=_close_all)

    async def new_spool(self, digest: Digest, size: int, repository: ModelName) -> Spool:
        return await self._run(
            self._new_spool, digest, size, repository, undo=lambda made: self._run(put_back, made)
        )

    def straight(
        self, digest: Digest, size: int, repository: ModelName, source: BlobSource
    ) -> None:
        return None

    async def unfinished(self) -> list[Unfinished]:
        return []

    async def publish(self, spool: Spool) -> None:
        for name, tag in await self._run(self._publish, cast(SpoolFile, spool)):
            self._changed(name, tag)()

    # in the reactor's thread

    def _changed(self, name: ModelName, *references: Reference) -> Callable[[], None]:
        def ended() -> None:
            self._changes += 1
            for reference in references:
                for variant in Variant:
                    self._cache.forget((name, reference, variant))

        return ended

    # in a disk thread: taking hold

    def _own(self, *names: str) -> str:
        return os.path.join(self.path, "yukari", *names)

    def _blob_path(self, digest: Digest) -> str:
        return self._files.layout.blob(digest)

    def _blob_paths(self, digest: Digest) -> tuple[str, ...]:
        """Where it may be: early versions of Ollama wrote ``sha256:HEX``."""
        return self._blob_path(digest), os.path.join(self._files.layout.blobs, str(digest))

    def _take_hold(self) -> None:
        assert self.spool_dir is not None
        blobs = os.path.join(self.path, "blobs")
        manifests = os.path.join(self.path, "manifests")
        linked = os.path.join(self.path, "manifests-v2")
        try:
            for directory in (blobs, manifests, linked, self._own("tmp")):
                make_directories(directory)
            self._lock(self._own("lock"))
            make_directories(self.spool_dir)
            if self.spool_dir != self._own("spool"):
                self._lock(os.path.join(self.spool_dir, "yukari-spool.lock"))
            for name in os.listdir(self._own("tmp")):
                remove(self._own("tmp", name))
            for directory in (blobs, manifests, linked, self.spool_dir):
                _try_writing(os.path.join(directory, ".yukari-start"))
            for directory in (blobs, manifests, linked):
                if os.stat(directory).st_dev != os.stat(self._own("tmp")).st_dev:
                    raise StoreUnusable(
                        f"{self.path}: {directory} and {self._own('tmp')} are on different file"
                        " systems: what is stored here must be on one"
                    )
            if os.stat(self.spool_dir).st_dev != os.stat(blobs).st_dev:
                self._landing = Room(blobs, self.min_free, self._statvfs)
        except (OSError, StoreUnusable) as error:
            self._let_go()
            if isinstance(error, StoreUnusable):
                raise
            where, why = error.filename or self.path, error.strerror or error
            raise StoreUnusable(f"cannot store in {self.path}: {where}: {why}") from None

    def _look(self) -> None:
        assert self.spool_dir is not None
        for path in (
            os.path.join(self.path, "blobs"),
            os.path.join(self.path, "manifests"),
            self.spool_dir,
        ):
            try:
                with os.scandir(path):
                    pass
            except OSError as error:
                raise StoreUnusable(f"{path}: {error.strerror}") from None
            if not os.access(path, os.W_OK | os.X_OK):
                raise StoreUnusable(f"{path}: cannot be written")

    def _lock(self, path: str) -> None:
        self._locks.append(DirectoryLock(path))
        self._locks[-1].take()

    def _let_go(self) -> None:
        while self._locks:
            self._locks.pop().release()

    # in a disk thread: manifests and blobs

    def _put_manifest(
        self,
        name: ModelName,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant,
    ) -> list[Tag]:
        (self._landing or self._room).check(2 * len(manifest.body) + _BLOCK)
        return self._files.store(name, reference, manifest, checked_at, variant)

    def _blob_size(self, digest: Digest) -> Optional[int]:
        for path in self._blob_paths(digest):
            try:
                found = os.stat(path)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
            except OSError as error:
                self._unreadable(path, error)
            else:
                return found.st_size
        return None

    def _count(self) -> Holdings:
        blobs = total = 0
        with os.scandir(os.path.join(self.path, "blobs")) as entries:
            for entry in entries:
                if is_blob(entry.name) and entry.is_file():
                    blobs += 1
                    total += entry.stat().st_size
        return Holdings(self._files.listing.count(), blobs, total)

    def _open_blob(self, digest: Digest) -> Optional[FileBlob]:
        for path in self._blob_paths(digest):
            try:
                return FileBlob.at(path)
            except OSError as error:
                self._unreadable(path, error)
                if error.errno not in (*_ABSENT, errno.EINVAL, errno.EISDIR):
                    raise
        return None

    def _unreadable(self, path: str, error: OSError) -> None:
        if error.errno not in _ABSENT:
            self._log.warn("{path} counts as not stored: {error}", path=path, error=error.strerror)

    def _forget_blob(self, digest: Digest) -> None:
        for path in self._blob_paths(digest):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            self._log.warn("{path} was damaged and is removed", path=path)

    # in a disk thread: spools

    def _reopen_spools(self) -> list[Spool]:
        assert self.spool_dir is not None
        spools: list[Spool] = []
        for digest in digests_in(self.spool_dir):
            spool = SpoolFile.reopen(self.spool_dir, digest)
            if spool is not None:
                landing = self._landing.hold(spool.size) if self._landing else None
                spool.take_room(self._room.hold(spool.missing), landing)
                spools.append(spool)
        return spools

    def _new_spool(self, digest: Digest, size: int, repository: ModelName) -> SpoolFile:
        assert self.spool_dir is not None
        rooms = [self._room] if self._landing is None else [self._room, self._landing]
        return open_in_rooms(SpoolFile, self.spool_dir, digest, size, repository, *rooms)

    def _publish(self, spool: SpoolFile) -> list[tuple[ModelName, Tag]]:
        spool.seal()
        target = self._blob_path(spool.digest)
        try:
            os.rename(spool.path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(spool, target)
        sync_directory(os.path.dirname(target))
        spool.published()
        return self._files.published(spool.digest, spool.size, spool.repositories)

    def _copy(self, spool: SpoolFile, target: str) -> None:
        """Publish from another file system: OSError leaves ``target`` as it was."""
        made = temporary(self._own("tmp"))
        source = spool.open()
        try:
            number = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                for offset in range(0, spool.size, _BLOCK):
                    write_all(number, source.read(offset, _BLOCK))
                os.fchmod(number, 0o644)
                os.fsync(number)
                if os.fstat(number).st_size != spool.size:
                    raise OSError(errno.EIO, "the spool was cut", spool.path)
            finally:
                os.close(number)
            os.rename(made, target)
        except OSError:
            remove(made)
            raise
        finally:
            source.close()


def _close(blob: Optional[BlobFile]) -> None:
    if blob is not None:
        blob.close()


def _close_all(spools: list[Spool]) -> None:
    for spool in spools:
        spool.close()


def _try_writing(path: str) -> None:
    """OSError where nothing can be created beside ``path``."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(path)

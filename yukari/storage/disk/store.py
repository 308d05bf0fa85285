"""
The embedded default: a directory, laid out as Ollama lays out its own.

::

    manifests/HOST/NAMESPACE/MODEL/TAG     as Ollama has them; HOST is a registry's
    manifests-v2/HOST/NAMESPACE/MODEL/TAG  links to blobs, as Ollama 0.40 has them
    blobs/sha256-HEX                       as Ollama has them; manifests too
    yukari/lock                            held while a daemon owns the directory
    yukari/spool/sha256-HEX.spool, .cover  blobs on their way (or in ``spool_dir``)
    yukari/tmp/                            files in the making; emptied at the start

So an existing ``OLLAMA_MODELS`` directory works as a store, and a store can be copied to one.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Optional, TypeVar

from attrs import Attribute, define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from yukari.config.units import FreeSpace
from yukari.large import IsLarge, LargeManifests
from yukari.manifest import AnyManifest, Variant
from yukari.names import Digest, Reference, Repository, Tag
from yukari.storage.disk.atomic import move
from yukari.storage.disk.blobs import BlobFiles, copy_spool
from yukari.storage.disk.inventory import DirectoryInventory
from yukari.storage.disk.kept import KeptManifests
from yukari.storage.disk.layout import Layout
from yukari.storage.disk.lock import STORE_LOCK, DirectoryLock
from yukari.storage.disk.manifests import ManifestFiles
from yukari.storage.disk.migration import Migration
from yukari.storage.disk.space import Room, Statvfs
from yukari.storage.disk.spool import SpoolFile
from yukari.storage.disk.spool_dir import (
    OwnedDirectories,
    SpoolDir,
    check_file_system,
    clear,
    put_back,
)
from yukari.storage.disk.tolerance import sync_directory
from yukari.storage.ports import (
    Answers,
    BlobEntry,
    BlobFile,
    Holdings,
    ManifestEntry,
    Spool,
    StoredManifest,
    StoreUnusable,
)
from yukari.storage.readable import close_found, work_on_each
from yukari.storage.variants import check_put
from yukari.threads import DiskWork, InThread

T = TypeVar("T")

_HOST = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9._:%\[\]-]{0,254}")
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_BLOCK = 1024 * 1024


def _is_host(_: object, __: Attribute[str], value: str) -> None:
    if not _HOST.fullmatch(value):
        raise ValueError(f"upstream host {value!a}: expected a host name, with its port if need be")


@define(eq=False, repr=False)
class DirectoryStore(DiskWork):
    """
    `Store` in the directory ``path``; ``upstream_host`` is the default registry's, with its port if
    need be, ``other_registries`` are as `Repository` has them.

    ``in_thread`` calls a blocking function in one of several disk threads. ``spool_dir`` may be on
    another file system than ``path``: publishing is then a copy and takes the blob's size there as
    well. Whoever stops the store has closed its spools.
    """

    path: str
    upstream_host: str = field(validator=_is_host)
    _in_thread: InThread
    _clock: IReactorTime
    spool_dir: Optional[str] = None
    min_free: FreeSpace = FreeSpace(percent=5.0)
    _statvfs: Statvfs = os.statvfs
    offline: bool = False
    """Whether nothing will be stored, so that the directory may be read-only."""
    other_registries: tuple[str, ...] = ()
    _large: LargeManifests = field(factory=LargeManifests)
    _read_only: bool = field(default=False, init=False)
    _kept: KeptManifests = field(init=False)
    _files: ManifestFiles = field(init=False)
    _blobs: BlobFiles = field(init=False)
    _migration: Migration = field(init=False)
    _migrating: Deferred[None] = field(factory=lambda: succeed(None), init=False)
    inventory: DirectoryInventory = field(init=False)
    changes: int = field(default=0, init=False)
    """How often a manifest was put, touched or removed."""
    _spools: SpoolDir = field(init=False)
    _owned: OwnedDirectories = field(init=False)
    _missed: bool = field(default=False, init=False)
    """Whether the last `check` found a directory gone."""
    _landing: Optional[Room] = field(default=None, init=False)
    """The room for blobs, if spools are on another file system."""
    _under_way: set[Deferred[Any]] = field(factory=set, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.path = os.path.abspath(self.path)
        self.spool_dir = os.path.abspath(self.spool_dir or self._own("spool"))
        layout = Layout(self.path, self.upstream_host, self.other_registries)
        older = self._own("manifests", self.upstream_host)
        self._files = ManifestFiles(layout, self._own("tmp"), older)
        self._kept = KeptManifests(
            self._files, self._run, lambda: self.changes, self._clock, self._large
        )
        self._blobs = BlobFiles(layout)
        self._migration = Migration(self._own("manifests"), self._files)
        self._spools = SpoolDir(self.spool_dir, self.min_free, self._statvfs)
        locks = [DirectoryLock(self.path, os.path.join(self.path, STORE_LOCK))]
        if os.path.realpath(self.spool_dir) != os.path.realpath(self.path):
            locks.append(self._spools.lock)
        trees = [os.path.join(self.path, each) for each in ("blobs", "manifests", "manifests-v2")]
        self._owned = OwnedDirectories((*trees, self._own("tmp"), self.spool_dir), tuple(locks))
        self.inventory = DirectoryInventory(
            self._files, self._own(), self._run, self._changed, self._rooms
        )

    def describe(self) -> str:
        return f"directory {self.path}"

    async def start(self) -> None:
        await self._run(self._take_hold)
        if self._read_only:
            return
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
        self._kept.stop()
        await self._disk_work_ended()
        self._owned.release()

    async def check(self) -> None:
        await self._run(self._look)

    async def count(self) -> Holdings:
        return await self._run(self._whole, self._count)

    # manifests

    async def get_manifest(
        self, name: Repository, reference: Reference, variant: Variant = Variant.PLAIN
    ) -> Optional[StoredManifest]:
        return await self._kept.get((name, reference, variant))

    async def read_anew(self, keys: Sequence[tuple[Repository, Reference]]) -> list[Answers]:
        try:
            return await self._run(self._files.small_only, partial(self._files.answers, keys))
        except IsLarge:
            # In a turn of its own: clients may wait for one too.
            return await self._large.alone(self._run, self._files.answers, keys[:1])

    async def put_manifest(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        check_put(reference, manifest, variant)
        ended = self._changed(name, reference, manifest.digest)
        new = name, reference, manifest, checked_at, variant
        also = await self._put(ended, self._put_manifest, *new)
        self._changed(name, *also)()

    async def touch_manifest(
        self,
        name: Repository,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        ended = self._changed(name, tag)
        await self._put(ended, self._files.touch, name, tag, digest, checked_at, variant)

    async def _put(self, ended: Callable[[], None], work: Callable[..., T], *args: Any) -> T:
        """Run what writes manifests, and reads those that they replace."""
        run, write = partial(self._run, ended=ended), partial(self._write, work, *args)
        return await self._large.in_turn(run, self._files.small_only, write)

    async def tags(self, name: Repository) -> list[Tag]:
        return await self._run(self._files.listing.tags, name)

    async def manifests(
        self, after: Optional[tuple[Repository, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        return await self._run(self._files.listing.page, after, most)

    # blobs

    async def blob_size(self, digest: Digest) -> Optional[int]:
        return await self._run(self._blobs.size, digest)

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        return await self._run(self._blobs.open, digest, undo=close_found)

    async def each_blob(
        self, digests: Sequence[Digest], work: Callable[[BlobFile], T]
    ) -> list[Optional[T]]:
        return await self._run(work_on_each, self._blobs.open, digests, work)

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        return await self._run(self._whole, self._blobs.page, after, most)

    async def delete_blob(self, digest: Digest) -> None:
        await self._run(self._blobs.delete, digest)
        self.changes += 1

    # spools

    async def spools(self) -> list[Spool]:
        return list(await self._run(self._reopen_spools, undo=_close_all))

    async def new_spool(self, digest: Digest, size: int, repository: Repository) -> Spool:
        return await self._run(
            self._write,
            *(self._new_spool, digest, size, repository),
            undo=lambda made: self._run(put_back, made),
        )

    async def publish(self, spool: Spool) -> None:
        await self._run(self._write, self._publish, spool)
        published = spool.digest, spool.size, spool.repositories
        try:
            changed = await self._put(lambda: None, self._files.published, *published)
        except OSError as error:  # The blob is stored all the same, and its spool is no more.
            self._log.warn("{digest}: {error}", digest=str(spool.digest), error=str(error))
            return
        for name, tag in changed:
            self._changed(name, tag)()

    # in the reactor's thread

    def _changed(self, name: Repository, *references: Reference) -> Callable[[], None]:
        def ended() -> None:
            self.changes += 1
            for reference in references:
                for variant in Variant:
                    self._kept.forget((name, reference, variant))

        return ended

    # in a disk thread: taking hold

    def _own(self, *names: str) -> str:
        return os.path.join(self.path, "yukari", *names)

    def _take_hold(self) -> None:
        try:
            self._owned.take()
            clear(self._own("tmp"))
            *trees, made, spools = self._owned.directories
            check_file_system(made, trees)
            if os.stat(spools).st_dev != os.stat(made).st_dev:
                self._landing = Room(self._files.layout.blobs, self.min_free, self._statvfs)
        except (OSError, StoreUnusable) as error:
            self._owned.release()
            if isinstance(error, StoreUnusable):
                raise
            if self.offline and error.errno in _UNWRITABLE and os.path.isdir(self.path):
                self._read_only = True
                self._log.info("{path} cannot be written: it is only served", path=self.path)
                return
            where, why = error.filename or self.path, error.strerror or error
            raise StoreUnusable(f"cannot store in {self.path}: {where}: {why}") from None

    def _look(self) -> None:
        if self._read_only:
            os.listdir(self.path)
            return
        for path in self._owned.directories:
            try:
                with os.scandir(path):
                    pass
            except OSError as error:
                if error.errno == errno.ENOENT and self._missed:
                    self._owned.restore()  # It is not just being moved, and would stay away.
                    continue
                self._missed = error.errno == errno.ENOENT
                raise StoreUnusable(f"{path}: {error.strerror}") from None
            if not os.access(path, os.W_OK | os.X_OK):
                raise StoreUnusable(f"{path}: cannot be written")
        self._missed = False
        *trees, made, _ = self._owned.directories
        check_file_system(made, trees)

    def _write(self, work: Callable[..., T], *args: Any) -> T:
        """Do what writes; directories that an operator removed meanwhile are made again."""
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.path)
        self._owned.restore()
        try:
            return work(*args)
        except FileNotFoundError:
            # They may have gone just now.
            if not self._owned.restore():
                raise
            return work(*args)

    def _whole(self, work: Callable[..., T], *args: Any) -> T:
        """Do what reads whole directories, which are made again if they were removed."""
        if not self._read_only:
            self._owned.restore()
        return work(*args)

    # in a disk thread: manifests and blobs

    def _put_manifest(
        self,
        name: Repository,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant,
    ) -> list[Tag]:
        (self._landing or self._spools.room).check(2 * len(manifest.body) + _BLOCK)
        return self._files.store(name, reference, manifest, checked_at, variant)

    def _count(self) -> Holdings:
        return Holdings(self._files.listing.count(), *self._blobs.count())

    # in a disk thread: spools

    def _reopen_spools(self) -> list[SpoolFile]:
        if self._read_only:
            return []
        landing = self._landing
        return self._spools.reopen(lambda size: None if landing is None else landing.hold(size))

    def _new_spool(self, digest: Digest, size: int, repository: Repository) -> SpoolFile:
        return self._spools.new(digest, size, repository, *self._rooms()[1:])

    def _rooms(self) -> list[Room]:
        """Where a spool, and then the blob, take their room."""
        return [self._spools.room, *([] if self._landing is None else [self._landing])]

    def _publish(self, spool: SpoolFile) -> None:
        spool.seal()
        target = self._files.layout.blob(spool.digest)
        try:
            move(spool.path, target)
        except OSError as error:
            # Where an operator removed the spool, its bytes are there while it is open.
            removed = error.errno == errno.ENOENT and not os.path.exists(spool.path)
            if error.errno != errno.EXDEV and not removed:
                raise
            copy_spool(spool, target, self._own("tmp"))
        sync_directory(os.path.dirname(target))
        spool.published()


def _close_all(spools: Iterable[Spool]) -> None:
    for spool in spools:
        spool.close()

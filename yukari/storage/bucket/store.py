"""
Models in a bucket, of Tigris or of any other S3, with a disk in front.

In the bucket, as the original Yukari has them::

    v2/NAMESPACE/MODEL/manifests/TAG            Content-Type: the manifest's media type
    v2/NAMESPACE/MODEL/manifests/sha256:HEX     the same by digest
    v2/NAMESPACE/MODEL/lists/TAG                ours: see `yukari.storage.bucket.manifests`
    blobs/sha256:HEX                            Content-Type: the layer's media type

and in ``spool_dir``::

    yukari-spool.lock                           held while a daemon owns the directory
    sha256-HEX.spool, .cover, .upload           blobs on their way, down and up
    tier/sha256-HEX                             whole blobs that S3 has too
    late/                                       manifests that S3 could not take yet
    tmp/                                        files in the making; emptied at the start

Several daemons share a bucket, each with a ``spool_dir`` of its own. A
manifest's time of check is in its metadata, or where another put it, its
LastModified. What S3 cannot tell because it is down counts as not stored:
upstream is asked then.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Optional, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from yukari.config.units import FreeSpace
from yukari.manifest import DOCKER_MANIFEST, AnyManifest, Manifest, Variant
from yukari.names import Digest, InvalidName, ModelName, Reference, Tag
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.s3.replies import Upload
from yukari.s3.signing import Signing
from yukari.sources.base import BlobSource, KeptSource
from yukari.sources.pace import HostPace
from yukari.storage.bucket.direct import AT_ONCE, HUGE_AT_ONCE, StraightUpload
from yukari.storage.bucket.health import Contact
from yukari.storage.bucket.inventory import BucketInventory
from yukari.storage.bucket.listing import LISTED_AT_ONCE, BucketListing
from yukari.storage.bucket.manifests import SMALL_MANIFEST, BucketManifests
from yukari.storage.bucket.multipart import NOTE, OCTETS, SMALL, Note, note_path, part_size
from yukari.storage.bucket.source import BucketBlob
from yukari.storage.bucket.upload import BlobUpload
from yukari.storage.disk.atomic import remove
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.files import FileBlob
from yukari.storage.disk.space import Statvfs
from yukari.storage.disk.spool import SpoolFile, put_back
from yukari.storage.disk.spool_dir import OwnedDirectories, SpoolDir, clear
from yukari.storage.known import Known
from yukari.storage.manifest_cache import Key
from yukari.storage.ports import (
    BlobEntry,
    BlobFile,
    Holdings,
    ManifestEntry,
    Spool,
    StoredManifest,
    StoreUnusable,
    Unfinished,
)
from yukari.threads import DiskWork, InThread

T = TypeVar("T")

ORPHANED_AFTER = 24 * 3600.0
"""Seconds; an upload is nobody's that was begun, and got its last part, longer ago."""


def _absolute(path: str) -> str:
    return os.path.abspath(path)


@define(eq=False)
class TigrisStore(DiskWork):
    """
    `Store` in a bucket. ``seen`` signs URLs for clients; ``spool_max`` bounds the bytes on disk.

    `start` takes the disk in hand; `connect` asks S3 whether the bucket can be used.
    """

    client: S3Client
    spool_dir: str = field(converter=_absolute)
    _in_thread: InThread
    _clock: IReactorTime
    seen: Optional[Signing] = None
    min_free: FreeSpace = FreeSpace(percent=5.0)
    spool_max: Optional[int] = None
    _statvfs: Statvfs = os.statvfs
    tier: Tier = field(init=False)
    _spools: SpoolDir = field(init=False)
    _owned: OwnedDirectories = field(init=False)
    _sizes: Known[int] = field(factory=Known, init=False)
    """Of blobs that the bucket has."""
    _media_types: Known[str] = field(factory=Known, init=False)
    _contact: Contact = field(init=False)
    _listing: BucketListing = field(init=False)
    _manifests: BucketManifests = field(init=False)
    inventory: BucketInventory = field(init=False)
    _uploads: dict[Digest, BlobUpload] = field(factory=dict, init=False)
    _straight: set[StraightUpload] = field(factory=set, init=False)
    _straight_slots: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(AT_ONCE), init=False
    )
    _huge_slots: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(HUGE_AT_ONCE), init=False
    )
    _small_slots: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(AT_ONCE), init=False)
    """Of blobs that go in one piece, so that none waits the hours that a large one takes."""
    _left: dict[Digest, Note] = field(factory=dict, init=False)
    """What an earlier process left of uploads that have no spool."""
    _pace: HostPace = field(factory=HostPace, init=False)
    _under_way: set[Deferred[Any]] = field(factory=set, init=False)
    _stopping: bool = field(default=False, init=False)

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.tier = Tier(os.path.join(self.spool_dir, "tier"), self.spool_max)
        self._spools = SpoolDir(self.spool_dir, self.min_free, self._statvfs)
        self._contact = Contact(self.client, self._clock)
        self._listing = BucketListing(self.client, self._clock)
        self._manifests = BucketManifests(
            self.client,
            self._contact,
            self._clock,
            os.path.join(self.spool_dir, "late"),
            os.path.join(self.spool_dir, "tmp"),
            self._run,
            self._learn,
            self._listing.changed,
        )
        made, late = os.path.join(self.spool_dir, "tmp"), self._manifests.late.directory
        directories = self.spool_dir, self.tier.path, made, late
        self._owned = OwnedDirectories(directories, (self._spools.lock,))
        self.inventory = BucketInventory(self.client, self._manifests)

    @property
    def reachable(self) -> bool:
        """Whether S3 answered when it was last asked."""
        return self._contact.reachable

    def describe(self) -> str:
        return f"bucket {self.client.describe()}, with {self.spool_dir} in front"

    # start and stop

    async def start(self) -> None:
        await self._manifests.late.restore(await self._run(self._take_hold))

    async def check(self) -> None:
        await self._contact.check()

    async def connect(self) -> None:
        """As `Contact.connect`."""
        await self._contact.connect()

    def interrupt(self) -> None:
        self._stopping = True
        self._manifests.late.stop()
        for upload in list(self._uploads.values()):
            upload.stop()
        self._uploads.clear()
        self._contact.stop()

    async def stop(self) -> None:
        self.interrupt()
        await self._disk_work_ended()
        self._let_go()

    async def count(self) -> Holdings:
        blobs = total = 0
        token: Optional[str] = None
        while True:
            page = await self.client.list_objects("blobs/sha256:", token=token, most=LISTED_AT_ONCE)
            blobs += len(page.objects)
            total += sum(row.size for row in page.objects)
            token = page.token
            if token is None:
                return Holdings(await self._listing.count(), blobs, total)

    # manifests

    async def get_manifest(
        self,
        name: ModelName,
        reference: Reference,
        variant: Variant = Variant.PLAIN,
        *,
        anew: bool = False,
    ) -> Optional[StoredManifest]:
        return await self._manifests.get(name, reference, variant, anew=anew)

    async def put_manifest(
        self,
        name: ModelName,
        reference: Reference,
        manifest: AnyManifest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        await self._manifests.put(name, reference, manifest, checked_at, variant)

    async def touch_manifest(
        self,
        name: ModelName,
        tag: Tag,
        digest: Digest,
        checked_at: float,
        variant: Variant = Variant.PLAIN,
    ) -> None:
        await self._manifests.touch(name, tag, digest, checked_at, variant)

    async def tags(self, name: ModelName) -> list[Tag]:
        return await self._listed(self._listing.tags(name))

    async def manifests(
        self, after: Optional[tuple[ModelName, Tag]] = None, most: int = 500
    ) -> list[ManifestEntry]:
        return await self._listed(self._listing.page(after, most))

    async def _listed(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            found = await asked
        except S3Error as error:
            self._contact.complain(error)
            raise
        self._contact.answered()
        return found

    def _learn(self, manifest: AnyManifest) -> None:
        """Remember what its blobs are, for their Content-Type in the bucket."""
        if isinstance(manifest, Manifest):
            for blob in manifest.blobs:
                self._media_types.remember(blob.digest, blob.media_type)
        else:
            for child in manifest.children:
                self._media_types.remember(child.digest, DOCKER_MANIFEST)

    # blobs

    async def blob_size(self, digest: Digest) -> Optional[int]:
        """As everywhere; for a spool that an earlier process left, None without asking S3."""
        size = self._sizes.get(digest)
        if size is None:
            size = self.tier.size(digest)
        if size is not None:
            return size
        upload = self._uploads.get(digest)
        if upload is not None and upload.resumed:
            return None  # `publish` sees what is there
        return await self._look_for(digest)

    async def _look_for(self, digest: Digest) -> Optional[int]:
        """The size of the object in S3, None where S3 has none or does not answer."""
        try:
            head = await self._contact.in_time(self.client.head_object(_blob_key(digest)))
        except S3Error as error:
            self._contact.complain(error)
            return None
        self._contact.answered()
        if head is None:
            self._forget_size(digest)
            return None
        self._sizes.remember(digest, head.size)
        return head.size

    async def open_blob(self, digest: Digest) -> Optional[BlobFile]:
        if self.tier.size(digest) is None:
            return None
        return await self._run(self.tier.open, digest, undo=_close)

    def source(self, digest: Digest, size: int) -> Optional[KeptSource]:
        return BucketBlob(
            self.client, _blob_key(digest), digest, size, self._pace, self._sizes, self._forget_size
        )

    async def presigned(self, digest: Digest) -> Optional[str]:
        """
        A URL at which clients find the blob for hours; None where there can be none for so long.

        S3 is asked each time, for nobody would tell us that clients did not find it.
        """
        if await self._look_for(digest) is None:
            return None
        try:
            return await self.client.presign_get(_blob_key(digest), self.seen)
        except S3Error as error:
            self._contact.complain(error)
            return None

    async def blobs(self, after: Optional[Digest] = None, most: int = 500) -> list[BlobEntry]:
        page = await self._listed(
            self.client.list_objects(
                "blobs/sha256:",
                after="" if after is None else _blob_key(after),
                most=min(most, LISTED_AT_ONCE),
            )
        )
        entries = []
        for row in page.objects:
            with suppress(InvalidName):
                digest = Digest.parse(row.key.removeprefix("blobs/"))
                entries.append(BlobEntry(digest, row.size, row.modified))
        return entries

    async def delete_blob(self, digest: Digest) -> None:
        self._forget_size(digest)
        await self._run(self.tier.remove, digest)
        await self.client.delete_object(_blob_key(digest))
        self._forget_size(digest)

    def _forget_size(self, digest: Digest) -> None:
        self._sizes.forget(digest)

    # spools

    async def spools(self) -> list[Spool]:
        spools, notes = await self._run(self._reopen_spools, undo=_close_all)
        for spool in spools:
            self._upload(spool, notes.pop(spool.digest, Note()), resumed=True)
        self._left = notes
        return list(spools)

    async def new_spool(self, digest: Digest, size: int, repository: ModelName) -> Spool:
        before = self._uploads.pop(digest, None)
        if before is not None and before.spool.gone:
            await before.abandon()
        elif before is not None:
            before.stop()
        media_type = self._media_types.get(digest) or OCTETS
        spool, note = await self._run(
            self._new_spool,
            *(digest, size, repository, media_type),
            undo=lambda made: self._run(put_back, made[0]),
        )
        if digest not in self._sizes:
            self._left.pop(digest, None)
            self._upload(spool, note, resumed=spool.covered().total > 0)
        return spool

    def _upload(self, spool: SpoolFile, note: Note, *, resumed: bool = False) -> None:
        upload = BlobUpload(
            self.client,
            _blob_key(spool.digest),
            spool,
            note,
            note_path(self.spool_dir, spool.digest),
            os.path.join(self.spool_dir, "tmp"),
            self._in_thread,
            self._clock,
            self._beaten,
            self._upload_left,
            resumed,
        )
        self._uploads[spool.digest] = upload
        upload.look_soon()

    def straight(
        self, digest: Digest, size: int, repository: ModelName, source: BlobSource
    ) -> StraightUpload:
        left = self._left.pop(digest, Note())
        return StraightUpload(
            self.client,
            _blob_key(digest),
            digest,
            size,
            source,
            Note(
                self._media_types.get(digest) or left.media_type,
                left.upload_id,
                repository=str(repository),
            ),
            note_path(self.spool_dir, digest),
            os.path.join(self.spool_dir, "tmp"),
            self._in_thread,
            self._clock,
            self._slots(size),
            self._straight,
        )

    def _slots(self, size: int) -> tuple[DeferredSemaphore, ...]:
        if size < SMALL:
            return (self._small_slots,)
        if part_size(size) > SMALL:
            return self._huge_slots, self._straight_slots
        return (self._straight_slots,)

    async def unfinished(self) -> list[Unfinished]:
        found = []
        for digest, note in self._left.items():
            try:
                repository = ModelName.parse(note.repository)
            except InvalidName:
                continue
            if note.size:
                found.append(Unfinished(digest, note.size, repository))
        return found

    def _upload_left(self, upload: BlobUpload) -> None:
        if self._uploads.get(upload.digest) is upload:
            del self._uploads[upload.digest]

    def _beaten(self, upload: BlobUpload) -> None:
        """From now on the blob's `source` is the object; `publish` finds nothing left to do."""
        if self._uploads.get(upload.digest) is upload:
            del self._uploads[upload.digest]
            self._sizes.remember(upload.digest, upload.spool.size)

    async def publish(self, spool: Spool) -> None:
        assert isinstance(spool, SpoolFile)
        await self._run(spool.seal)
        if self._stopping:
            raise OSError(errno.ECANCELED, "the store is stopping")
        if spool.digest not in self._uploads and spool.digest not in self._sizes:
            # It came back from the bucket, and has gone from there meanwhile.
            self._upload(spool, Note(self._media_types.get(spool.digest) or OCTETS))
        upload = self._uploads.get(spool.digest)
        if upload is not None:
            if upload.spool is not spool:
                raise OSError("the store is stopping")
            await upload.finish()
        else:
            await self._run(remove, note_path(self.spool_dir, spool.digest))
        self._contact.answered()
        self._uploads.pop(spool.digest, None)
        self._sizes.remember(spool.digest, spool.size)
        if spool.size <= SMALL_MANIFEST:
            body = await self._run(_bytes_of, spool)
            await self._manifests.published(spool.digest, body, spool.repositories)
        await self._run(self._into_tier, spool)

    # the periodic job

    async def sweep(self) -> int:
        """
        Abort uploads that nobody goes on with: how many.

        Those of spools that are no more, and any that no part has come to for a day, which a daemon
        that is gone for good has left. `S3Error` where they cannot be listed; one that S3 does not
        abort is left for the next time.
        """
        count = 0
        for digest, note in list(self._left.items()):
            if digest not in self._left:
                continue  # it has begun anew
            if note.upload_id:
                if not await self._aborted(_blob_key(digest), note.upload_id):
                    continue
                count += 1
            wanted = note.size and await self._look_for(digest) is None
            if digest in self._left and wanted:
                self._left[digest] = evolve(note, upload_id="")
            elif self._left.pop(digest, None) is not None:
                await self._run(remove, note_path(self.spool_dir, digest))
        for found in await self.client.list_multipart_uploads("blobs/sha256:"):
            if not self._is_own(found) and await self._is_orphaned(found):
                count += await self._aborted(found.key, found.upload_id)
        return count

    def _is_own(self, found: Upload) -> bool:
        own = {upload.upload_id for upload in self._uploads.values()}
        return found.upload_id in own | {way.upload_id for way in self._straight}

    async def _is_orphaned(self, upload: Upload) -> bool:
        oldest = time.time() - ORPHANED_AFTER
        if upload.initiated > oldest:
            return False
        try:
            parts = await self.client.list_parts(upload.key, upload.upload_id)
        except S3Error as error:
            self._log.warn("{key}: upload not looked at: {error}", key=upload.key, error=str(error))
            return False
        return all(part.modified <= oldest for part in parts or ())

    async def _aborted(self, key: str, upload_id: str) -> bool:
        try:
            await self.client.abort_multipart_upload(key, upload_id)
        except S3Error as error:
            self._log.warn("{key}: upload not aborted: {error}", key=key, error=str(error))
            return False
        self._log.info("{key}: an upload that nobody goes on with is aborted", key=key)
        return True

    def facts(self) -> dict[str, Any]:
        """For people: what is on disk, what is on its way up, how many requests went to S3."""
        return {
            "reachable": self.reachable,
            "disk_bytes": self.tier.total,
            "uploads": {
                str(digest): {"size": upload.spool.size, "sent": upload.sent}
                for digest, upload in self._uploads.items()
            },
            "straight": {
                str(way.digest): {"size": way.size, "sent": way.sent} for way in self._straight
            },
            "requests": dict(self.client.requests),
        }

    # in a disk thread

    def _take_hold(self) -> list[tuple[Key, StoredManifest]]:
        try:
            self._owned.take()
            clear(os.path.join(self.spool_dir, "tmp"))
            self.tier.scan()
            return self._manifests.late.read()
        except OSError as error:
            self._let_go()
            where, why = error.filename or self.spool_dir, error.strerror or error
            raise StoreUnusable(f"SPOOL_DIR {self.spool_dir}: {where}: {why}") from None

    def _let_go(self) -> None:
        self._owned.release()

    def _reopen_spools(self) -> tuple[list[SpoolFile], dict[Digest, Note]]:
        spools = self._spools.reopen(self.tier.budget.hold)
        notes = {}
        for entry in os.listdir(self.spool_dir):
            if entry.endswith(NOTE):
                try:
                    digest = Digest.parse(entry.removesuffix(NOTE))
                except InvalidName:
                    continue
                notes[digest] = Note.read(os.path.join(self.spool_dir, entry))
        return spools, notes

    def _new_spool(
        self, digest: Digest, size: int, repository: ModelName, media_type: str
    ) -> tuple[SpoolFile, Note]:
        self._owned.restore()
        self.tier.make_way(size, self._spools.room)
        spool = self._spools.new(digest, size, repository, self.tier.budget)
        path = note_path(self.spool_dir, digest)
        left = Note.read(path)
        note = Note(media_type, left.upload_id, left.part_size)
        try:
            note.write(path, os.path.join(self.spool_dir, "tmp"))
        except OSError:
            put_back(spool)
            raise
        return spool, note

    def _into_tier(self, spool: SpoolFile) -> None:
        try:
            self._owned.restore()
            self.tier.take(spool.digest, spool.size, spool.path)
        except OSError as error:
            self._log.warn("{digest} leaves the disk: {error}", digest=spool.digest, error=error)
        spool.published()


def _blob_key(digest: Digest) -> str:
    return f"blobs/{digest}"


def _bytes_of(spool: SpoolFile) -> bytes:
    file = spool.open()
    try:
        return file.read(0, spool.size)
    finally:
        file.close()


def _close(blob: Optional[FileBlob]) -> None:
    if blob is not None:
        blob.close()


def _close_all(found: tuple[list[SpoolFile], Any]) -> None:
    for spool in found[0]:
        spool.close()

"""
A bucket's spools: blobs on their way from upstream to the disk, and from there into S3.

Beside a spool lies the note of its upload, by which the next process goes on with it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from yukari.names import Digest, InvalidName, Repository
from yukari.s3.errors import S3Error
from yukari.storage.bucket.blobs import BucketBlobs
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.calls import Calls
from yukari.storage.bucket.direct_uploads import BucketDirectUploads
from yukari.storage.bucket.manifests import BucketManifests
from yukari.storage.bucket.multipart import NOTE, Note, note_path
from yukari.storage.bucket.upload import BlobUpload
from yukari.storage.disk.atomic import remove
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.spool import SpoolFile
from yukari.storage.disk.spool_dir import OwnedDirectories, SpoolDir, put_back
from yukari.storage.ports import Spool
from yukari.storage.variants import SMALL_MANIFEST


@define(eq=False, repr=False)
class BucketSpools:
    """`SpoolStore`. Published blobs go to the ``tier``."""

    _bucket: Bucket
    _blobs: BucketBlobs
    _manifests: BucketManifests
    _direct: BucketDirectUploads
    _tier: Tier
    files: SpoolDir
    _owned: OwnedDirectories
    uploads: dict[Digest, BlobUpload] = field(factory=dict, init=False)
    _publishing: Calls = field(factory=Calls, init=False)
    """Those calls that `interrupt` ends."""
    _stopping: bool = field(default=False, init=False)

    _log = Logger()

    def interrupt(self) -> None:
        """As `Store.interrupt`; every upload is left for the next process."""
        self._stopping = True
        for upload in list(self.uploads.values()):
            upload.stop()
        self._publishing.interrupt()
        self.uploads.clear()

    def is_resumed(self, digest: Digest) -> bool:
        """Whether an earlier process began the blob's spool; `publish` sees what S3 has of it."""
        upload = self.uploads.get(digest)
        return upload is not None and upload.resumed

    async def reopen(self) -> list[Spool]:
        spools, notes = await self._bucket.in_thread(self._reopen, undo=_close_all)
        for spool in spools:
            self._upload(spool, notes.pop(spool.digest, Note()), resumed=True)
        self._direct.left = notes
        return list(spools)

    async def new(self, digest: Digest, size: int, repository: Repository) -> Spool:
        before = self.uploads.pop(digest, None)
        if before is not None:
            # The new upload takes over its note, and uses those of its parts that are right.
            before.has_note = False
            before.stop()
        made: tuple[SpoolFile, Note] = await self._bucket.in_thread(
            self._new,
            *(digest, size, repository, self._blobs.media_type(digest)),
            undo=lambda made: self._bucket.in_thread(put_back, made[0]),
        )
        spool, note = made
        if digest not in self._blobs.sizes:
            self._direct.left.pop(digest, None)
            self._upload(spool, note, resumed=spool.covered().total > 0)
        return spool

    def _upload(self, spool: SpoolFile, note: Note, *, resumed: bool = False) -> None:
        upload = BlobUpload(self._bucket, spool, note, self._beaten, self._upload_left, resumed)
        self.uploads[spool.digest] = upload
        upload.look_soon()

    def _upload_left(self, upload: BlobUpload) -> None:
        if self.uploads.get(upload.digest) is upload:
            del self.uploads[upload.digest]

    def _beaten(self, upload: BlobUpload) -> None:
        """From now on the blob's `source` is the object; `publish` finds nothing left to do."""
        if self.uploads.get(upload.digest) is upload:
            del self.uploads[upload.digest]
            self._blobs.sizes.remember(upload.digest, upload.spool.size)

    async def publish(self, spool: Spool) -> None:
        assert isinstance(spool, SpoolFile)
        digest = spool.digest
        await self._bucket.in_thread(spool.seal)
        if self._stopping:
            raise OSError(errno.ECANCELED, "the store is stopping")
        if digest not in self.uploads and digest not in self._blobs.sizes:
            # It came back from the bucket, and has gone from there meanwhile.
            self._upload(spool, Note(self._blobs.media_type(digest)))
        upload = self.uploads.get(digest)
        if upload is not None:
            if upload.spool is not spool:
                raise OSError("the store is stopping")
            await self._publishing.run(upload.finish())
        else:
            await self._bucket.in_thread(remove, note_path(self.files.path, digest))
        self._bucket.contact.answered()
        self.uploads.pop(digest, None)
        self._blobs.sizes.remember(digest, spool.size)
        if spool.size <= SMALL_MANIFEST:
            body = await self._bucket.in_thread(_bytes_of, spool)
            with suppress(S3Error):  # The store is stopping, and S3 has the blob.
                await self._bucket.calls.run(
                    self._manifests.published(digest, body, spool.repositories)
                )
        await self._bucket.in_thread(self._into_tier, spool)

    # in a disk thread

    def _reopen(self) -> tuple[list[SpoolFile], dict[Digest, Note]]:
        spools = self.files.reopen(self._tier.budget.hold)
        notes = {}
        for entry in os.listdir(self.files.path):
            if entry.endswith(NOTE):
                try:
                    digest = Digest.parse(entry.removesuffix(NOTE))
                except InvalidName:
                    continue
                notes[digest] = Note.read(os.path.join(self.files.path, entry))
        return spools, notes

    def _new(
        self, digest: Digest, size: int, repository: Repository, media_type: str
    ) -> tuple[SpoolFile, Note]:
        self._owned.restore()
        self._tier.make_way(size, self.files.room)
        spool = self.files.new(digest, size, repository, self._tier.budget)
        path = note_path(self.files.path, digest)
        left = Note.read(path)
        note = Note(media_type, left.upload_id, left.part_size)
        try:
            note.write(path, self._bucket.made_in)
        except OSError:
            put_back(spool)
            raise
        return spool, note

    def _into_tier(self, spool: SpoolFile) -> None:
        try:
            self._owned.restore()
            self._tier.take(spool.digest, spool.size, spool.path)
        except OSError as error:
            self._log.warn("{digest} leaves the disk: {error}", digest=spool.digest, error=error)
        spool.published()


def _bytes_of(spool: SpoolFile) -> bytes:
    file = spool.open()
    try:
        return file.read(0, spool.size)
    finally:
        file.close()


def _close_all(found: tuple[list[SpoolFile], Any]) -> None:
    for spool in found[0]:
        spool.close()

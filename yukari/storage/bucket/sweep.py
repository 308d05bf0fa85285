"""The periodic job of a bucket: it aborts uploads that nobody goes on with."""

from __future__ import annotations

import time

from attrs import define, evolve
from twisted.logger import Logger

from yukari.s3.errors import S3Error
from yukari.s3.replies import UnfinishedUpload
from yukari.storage.bucket.blobs import BucketBlobs
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.direct_uploads import BucketDirectUploads
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.multipart import note_path
from yukari.storage.bucket.spools import BucketSpools
from yukari.storage.disk.atomic import remove

ORPHANED_AFTER = 24 * 3600.0
"""Seconds after which an upload that gets no further part belongs to nobody."""


@define(eq=False, repr=False)
class Sweeper:
    """Knows this daemon's uploads, of spools and past the disk."""

    _bucket: Bucket
    _blobs: BucketBlobs
    _spools: BucketSpools
    _direct: BucketDirectUploads

    _log = Logger()

    async def sweep(self) -> int:
        """
        Abort uploads that nobody continues, and return how many were aborted.

        These are uploads whose spool is gone, and those that got no part for `ORPHANED_AFTER`: the
        daemon that began them is gone for good. `S3Error` if they cannot be listed; an upload that
        S3 does not abort is left for the next sweep.
        """
        count = 0
        for digest, note in list(self._direct.left.items()):
            if digest not in self._direct.left:
                continue  # it has begun anew
            if note.upload_id:
                if not await self._aborted(blob_key(digest), note.upload_id):
                    continue
                count += 1
            wanted = note.size and await self._blobs.look_for(digest) is None
            if digest in self._direct.left and wanted:
                self._direct.left[digest] = evolve(note, upload_id="")
            elif self._direct.left.pop(digest, None) is not None:
                await self._bucket.in_thread(remove, note_path(self._bucket.directory, digest))
        for found in await self._bucket.client.list_multipart_uploads("blobs/sha256:"):
            if not self._is_own(found) and await self._is_orphaned(found):
                count += await self._aborted(found.key, found.upload_id)
        return count

    def _is_own(self, found: UnfinishedUpload) -> bool:
        own = {upload.upload_id for upload in self._spools.uploads.values()}
        return found.upload_id in own | {way.upload_id for way in self._direct.running}

    async def _is_orphaned(self, upload: UnfinishedUpload) -> bool:
        oldest = time.time() - ORPHANED_AFTER
        if upload.initiated > oldest:
            return False
        try:
            parts = await self._bucket.client.list_parts(upload.key, upload.upload_id)
        except S3Error as error:
            self._log.warn("{key}: upload not looked at: {error}", key=upload.key, error=str(error))
            return False
        return all(part.modified <= oldest for part in parts or ())

    async def _aborted(self, key: str, upload_id: str) -> bool:
        try:
            await self._bucket.client.abort_multipart_upload(key, upload_id)
        except S3Error as error:
            self._log.warn("{key}: upload not aborted: {error}", key=key, error=str(error))
            return False
        self._log.info("{key}: an upload that nobody goes on with is aborted", key=key)
        return True

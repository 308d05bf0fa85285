"""
Blobs that go into S3 past the disk: their turns, and what an earlier process left of them.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore

from yukari.memory import Memory
from yukari.names import Digest, InvalidName, Repository
from yukari.sources.base import BlobSource
from yukari.storage.bucket.blobs import BucketBlobs
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.direct import MAX_UPLOADS, BucketUpload
from yukari.storage.bucket.multipart import SMALL, Note
from yukari.storage.capabilities import Unfinished


@define(eq=False, repr=False)
class BucketDirectUploads:
    """`DirectUploads`. Their notes are in the bucket's directory."""

    _bucket: Bucket
    _blobs: BucketBlobs
    _memory: Memory
    running: set[BucketUpload] = field(factory=set, init=False)
    """Those that run or wait for their turn."""
    left: dict[Digest, Note] = field(factory=dict, init=False)
    """Notes of uploads without a spool that an earlier process left."""
    large_slots: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(MAX_UPLOADS), init=False
    )
    _small_slots: DeferredSemaphore = field(
        factory=lambda: DeferredSemaphore(MAX_UPLOADS), init=False
    )
    """Turns of blobs that go in one piece, so that none waits hours for a large one."""

    def new(
        self, digest: Digest, size: int, repository: Repository, source: BlobSource
    ) -> BucketUpload:
        left = self.left.pop(digest, Note())
        return BucketUpload(
            self._bucket,
            digest,
            size,
            source,
            Note(
                self._blobs.media_type(digest, left.media_type),
                left.upload_id,
                repository=str(repository),
            ),
            self._small_slots if size < SMALL else self.large_slots,
            self._memory,
            self.running,
        )

    def unfinished(self) -> list[Unfinished]:
        found = []
        for digest, note in self.left.items():
            try:
                repository = Repository.parse(note.repository)
            except InvalidName:
                continue
            if note.size:
                found.append(Unfinished(digest, note.size, repository))
        return found

"""
Blobs that go into S3 past the disk: their turns, and what an earlier process left of them.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from yukari.memory import Memory
from yukari.names import Digest, InvalidName, Repository
from yukari.s3.client import S3Client
from yukari.sources.base import BlobSource
from yukari.storage.bucket.blobs import BucketBlobs
from yukari.storage.bucket.calls import Calls
from yukari.storage.bucket.direct import MAX_UPLOADS, BucketUpload
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.multipart import SMALL, Note, note_path
from yukari.storage.capabilities import Unfinished
from yukari.threads import InThread


@define(eq=False, repr=False)
class BucketDirectUploads:
    """`DirectUploads`. Notes are in ``directory``, and are made in ``through``."""

    _client: S3Client
    _blobs: BucketBlobs
    _directory: str
    _through: str
    _in_thread: InThread
    _calls: Calls
    _clock: IReactorTime
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
            self._client,
            blob_key(digest),
            digest,
            size,
            source,
            Note(
                self._blobs.media_type(digest, left.media_type),
                left.upload_id,
                repository=str(repository),
            ),
            note_path(self._directory, digest),
            self._through,
            self._in_thread,
            self._calls,
            self._clock,
            self._blobs.lease,
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

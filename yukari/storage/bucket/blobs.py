"""The whole blobs of a bucket: in S3, and some of them on the disk in front of it too."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Generic, Optional, TypeVar

from attrs import define, field

from yukari.descriptors import typed
from yukari.manifest import DOCKER_MANIFEST, AnyManifest, Manifest, stands_on
from yukari.names import Digest, InvalidName
from yukari.s3.errors import BeingRemoved, S3Error
from yukari.s3.pages import each_page
from yukari.s3.signing import Signing
from yukari.sources.base import KeptSource
from yukari.sources.pace import HostPace
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.listing import KEYS_A_PAGE
from yukari.storage.bucket.multipart import OCTETS
from yukari.storage.bucket.source import BucketBlob
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.files import FileBlob
from yukari.storage.ports import BlobEntry, BlobFile
from yukari.storage.readable import close_found
from yukari.tasks import all_of

MAX_FACTS = 100_000
"""Blobs of which the size is remembered."""
MAX_TYPES = 25_000
"""Blobs of which the media type is remembered, until they are uploaded."""

T = TypeVar("T")


@define(eq=False, repr=False)
class Known(Generic[T]):
    """
    One fact of each of ``most`` blobs, the oldest of which is forgotten first.

    By the bytes of its digest: they take little, and the garbage collector does not track them.
    """

    _most: int = MAX_FACTS
    _facts: dict[bytes, T] = field(factory=dict, init=False)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, Digest) and digest.raw in self._facts

    def get(self, digest: Digest) -> Optional[T]:
        return self._facts.get(digest.raw)

    def remember(self, digest: Digest, fact: T) -> None:
        self.remember_all([(digest.raw, fact)])

    def remember_all(self, facts: Iterable[tuple[bytes, T]]) -> None:
        """Remember facts, by the bytes of the digests."""
        known = self._facts
        for raw, fact in facts:
            known.pop(raw, None)
            known[raw] = fact
        if len(known) > self._most:
            # Many at once: to find the first key, a dictionary goes past all that were deleted.
            for raw in list(islice(known, len(known) - self._most * 9 // 10)):
                del known[raw]

    def forget(self, digest: Digest) -> None:
        """Forget a blob's fact; harmless if there is none."""
        self._facts.pop(digest.raw, None)


@define(eq=False, repr=False)
class BucketBlobs:
    """`BlobStore` and `RemoteBlobs`. ``seen`` signs the URLs that clients get."""

    _bucket: Bucket
    _tier: Tier
    _seen: Optional[Signing]
    _pace: HostPace
    sizes: Known[int] = field(factory=Known, init=False)
    """Sizes in bytes of blobs that the bucket has."""
    _media_types: Known[str] = field(factory=lambda: Known(MAX_TYPES), init=False)

    def learn(self, manifest: AnyManifest) -> None:
        """Remember the media types of a manifest's blobs, for their Content-Type in the bucket."""
        if isinstance(manifest, Manifest):
            self._media_types.remember_all(typed(manifest.blobs))
        else:
            for child in manifest.children:
                self._media_types.remember(child.digest, DOCKER_MANIFEST)

    def media_type(self, digest: Digest, default: str = OCTETS) -> str:
        """The media type that a manifest gives a blob, or ``default``."""
        return self._media_types.get(digest) or default

    def known_size(self, digest: Digest) -> Optional[int]:
        """The size of a blob in bytes, None if only S3 can tell it, or if it is doomed."""
        if self._bucket.lease.is_doomed(digest):
            return None
        size = self.sizes.get(digest)
        return self._tier.size(digest) if size is None else size

    async def adopt(self, manifest: AnyManifest) -> None:
        """
        Note which blobs of a manifest that was just put are not in S3, whatever was known of them.

        Another daemon may have removed them, or be about to. `BeingRemoved` if the manifest itself
        is among them; `S3Error`.
        """
        await self._bucket.lease.look()
        needs = stands_on(manifest)
        for digest in needs:
            if self._bucket.lease.is_doomed(digest):
                self.sizes.forget(digest)
        if self._bucket.lease.is_doomed(manifest.digest):
            raise BeingRemoved(blob_key(manifest.digest))
        await all_of(
            self._see_again(digest) for digest in needs if self.known_size(digest) is not None
        )

    async def _see_again(self, digest: Digest) -> None:
        if await self._bucket.client.head_object(blob_key(digest)) is None:
            self.sizes.forget(digest)
            await self._bucket.in_thread(self._tier.remove, digest)

    async def look_for(self, digest: Digest) -> Optional[int]:
        """
        Return the size of the object in S3; None if there is none or S3 does not answer, or if it
        is doomed.
        """
        if self._bucket.lease.is_doomed(digest):
            return None
        try:
            head = await self._bucket.contact.in_time(
                self._bucket.client.head_object(blob_key(digest))
            )
        except S3Error as error:
            self._bucket.contact.complain(error)
            return None
        self._bucket.contact.answered()
        if head is None:
            self.sizes.forget(digest)
            return None
        self.sizes.remember(digest, head.size)
        return head.size

    async def open(self, digest: Digest) -> Optional[BlobFile]:
        if self._tier.size(digest) is None:
            return None
        found: Optional[FileBlob] = await self._bucket.in_thread(
            self._tier.open, digest, undo=close_found
        )
        return found

    def source(self, digest: Digest, size: int) -> KeptSource:
        return BucketBlob(self._bucket, digest, size, self._pace, self.sizes, self.sizes.forget)

    async def presigned(self, digest: Digest) -> Optional[str]:
        """
        As `RemoteBlobs.presigned`.

        S3 is asked each time, because clients do not report a blob that they did not find.
        """
        if await self.look_for(digest) is None:
            return None
        try:
            return await self._bucket.client.presign_get(blob_key(digest), self._seen)
        except S3Error as error:
            self._bucket.contact.complain(error)
            return None

    async def page(self, after: Optional[Digest], most: int) -> list[BlobEntry]:
        page = await self._bucket.contact.heard(
            self._bucket.client.list_objects(
                "blobs/sha256:",
                after="" if after is None else blob_key(after),
                most=min(most, KEYS_A_PAGE),
            )
        )
        entries = []
        for row in page.objects:
            with suppress(InvalidName):
                digest = Digest.parse(row.key.removeprefix("blobs/"))
                entries.append(BlobEntry(digest, row.size, row.modified))
        return entries

    async def count(self) -> tuple[int, int]:
        """Return the number of blobs and the sum of their sizes in bytes; `S3Error`."""
        blobs = total = 0
        async for page in each_page(self._bucket.client, "blobs/sha256:", KEYS_A_PAGE):
            blobs += len(page.objects)
            total += sum(row.size for row in page.objects)
        return blobs, total

    async def delete(self, digest: Digest) -> None:
        self.sizes.forget(digest)
        await self._bucket.in_thread(self._tier.remove, digest)
        await self._bucket.client.delete_object(blob_key(digest))
        self.sizes.forget(digest)

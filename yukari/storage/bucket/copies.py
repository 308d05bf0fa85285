"""The copies of blobs in a bucket: its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from attrs import define

from yukari.names import Digest
from yukari.spans import Span
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key

STEP = 4 * 1024 * 1024
"""Bytes that one request reads to be hashed."""


@define(eq=False, repr=False)
class BucketCopy:
    """An `OpenCopy` of an object; ``gone`` is called once it is removed."""

    _bucket: Bucket
    _key: str
    size: int
    _etag: str
    _gone: Callable[[], None]

    async def hash(self, into: Any, span: Span) -> None:
        found = await self._bucket.calls.run(
            self._bucket.client.get_whole(self._key, len(span), span)
        )
        if found is None or found[0].etag != self._etag or len(found[1]) != len(span):
            raise OSError(f"{self._key} was replaced while it was read")
        await self._bucket.in_thread(into.update, found[1])

    async def set_aside(self) -> Optional[str]:
        removed = await self._bucket.calls.run(
            self._bucket.client.delete_exact(self._key, self._etag)
        )
        self._gone()
        return "" if removed else None

    def close(self) -> None:
        """Do nothing: between two requests nothing is open."""


@define(eq=False, repr=False)
class BucketCopies:
    """`Copies` in a bucket."""

    _bucket: Bucket
    _gone: Callable[[Digest], None]
    place: str = "bucket"
    step: int = STEP

    def among(self) -> None:
        pass

    async def open(self, digest: Digest) -> Optional[BucketCopy]:
        key = blob_key(digest)
        head = await self._bucket.calls.run(self._bucket.client.head_object(key))
        if head is None:
            return None
        return BucketCopy(self._bucket, key, head.size, head.etag, lambda: self._gone(digest))

    async def drop(self, digest: Digest) -> None:
        """Do nothing: a bucket's wrong copies are not kept."""

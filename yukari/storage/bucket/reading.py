"""
A bucket's manifests as they are read.

A large one arrives in its turn, and its bytes go into a file on this disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from attrs import define, frozen
from twisted.logger import Logger

from yukari.large import IsLarge, LargeManifests
from yukari.manifest import LARGE, MAX_BYTES, AnyManifest, InvalidManifest, parse_manifest
from yukari.names import Digest
from yukari.net.bodies import TooLarge
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key, checked_at_of, manifest_key
from yukari.storage.manifest_cache import Key, cost_of
from yukari.storage.ports import StoredManifest


@frozen
class InBucket:
    """An object, and the manifest in it; None if there is none, or no manifest in it."""

    etag: Optional[str] = None
    stored: Optional[StoredManifest] = None

    @property
    def cost(self) -> int:
        """About how many bytes it takes in memory."""
        return 512 if self.stored is None else cost_of(self.stored)


@define(eq=False, repr=False)
class BucketReader:
    """Reads the objects of manifests."""

    _bucket: Bucket
    _large: LargeManifests
    _learn: Callable[[AnyManifest], None]
    """Told of every manifest that is seen."""

    _log = Logger()

    async def read(self, key: Key) -> InBucket:
        """Return the object of a key; `S3Error`."""
        try:
            return await self.look(key, LARGE)
        except IsLarge:
            async with self._large.from_store:
                return await self.look(key, MAX_BYTES)

    async def look(self, key: Key, most: int) -> InBucket:
        """As `read`; `IsLarge` if it has more than ``most`` bytes."""
        name, reference, _ = key
        at = manifest_key(*key)
        try:
            got = await self._bucket.client.get_whole(at, most=most)
            if got is None and isinstance(reference, Digest):
                # Most blobs are no manifests, and many are larger than one can be.
                at = blob_key(reference)
                head = await self._bucket.client.head_object(at)
                if head is not None and head.size <= MAX_BYTES:
                    got = await self._bucket.client.get_whole(at, most=most)
        except TooLarge:
            if most < MAX_BYTES:
                raise IsLarge from None
            self._say(at, f"more than {MAX_BYTES} bytes")
            return InBucket()
        self._bucket.contact.answered()
        if got is None:
            return InBucket()
        head, body = got
        bodies = [body]
        del got, body
        try:
            found = await self._large.parsed(self._bucket.in_thread, bodies, parse_manifest)
        except InvalidManifest as error:
            self._say(at, str(error))
            return InBucket(head.etag)
        if isinstance(reference, Digest) and found.digest != reference:
            self._log.warn("{key} is another manifest", key=at)
            return InBucket(head.etag)
        self._learn(found)
        return InBucket(head.etag, StoredManifest(found, checked_at_of(head)))

    def _say(self, key: str, why: str) -> None:
        if not key.startswith("blobs/"):
            self._log.warn("{key} counts as not stored: {error}", key=key, error=why)

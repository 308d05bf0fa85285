"""The collector's view of a bucket."""

from __future__ import annotations

from typing import Optional

from attrs import define

from yukari.manifest import Variant
from yukari.names import Digest, Repository, Tag
from yukari.s3.errors import S3Error
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.manifests import BucketManifests
from yukari.storage.bucket.shared import BucketShared
from yukari.storage.disk.cache import Tier
from yukari.storage.disk.space import Room
from yukari.storage.inventory import Copies, FrontDisk


@define(eq=False, repr=False)
class BucketInventory:
    """`Inventory` of a bucket."""

    _bucket: Bucket
    _manifests: BucketManifests
    _tier: Tier
    _room: Room
    """The room that the disk leaves for spools."""
    _copies: tuple[Copies, ...]
    shared: BucketShared

    def copies(self) -> tuple[Copies, ...]:
        return self._copies

    async def remove_tag(self, name: Repository, tag: Tag) -> None:
        for variant in Variant:
            await self._bucket.calls.run(self._manifests.remove((name, tag, variant)))

    async def named_elsewhere(self) -> frozenset[Digest]:
        return frozenset()

    async def place(self) -> str:
        return ""

    def unread(self) -> Optional[OSError]:
        return None

    async def short_of(self, size: int) -> int:
        return 0  # What the disk has no room for goes straight into the bucket.

    async def free_space(self) -> Optional[int]:
        return None

    async def disk_size(self) -> int:
        raise OSError("a bucket has no size")

    async def front_disk(self) -> Optional[FrontDisk]:
        free: list[int] = [
            await self._bucket.in_thread(room.free) for room in (self._room, self._tier.budget)
        ]
        tier = self._tier
        return FrontDisk(self._room.path, tier.total, tier.most, max(0, min(free)))

    async def load(self, name: str) -> Optional[tuple[bytes, str]]:
        found = await self._bucket.calls.run(self._bucket.client.get_whole(f"yukari/{name}"))
        return None if found is None else (found[1], found[0].etag)

    async def save(self, name: str, body: bytes, version: Optional[str]) -> bool:
        try:
            put = self._bucket.client.put_object(
                f"yukari/{name}",
                body,
                "application/json",
                only_new=version is None,
                only_over=version,
                anyway=True,
            )
            return await self._bucket.calls.run(put) is not None
        except S3Error as error:
            if not error.unanswered:
                raise
            found = await self.load(name)  # It may have been done.
            return found is not None and found[0] == body

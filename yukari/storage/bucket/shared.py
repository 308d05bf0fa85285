"""
The objects by which the daemons of one bucket inform each other.

::

    yukari/sweep.json                   see `yukari.storage.bucket.lease`
    yukari/pulled/NAMESPACE/MODEL/TAG   empty: its LastModified is when the tag was pulled last
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from attrs import frozen

from yukari.names import Digest, InvalidName, Repository, Tag
from yukari.storage.bucket.bucket import Bucket
from yukari.storage.bucket.keys import blob_key
from yukari.storage.bucket.listing import KEYS_A_PAGE
from yukari.storage.bucket.roots import BucketRoots
from yukari.storage.shared import Pulled, Root, RootNeeds

_PULLED = "yukari/pulled/"


@frozen(eq=False, repr=False)
class BucketShared:
    """`SharedInventory` of a bucket."""

    _bucket: Bucket
    _roots: BucketRoots

    async def take(self) -> bool:
        return await self._bucket.calls.run(self._bucket.lease.take())

    async def doom(self, digests: Iterable[Digest]) -> None:
        await self._bucket.calls.run(self._bucket.lease.doom(digests))

    def check(self) -> None:
        self._bucket.lease.check()

    async def release(self) -> None:
        await self._bucket.calls.run(self._bucket.lease.release())

    async def roots(self, after: str) -> list[Root]:
        return await self._bucket.calls.run(self._roots.page(after))

    async def read(self, root: Root) -> Optional[RootNeeds]:
        return await self._bucket.calls.run(self._roots.read(root))

    async def remove_root(self, root: Root) -> None:
        await self._bucket.calls.run(self._bucket.client.delete_object(root.key))

    async def stored_at(self, digest: Digest) -> Optional[float]:
        head = await self._bucket.calls.run(self._bucket.client.head_object(blob_key(digest)))
        return None if head is None else head.modified

    # pulls

    async def note_pull(self, name: Repository, tag: Tag) -> float:
        await self._bucket.calls.run(
            self._bucket.client.put_object(_pulled_key(name, tag), b"", "application/octet-stream")
        )
        return await self.pulled_at(name, tag)

    async def forget_pulls(self, name: Repository, tag: Tag) -> None:
        await self._bucket.calls.run(self._bucket.client.delete_object(_pulled_key(name, tag)))

    async def pulls(self, after: Optional[Pulled]) -> list[Pulled]:
        behind = "" if after is None else _pulled_key(after.name, after.tag)
        page = await self._bucket.calls.run(
            self._bucket.client.list_objects(_PULLED, after=behind, most=KEYS_A_PAGE)
        )
        found = []
        for row in page.objects:
            try:
                name, _, tag = row.key.removeprefix(_PULLED).rpartition("/")
                found.append(Pulled(Repository.parse(name), Tag(tag), row.modified))
            except InvalidName:
                continue
        return found

    async def pulled_at(self, name: Repository, tag: Tag) -> float:
        head = await self._bucket.calls.run(self._bucket.client.head_object(_pulled_key(name, tag)))
        return 0.0 if head is None else head.modified


def _pulled_key(name: Repository, tag: Tag) -> str:
    return f"{_PULLED}{name}/{tag}"

"""
A bucket in memory: the client's methods, each done at once.

A test may have something else happen before a certain request, or the process die there.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5
from typing import Any, Optional

from attrs import define, field, frozen

from tests.storage.dying import Killed
from yukari.metrics import Metrics
from yukari.net.bodies import TooLarge
from yukari.s3.errors import S3Error
from yukari.s3.replies import Head, ListedObject, ListedPage


@frozen
class _Object:
    body: bytes
    etag: str
    modified: float
    content_type: str
    metadata: dict[str, str]


@define(eq=False)
class MemoryBucket:
    """The objects, for any number of clients; ``now`` is the server's time of day."""

    now: Callable[[], float]
    objects: dict[str, _Object] = field(factory=dict)
    conditional: bool = True
    """Whether it knows conditional puts."""


@define(eq=False, slots=False)
class MemoryS3:
    """One process's client; see `yukari.s3.client.S3Client`."""

    _held: MemoryBucket
    metrics: Metrics = field(factory=Metrics)
    requests: dict[str, int] = field(factory=dict)
    dies_in: Optional[int] = None
    """After so many changes of the bucket the process is dead."""
    before: Callable[[], None] = lambda: None
    """Called before each request but removals, which are not late by minutes."""
    bucket: str = "memory"
    endpoint: str = "http://memory"

    def describe(self) -> str:
        return "memory"

    def _asked(self, changes: bool = False, is_removal: bool = False) -> None:
        if self.dies_in is not None:
            if self.dies_in == 0:
                raise Killed("S3")
            self.dies_in -= changes
        if not is_removal:
            self.before()

    async def get_bucket(self) -> None:
        self._asked()

    async def list_objects(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: Optional[str] = None,
        most: int = 1000,
    ) -> ListedPage:
        self._asked()
        behind = max(after, token or "")
        keys = sorted(key for key in self._held.objects if key.startswith(prefix) and key > behind)
        rows = tuple(
            ListedObject(key, len(found.body), found.etag, found.modified)
            for key, found in ((key, self._held.objects[key]) for key in keys[:most])
        )
        return ListedPage(rows, keys[most - 1] if len(keys) > most else None)

    async def head_object(self, key: str) -> Optional[Head]:
        self._asked()
        return self._head(key)

    def _head(self, key: str) -> Optional[Head]:
        found = self._held.objects.get(key)
        if found is None:
            return None
        return Head(len(found.body), found.etag, found.modified, found.content_type, found.metadata)

    async def get_whole(
        self, key: str, limit: int = 0, *, most: Optional[int] = None
    ) -> Optional[tuple[Head, bytes]]:
        self._asked()
        head = self._head(key)
        if head is not None and most is not None and head.size > most:
            raise TooLarge(most)
        return None if head is None else (head, self._held.objects[key].body)

    async def put_object(
        self,
        key: str,
        body: bytes,
        content_type: str,
        *,
        metadata: Any = (),
        only_new: bool = False,
        only_over: Optional[str] = None,
        anyway: bool = False,
    ) -> Optional[str]:
        self._asked(changes=True)
        there = self._held.objects.get(key)
        if (only_new or only_over is not None) and (self._held.conditional or not anyway):
            if not self._held.conditional:
                raise S3Error("NotImplemented", 501, "no conditions here")
            if only_new and there is not None:
                return None
            if only_over is not None and (there is None or there.etag != only_over):
                return None
        etag = md5(body).hexdigest()
        self._held.objects[key] = _Object(
            body, etag, self._held.now(), content_type, dict(metadata)
        )
        return etag

    async def put_file(self, key: str, content_type: str, body: Callable[..., Any]) -> str:
        written: list[bytes] = []
        await body(lambda: None).startProducing(_Consumer(written.append))
        etag = await self.put_object(key, b"".join(written), content_type)
        assert etag is not None
        return etag

    async def delete_object(self, key: str) -> None:
        self._asked(changes=True, is_removal=True)
        self._held.objects.pop(key, None)

    async def list_multipart_uploads(self, prefix: str = "") -> list[Any]:
        return []


@define
class _Consumer:
    write: Callable[[bytes], None]

"""The copies of blobs in a `MemoryStore`."""

from __future__ import annotations

from typing import Any, Optional

from attrs import define

from yukari.names import Digest
from yukari.spans import Span


@define(eq=False, repr=False)
class MemoryCopy:
    """An `OpenCopy` of one of ``blobs``."""

    _blobs: dict[Digest, bytearray]
    _digest: Digest
    _body: bytearray

    @property
    def size(self) -> int:
        return len(self._body)

    async def hash(self, into: Any, span: Span) -> None:
        into.update(self._body[span.start : span.end])

    async def set_aside(self) -> Optional[str]:
        if self._blobs.get(self._digest) is not self._body:
            return None
        del self._blobs[self._digest]
        return ""

    def close(self) -> None:
        pass


@define(eq=False, repr=False)
class MemoryCopies:
    """`Copies` of ``blobs``."""

    _blobs: dict[Digest, bytearray]
    place: str = "disk"
    step: int = 1024

    def among(self) -> None:
        pass

    async def open(self, digest: Digest) -> Optional[MemoryCopy]:
        body = self._blobs.get(digest)
        return None if body is None else MemoryCopy(self._blobs, digest, body)

    async def drop(self, digest: Digest) -> None:
        pass

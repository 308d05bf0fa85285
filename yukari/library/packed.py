"""The blobs of a manifest that are gone through slowly, in a sixth of their memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from attrs import frozen

from yukari.manifest import Descriptor
from yukari.names import Digest

_SIZE = 32
"""Bytes of a digest."""


@frozen(eq=False)
class PackedBlobs:
    """Digests and sizes of blobs, in their order; the media types are dropped."""

    _digests: bytes
    _sizes: array[int]

    @classmethod
    def of(cls, blobs: Sequence[Descriptor]) -> PackedBlobs:
        """Pack the blobs of a manifest."""
        digests = bytes.fromhex("".join(blob.digest.hex for blob in blobs))
        return cls(digests, array("q", [blob.size for blob in blobs]))

    def __iter__(self) -> Iterator[Descriptor]:
        for at, size in enumerate(self._sizes):
            digest = self._digests[at * _SIZE : (at + 1) * _SIZE]
            yield Descriptor(Digest(digest.hex()), size, "application/octet-stream")

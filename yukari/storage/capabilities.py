"""The further abilities of some stores: blobs that are not on this disk, or go past it."""

from __future__ import annotations

from typing import Optional, Protocol, runtime_checkable

from attrs import frozen

from yukari.names import Digest, Repository
from yukari.sources.base import BlobSource, KeptSource
from yukari.storage.ports import DirectUpload


@runtime_checkable
class RemoteBlobs(Protocol):
    """The further methods of a `Store` whose blobs may not be on this disk."""

    def source(self, digest: Digest, size: int) -> KeptSource:
        """
        Return the source of a stored blob that `open_blob` does not find on this disk.

        That is a blob whose size `blob_size` knows, or that another daemon stores meanwhile.
        """

    async def presigned(self, digest: Digest) -> Optional[str]:
        """Return a URL at which anybody can get such a blob for hours; None if there is none."""


@frozen
class Unfinished:
    """A blob of ``size`` bytes on its way by a `DirectUpload` when the process ended."""

    digest: Digest
    size: int
    repository: Repository


@runtime_checkable
class DirectUploads(Protocol):
    """The further methods of a `Store` that can take blobs past this disk."""

    def direct_upload(
        self, digest: Digest, size: int, repository: Repository, source: BlobSource
    ) -> Optional[DirectUpload]:
        """Return the way of a blob for which `new_spool` raised `NoRoom`; None if there is none."""

    async def unfinished(self) -> list[Unfinished]:
        """
        Return the blobs of uploads by `direct_upload` that an earlier process did not finish.

        Each has to begin anew. To be called once, after `spools`.
        """

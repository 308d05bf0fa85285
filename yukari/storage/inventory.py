"""A store as the collector sees it; see `Inventory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Protocol

from attrs import frozen

from yukari.names import Digest, Repository, Tag
from yukari.spans import Span
from yukari.storage.shared import SharedInventory


class OpenCopy(Protocol):
    """One copy of a blob, opened for a check of whether its bytes are still right."""

    @property
    def size(self) -> int:
        """The copy's size in bytes."""

    async def hash(self, into: Any, span: Span) -> None:
        """Feed these bytes to a hash, and leave the system's cache of files as it is. OSError."""

    async def set_aside(self) -> Optional[str]:
        """
        Take the copy away from those who ask for the blob from now on, because it is wrong.

        Return the path where it is kept for people, "" if nowhere; None, with nothing done, if
        another copy is in its place by now. OSError.
        """

    def close(self) -> None:
        """Close it; harmless when repeated."""


class Copies(Protocol):
    """All copies in one place."""

    place: str
    """``disk`` or ``bucket``."""
    step: int
    """Bytes to be hashed in one call."""

    def among(self) -> Optional[Mapping[Digest, int]]:
        """
        Return the blobs that have a copy here, with their sizes; None if all stored blobs do.
        """

    async def open(self, digest: Digest) -> Optional[OpenCopy]:
        """Open a copy; None if there is none. OSError if it cannot be read."""

    async def drop(self, digest: Digest) -> None:
        """Remove the copy of a blob that was set aside; harmless if there is none. OSError."""


@frozen
class FrontDisk:
    """The use of a disk that is in front of a bucket, in bytes."""

    where: str
    kept: int
    """Of whole blobs, which the bucket has too: they give way."""
    bound: Optional[int]
    """The most that all on it may take; None for what MIN_FREE leaves."""
    free: int


class Inventory(Protocol):
    """
    What the collector sees, keeps and removes of a store.

    OSError if the store cannot be read or written.
    """

    @property
    def shared(self) -> Optional[SharedInventory]:
        """The further operations of a store that several daemons share; None for any other."""

    def copies(self) -> Sequence[Copies]:
        """Return the places that have copies of the stored blobs."""

    async def remove_tag(self, name: Repository, tag: Tag) -> None:
        """
        Remove both variants of a tag, durably; harmless if it is not stored.

        What it named stays reachable by its digest.
        """

    async def named_elsewhere(self) -> frozenset[Digest]:
        """
        Return the blobs on which models of other registries stand, which lie here too.

        OSError if a manifest of theirs cannot be read: then nothing is known of its blobs.
        """

    async def place(self) -> str:
        """
        Return a text that identifies the directories of manifests.

        It changes if, for example, another file system is mounted in their place.
        """

    def unread(self) -> Optional[OSError]:
        """
        Return why a manifest, or a directory of them, could not be read since the last call.

        None if everything that is there could be read. A manifest that could not counts as not
        stored, but its blobs must stay.
        """

    async def short_of(self, size: int) -> int:
        """Return how many bytes are lacking for a new spool of ``size``; 0 if it would fit."""

    async def free_space(self) -> Optional[int]:
        """Return how many more bytes may be stored; None if nothing bounds them."""

    async def disk_size(self) -> int:
        """Return the size in bytes of the disk that all is on; OSError if there is no such."""

    async def front_disk(self) -> Optional[FrontDisk]:
        """Return the use of the disk in front of a bucket; None for other stores."""

    # small documents beside the models

    async def load(self, name: str) -> Optional[tuple[bytes, str]]:
        """Return a document and its version; None if there is none."""

    async def save(self, name: str, body: bytes, version: Optional[str]) -> bool:
        """
        Put a document durably in the place of this version of it, or of none.

        Return False, with nothing done, if another version is there by now.
        """

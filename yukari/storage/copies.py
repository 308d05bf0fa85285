"""The copies of stored blobs in one place, for a check of whether their bytes are still right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Protocol

from yukari.names import Digest
from yukari.spans import Span


class OpenCopy(Protocol):
    """One copy, opened for reading."""

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

"""The copies of stored blobs in one place, as they are read to see whether they are still right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Protocol

from yukari.names import Digest
from yukari.spans import Span


class OpenCopy(Protocol):
    """One copy, opened for reading."""

    @property
    def size(self) -> int:
        """Bytes."""

    async def hash(self, into: Any, span: Span) -> None:
        """Feed these bytes to a hash, without driving others' out of memory. OSError."""

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
        Return the blobs that have a copy here, with their sizes; None if all that are stored have.
        """

    async def open(self, digest: Digest) -> Optional[OpenCopy]:
        """Open a copy; None if there is none. OSError if it cannot be read."""

    async def drop(self, digest: Digest) -> None:
        """Remove what was set aside of a blob; harmless if nothing was. OSError."""

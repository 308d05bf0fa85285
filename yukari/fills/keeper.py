"""The library, as a fill knows it."""

from __future__ import annotations

from typing import Optional, Protocol, TypeVar

from yukari.storage.ports import DirectUpload, NoRoom, Spool

Fill = TypeVar("Fill", contravariant=True)


class StoreFull(NoRoom):
    """As much is stored as may be: there is no other way into the store either."""


class FillKeeper(Protocol[Fill]):
    """The owner of the store and of all fills."""

    async def open_spool(self, fill: Fill) -> Spool:
        """Return the blob's spool, new or as an earlier process left it; `NoRoom`, OSError."""
        raise NotImplementedError

    async def discard_kept(self, fill: Fill) -> None:
        """Discard the bytes of a spool that was closed while the fill rested."""
        raise NotImplementedError

    async def publish(self, fill: Fill) -> None:
        """Store the blob of a verified spool; OSError leaves the spool as it was."""
        raise NotImplementedError

    async def direct_upload(self, fill: Fill) -> Optional[DirectUpload]:
        """Return how the blob can be stored without a spool; None if it cannot, or is stored."""
        raise NotImplementedError

    def ended(self, fill: Fill) -> None:
        """The fill is done or suspended; ``fill.error`` says why, if it failed."""
        raise NotImplementedError

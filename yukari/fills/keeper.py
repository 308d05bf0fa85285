"""What a fill asks of its surroundings."""

from __future__ import annotations

from typing import Optional, Protocol, TypeVar

from yukari.storage.ports import DirectUpload, Spool

Fill = TypeVar("Fill", contravariant=True)


class FillKeeper(Protocol[Fill]):
    """Whoever has the store and remembers the fills."""

    async def open_spool(self, fill: Fill) -> Spool:
        """The blob's spool, new or as an earlier process left it; `NoRoom`, OSError."""
        raise NotImplementedError

    async def publish(self, fill: Fill) -> None:
        """Make the verified spool the stored blob; OSError leaves it as it was."""
        raise NotImplementedError

    async def straight(self, fill: Fill) -> Optional[DirectUpload]:
        """How the blob can be stored without a spool; None if it cannot, or is stored."""
        raise NotImplementedError

    def ended(self, fill: Fill) -> None:
        """The fill is done or suspended; ``fill.error`` says why, if it failed."""
        raise NotImplementedError

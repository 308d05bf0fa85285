"""The library and the scheduler, as a download knows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Protocol, TypeVar

from yukari.fills.hangs import Hangs
from yukari.fills.retries import Fetched
from yukari.fills.turns import Turns
from yukari.fills.window import Window
from yukari.storage.ports import DirectUpload, NoRoom, Spool

Fill = TypeVar("Fill", contravariant=True)


class StoreFull(NoRoom):
    """As much is stored as may be: there is no other way into the store either."""


class FillKeeper(Protocol[Fill]):
    """The owner of the store and of all fills."""

    async def vacated(self, fill: Fill) -> None:
        """
        Return once no other fill of the blob is being stopped. If this one is, return at once: it
        then opens nothing.
        """
        raise NotImplementedError

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


class Scheduler(Protocol[Fill]):
    """The scheduler of the connections to upstream."""

    per_blob: int
    """How many requests one blob may have at once."""
    window: Window
    """The memory for blobs that no disk keeps."""
    turns: Turns
    """The order of the readers of all blobs."""
    hangs: Hangs
    """The models that come last."""
    is_closed: bool
    """Whether no request is begun any more."""

    @property
    def fills(self) -> Iterable[Fetched]:
        """All blobs that are open or wait to be."""

    def submit(self, fill: Fill) -> None:
        """A blob wants to be worked on."""

    def remove(self, fill: Fill, *, has_spool: bool = False) -> None:
        """A blob needs no connection any more, but with ``has_spool`` its spool."""

    def runnable(self, fill: Fill) -> None:
        """A blob may have bytes to fetch."""

    def readers_changed(self, fill: Fill) -> None:
        """A blob has readers, or has none any more."""

    def reader_waits(self, fill: Fill) -> None:
        """A reader needs a byte that is not here."""

    def share(self) -> int:
        """Received, unwritten bytes that one fill may hold before its connections pause."""

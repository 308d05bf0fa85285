"""
The events that the daemon counts.

Code that has something to count is given a `Metrics`, which ignores it; the daemon passes its
`yukari.daemon.prometheus.PrometheusMetrics`.
"""

from __future__ import annotations

from typing import Optional

RESULTS = ("hit", "stale", "fill", "miss", "relay", "redirect")
"""The origins of replies; docs/operating.rst explains each."""

STATES = ("queued", "filling", "publishing", "direct", "suspended")
"""The states of a fill; a fill that is done does not exist any more."""


EVICTED = ("unused", "superseded")
"""Why a version is evicted: nobody has pulled it for long, or a newer one has replaced it."""


class Replies:
    """Counts replies of one kind; this class ignores them."""

    def count(self, sent: int, first_byte: Optional[float]) -> None:
        """
        A reply has ended, well or not: ``sent`` bytes of body, the first ``first_byte`` seconds
        after its request.
        """


class Metrics:
    """The events; this class ignores them."""

    def replies(self, *, path: bytes, method: bytes, status: int, result: str) -> Replies:
        """Return what counts replies such as this one."""
        return Replies()

    def received(self, count: int) -> None:
        """So many bytes of a blob arrived from upstream, wanted or not."""

    def from_store(self, count: int) -> None:
        """So many bytes of a reply's body arrived from the bucket."""

    def to_store(self, count: int) -> None:
        """The bucket has answered a request with so many bytes of body."""

    def fill_began(self) -> None:
        """
        A fill began: for a blob that is wanted, or that was in progress when the daemon started.
        """

    def fill_ended(self, seconds: float, *, well: bool) -> None:
        """A fill ended after ``seconds``: its blob is stored, or it has failed for now."""

    def retried(self) -> None:
        """A request for a part of a blob failed and is repeated."""

    def mismatched(self) -> None:
        """A blob is complete and has the wrong digest."""

    def scrubbed(self, count: int) -> None:
        """So many bytes of a stored blob were read to see whether they are still right."""

    def damaged(self, place: str) -> None:
        """A stored blob's copy on the ``disk`` or in the ``bucket`` is wrong or unreadable."""

    def revalidated(self, result: str) -> None:
        """A stored manifest was checked: ``same``, ``replaced`` or ``failed``."""

    def evicted(self, reason: str, *, models: int = 0, freed: int = 0) -> None:
        """Versions were evicted, or bytes were freed by that; ``reason`` is of `EVICTED`."""

    def collected(self, blobs: int, freed: int) -> None:
        """A collection has ended, and removed so many blobs of so many bytes."""

    def not_collected(self) -> None:
        """A collection has failed."""

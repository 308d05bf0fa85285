"""
What the daemon counts.

Whatever has something to count is given a `Metrics`, which counts nothing; the daemon gives its
`yukari.daemon.prometheus.PrometheusMetrics`.
"""

from __future__ import annotations

from typing import Optional

RESULTS = ("hit", "stale", "fill", "miss", "relay", "redirect")
STATES = ("queued", "filling", "publishing", "direct", "suspended")
"""Of a fill; those that are done are no more."""


class Metrics:
    """What there is to count; this one lets it pass."""

    def replied(
        self,
        *,
        path: bytes,
        method: bytes,
        status: int,
        result: str,
        sent: int,
        first_byte: Optional[float],
    ) -> None:
        """
        A reply has ended, well or not: ``sent`` bytes of body, the first ``first_byte`` seconds
        after its request.
        """

    def received(self, count: int) -> None:
        """Bytes of a blob came from upstream, wanted or not."""

    def from_store(self, count: int) -> None:
        """Bytes of a reply's body came from the bucket."""

    def to_store(self, count: int) -> None:
        """A request with so many bytes of body was answered by the bucket."""

    def fill_began(self) -> None:
        """A blob is wanted that is not here, or was on its way when the daemon started."""

    def fill_ended(self, seconds: float, *, well: bool) -> None:
        """It is stored, so long after it began; or it has failed for now."""

    def retried(self) -> None:
        """A request for a part of a blob failed and is made again."""

    def mismatched(self) -> None:
        """A blob came whole and has another digest than it should."""

    def revalidated(self, result: str) -> None:
        """A stored manifest was checked: ``same``, ``replaced`` or ``failed``."""

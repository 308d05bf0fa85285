"""The measurements of a registry, for the metrics."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

from attrs import frozen

from yukari.sources.host_facts import HostFacts


@frozen(eq=False, repr=False)
class Watched:
    """The measurements of a registry."""

    is_down: Callable[[], bool]
    allowed: Callable[[], int]
    """The number of requests that its most reluctant host gets at once."""
    hosts: Callable[[], tuple[HostFacts, ...]]
    """The hosts that its blobs come from."""

    def connections(self) -> int:
        """Return how many requests for its blobs are under way."""
        return sum(host.connections for host in self.hosts())

    def round_trip(self, *, present: bool) -> float:
        """Return the seconds to the busiest host, now or without a queue; NaN if unknown."""
        busiest = self._busiest()
        if busiest is None:
            return nan
        found = busiest.round_trip if present else busiest.base_round_trip
        return nan if found is None else found

    def is_bound_by(self, what: str) -> bool:
        """Whether that bounds how fast blobs come from the host that brings the most."""
        busiest = self._busiest()
        return busiest is not None and busiest.bound_by == what

    def _busiest(self) -> HostFacts | None:
        """Return the host that brings the most; None if there is none."""
        return max(self.hosts(), key=lambda host: host.rate, default=None)

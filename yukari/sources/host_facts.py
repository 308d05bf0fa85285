"""What is known of the way to a host, for people and programs."""

from __future__ import annotations

from typing import Optional

from attrs import frozen

THE_LINE = "the line"
EACH_CONNECTION = "each connection"
THE_HOSTS_LIMIT = "the host's limit"
THE_RATE = "UPSTREAM_RATE"
BOUNDS = (THE_LINE, EACH_CONNECTION, THE_HOSTS_LIMIT, THE_RATE)
"""What can bound how fast blobs come from a host."""


@frozen
class HostFacts:
    """A host that blobs come from, at one moment."""

    host: str
    """Its name or address, and its port if that is not the scheme's."""
    connections: int
    """Requests for blobs under way."""
    rate: float
    """Bytes a second, of late; 0 if none come."""
    base_round_trip: Optional[float]
    """Seconds without a queue; None if that is not known."""
    round_trip: Optional[float]
    """The same now; None if none come."""
    bound_by: Optional[str]
    """One of `BOUNDS`; None if that is not known, or none come."""

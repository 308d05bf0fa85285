"""How far a fill is, for people."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from yukari.names import Digest, ModelName


@frozen
class FillStatus:
    """A fill at one moment; rates are bytes a second."""

    digest: Digest
    model: ModelName
    state: str
    size: int
    covered: int
    rate: float
    seconds: float
    readers: int
    connections: int
    retries: int
    upstream_bytes: int

    def as_json(self) -> dict[str, Any]:
        """For the log and for ``/fills``: bytes, seconds, MB/s (10**6)."""
        left = self.size - self.covered
        return {
            "digest": str(self.digest),
            "model": str(self.model),
            "state": self.state,
            "size": self.size,
            "covered": self.covered,
            "percent": round(100 * self.covered / self.size, 1) if self.size else 100.0,
            "rate": round(self.rate / 1e6, 2),
            "seconds": round(self.seconds, 3),
            "seconds_left": round(left / self.rate) if self.rate > 0 else None,
            "readers": self.readers,
            "connections": self.connections,
            "retries": self.retries,
            "upstream_bytes": self.upstream_bytes,
        }

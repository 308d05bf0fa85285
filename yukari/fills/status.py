"""The progress of a fill, for people."""

from __future__ import annotations

from typing import Any, Optional

from attrs import frozen

from yukari.fills.download import Download
from yukari.fills.progress import Progress
from yukari.names import Digest, Repository
from yukari.storage.ports import DirectUpload

STATUS = "{digest}: {percent} %, {rate} MB/s, {seconds_left} s to go"
STORED = "{digest}: stored, {size} bytes in {seconds} s, {rate} MB/s"


@frozen
class FillStatus:
    """A fill at one moment; rates are bytes a second."""

    digest: Digest
    model: Repository
    state: str
    size: int
    covered: int
    rate: float
    seconds: float
    readers: int
    connections: int
    retries: int
    upstream_bytes: int

    @classmethod
    def of(
        cls,
        download: Download,
        model: Repository,
        state: str,
        progress: Progress,
        upload: Optional[DirectUpload],
        now: float,
        done: bool,
    ) -> FillStatus:
        """Return the progress of a fill in ``state``; overall if ``done``, else of late."""
        received = download.upstream_bytes
        covered = download.coverage.plan.covered.total or download.kept
        if upload is not None:
            received, covered = received + upload.came, upload.sent
        return cls(
            download.digest,
            model,
            state,
            download.size,
            covered,
            progress.rate(now, received, of_late=not done),
            now - progress.began_at,
            len(download.coverage.readers),
            download.peak_fetches if done else len(download.fetches),
            download.retries,
            received,
        )

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

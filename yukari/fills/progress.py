"""How far a fill is, and how fast: of late and from its beginning, for the log and for people."""

from __future__ import annotations

from collections import deque
from typing import Any, Optional

from attrs import define, field

from yukari.fills.download import Download
from yukari.names import Repository
from yukari.storage.ports import DirectUpload

WINDOW = 10.0
"""Seconds that "of late" goes back."""
TOLD = 10.0
"""Seconds between two lines in the log."""
STATUS = "{digest}: {percent} %, {rate} MB/s, {seconds_left} s to go"
STORED = "{digest}: stored, {size} bytes in {seconds} s, {rate} MB/s"


@define(eq=False, repr=False)
class Progress:
    """The progress of what began at ``began_at``; times are seconds of the caller's clock."""

    began_at: float
    _told_at: float = field(init=False)
    _samples: deque[tuple[float, int]] = field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self._told_at = self.began_at

    def note(self, now: float, count: int) -> None:
        """Note how many bytes have arrived by ``now``."""
        self._samples.append((now, count))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()

    def is_to_be_told(self, now: float) -> bool:
        """Whether a line in the log is due; it is taken to be written then."""
        due = now - self._told_at >= TOLD
        if due:
            self._told_at = now
        return due

    def rate(self, now: float, count: int, *, of_late: bool) -> float:
        """Return bytes a second if ``count`` have come by ``now``: of late, or from the start."""
        then, before = self.began_at, 0
        if of_late and len(self._samples) > 1:
            then, before = self._samples[0]
        return (count - before) / (now - then) if now > then else 0.0


def facts_of(
    download: Download,
    model: Repository,
    state: str,
    progress: Progress,
    upload: Optional[DirectUpload],
    now: float,
    *,
    done: bool,
) -> dict[str, Any]:
    """
    Return the progress of a fill, for the log and for ``/fills``: bytes, seconds, MB/s (10**6).

    The rate is that from its start if it is ``done``, else that of late.
    """
    size, received = download.size, download.upstream_bytes
    covered = download.coverage.plan.covered.total or download.kept
    if upload is not None:
        received, covered = received + upload.came, upload.sent
    rate = progress.rate(now, received, of_late=not done)
    return {
        "digest": str(download.digest),
        "model": str(model),
        "state": state,
        "size": size,
        "covered": covered,
        "percent": round(100 * covered / size, 1) if size else 100.0,
        "rate": round(rate / 1e6, 2),
        "seconds": round(now - progress.began_at, 3),
        "seconds_left": round((size - covered) / rate) if rate > 0 else None,
        "readers": len(download.coverage.readers),
        "connections": download.peak_fetches if done else len(download.fetches),
        "retries": download.retries,
        "upstream_bytes": received,
    }

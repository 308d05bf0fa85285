"""The progress of a fill, for people."""

from __future__ import annotations

from typing import Any, Optional

from yukari.fills.download import Download
from yukari.fills.progress import Progress
from yukari.names import Repository
from yukari.storage.ports import DirectUpload

STATUS = "{digest}: {percent} %, {rate} MB/s, {seconds_left} s to go"
STORED = "{digest}: stored, {size} bytes in {seconds} s, {rate} MB/s"


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

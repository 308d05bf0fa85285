"""Blobs that are not in the system's memory: does one disk keep everybody waiting?"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.hits import waits_beside
from bench.models import many_models, write_blob
from bench.scale import MB, Scale
from bench.tables import Table, quantile


def _forgotten(path: Path) -> None:
    """The system keeps none of it in memory."""
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(scale: Scale) -> Iterator[Table]:
    """Manifest hits while readers take a blob from the disk, then the same blob from memory."""
    table = Table(
        "disk",
        "Manifest hits while 8 readers take a blob, ms",
        ["the blob is", "MB/s", "hit p50", "p99", "max", "turns > 20 ms", "longest"],
    )
    size = scale.of(1000 * MB, 50 * MB)
    place = Path(tempfile.mkdtemp(prefix="yukari-bench-"))
    try:
        store = place / "store"
        (name,) = many_models(store, "127.0.0.1:9", 1)
        blob = write_blob(store / "blobs", size)
        for where in ("on the disk", "in memory"):
            if where == "on the disk":
                _forgotten(store / "blobs" / blob.file_name)
            flags = ("http://127.0.0.1:9", "--offline", *peers.WATCHED)
            with peers.yukari(place, *flags, store=store) as peer:
                assert peer.process is not None
                time.sleep(1.2)
                started = peer.process.log.stat().st_size
                waits, rate = waits_beside(peer, name, blob, "--readers", "8", "--split")
                turns = peers.long_turns(peer, started)
            table.add(
                *(where, rate / MB),
                *(1000 * quantile(waits, part) for part in (0.5, 0.99, 1.0)),
                *(turns.count, turns.longest),
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    yield table

"""Starting up, and a look for what is past its lifetime, with a hundred thousand models stored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.models import many_models
from bench.scale import MB, Scale, workplace
from bench.tables import Table, median

HOST = "127.0.0.1:9"


def _start(place: Path, store: Path, *flags: str) -> tuple[float, float, float, float]:
    """Seconds until it answers, until the look is over, CPU seconds by then, MB resident."""
    began = time.monotonic()
    with peers.yukari(place, f"http://{HOST}", *flags, store=store) as peer:
        peers.get(f"{peer.url}/healthz")
        answered = time.monotonic() - began
        assert peer.process is not None
        seen = peer.process.cpu()
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            time.sleep(0.05)
            now = peer.process.cpu()
            if now > seen + 0.011:
                quiet_since = time.monotonic()
            seen = now
        return answered, quiet_since - began, peer.process.cpu(), peer.process.resident() / MB


def run(scale: Scale) -> Iterator[Table]:
    """With nothing due: a look is a listing of everything."""
    table = Table(
        "startup",
        "Start-up, and the first look at every stored manifest (none is due)",
        ["stored", "answers after s", "look over after s", "CPU s by then", "resident MB"],
    )
    for count in scale.of([1, 100, 10_000, 100_000], [100]):
        with workplace() as place:
            many_models(place / "store", HOST, count)
            found = [_start(place, place / "store") for _ in range(scale.of(3, 1))]
            table.add(count, *(median(column) for column in zip(*found)))
    yield table

"""
Starting up, and a look for what is past its lifetime, with a hundred thousand models stored; and
manifest hits in the seconds after a start, when the store is looked through.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench import peers
from bench.manifests import HOST, HOT, rate, script_of
from bench.models import many_models
from bench.peers import Peer
from bench.scale import MB, Scale, workplace
from bench.tables import Table, median, ratio


def _until_quiet(peer: Peer) -> float:
    """Return when a peer has used no CPU for half a second; the time when that began."""
    assert peer.process is not None
    seen, since = peer.process.cpu(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        now = peer.process.cpu()
        if now > seen + 0.011:
            since = time.monotonic()
        seen = now
    return since


def _start(place: Path, store: Path, *flags: str) -> tuple[float, float, float, float]:
    """Seconds until it answers, until the look is over, CPU seconds by then, MB resident."""
    began = time.monotonic()
    with peers.yukari(place, f"http://{HOST}", *flags, store=store) as peer:
        peers.get(f"{peer.url}/healthz")
        answered = time.monotonic() - began
        assert peer.process is not None
        quiet_since = _until_quiet(peer)
        return answered, quiet_since - began, peer.process.cpu(), peer.process.resident() / MB


def run(scale: Scale) -> Iterator[Table]:
    """With nothing due: a look is a listing of everything."""
    yield _starts(scale)
    yield _rates(scale)


def _starts(scale: Scale) -> Table:
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
    return table


def _rates(scale: Scale) -> Table:
    """Hits of hot manifests while the store is looked through, with the catalog and without."""
    count, seconds = scale.of(20_000, 100), scale.of(5.0, 1.0)
    table = Table(
        "first seconds",
        f"Manifest hits in the first {seconds:.0f} s after a start, and once it is settled",
        ["stored", "catalog", "hits/s at first", "settled", "÷ settled", "settled after s"],
    )
    if not peers.WRK:
        table.note("wrk is not installed")
        return table
    with workplace() as place:
        store = place / "store"
        names = many_models(store, HOST, count)
        paths = ["/v2/{}/manifests/{}".format(*name.split(":")) for name in names[:HOT]]
        script = script_of(place, paths)
        for catalog in scale.of(("to be made", "there"), ("to be made",)):
            firsts, settled, after = [], [], []
            for _ in range(scale.of(3, 1)):
                for file in (store / "yukari").glob("catalog*"):
                    if catalog == "to be made":
                        file.unlink()
                began = time.monotonic()
                with peers.yukari(place, f"http://{HOST}", store=store) as peer:
                    firsts.append(rate(peer, script, seconds, []))
                    after.append(_until_quiet(peer) - began)
                    settled.append(rate(peer, script, seconds, []))
            rates = median(firsts), median(settled), ratio(firsts, settled)
            table.add(count, catalog, *rates, median(after))
    return table

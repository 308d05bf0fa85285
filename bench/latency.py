"""
What a client waits while others keep the daemon busy: a manifest hit, and a blob's first byte.

Around it one fill comes in, a look goes through many manifests and checks
those that are due, and readers take a stored blob. As fast as the machine
allows the fill and the readers leave no core idle: then what is waited for is
a core. Therefore a second row holds both to a rate that leaves some.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attrs import frozen

from bench import peers
from bench.models import many_models, sparse_blob, write_blob
from bench.peers import Peer
from bench.processes import CHECKOUT, environment
from bench.readers import Reader
from bench.scale import GB, MB, Scale, workplace
from bench.tables import Table, quantile

MODEL = "library/m"
GONE = 30 * 24 * 3600.0
"""Seconds since the last check of manifests that are due."""


@frozen
class Load:
    """What goes on; ``pause`` is how long each reader rests after 256 KiB, in seconds."""

    name: str
    fill: bool = False
    look: bool = False
    readers: int = 0
    pause: float = 0.0


def _take(url: str, readers: int, pause: float) -> None:
    """A process of its own: ``readers`` read the blob again and again until it is ended."""
    import selectors

    chosen = selectors.DefaultSelector()
    for _ in range(readers):
        reader = Reader(url)
        left = [reader.ask(0, 1 << 40)[0], 0.0]
        reader.socket.setblocking(False)
        chosen.register(reader.socket, selectors.EVENT_READ, (reader, left))
    buffer = memoryview(bytearray(256 * 1024))
    while True:
        now = time.monotonic()
        for key, _ in chosen.select(1.0):
            reader, left = key.data
            if left[1] > now:
                continue
            left[0] -= reader.socket.recv_into(buffer)
            left[1] = now + pause
            if left[0] <= 0:
                reader.socket.setblocking(True)
                left[0] = reader.ask(0, 1 << 40)[0]
                reader.socket.setblocking(False)
        if pause:
            time.sleep(pause / 10)


@contextmanager
def _readers(url: str, load: Load) -> Iterator[None]:
    if not load.readers:
        yield
        return
    code = f"from bench.latency import _take; _take({url!r}, {load.readers}, {load.pause})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, env=environment())
    try:
        time.sleep(1.0)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def asked(peer: Peer, hit: str, blob: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of manifest hits and of first bytes (a new connection each), one after the other."""
    hits, firsts = [], []
    reader = Reader(hit)
    ends = time.monotonic() + seconds
    at = 0
    while time.monotonic() < ends:
        began = time.monotonic()
        reader.read()
        hits.append(time.monotonic() - began)
        began = time.monotonic()
        first = Reader(blob)
        start = at % 50 * 1000
        at += 1
        first.ask(start, start + 1000)
        firsts.append(time.monotonic() - began)
        first.socket.close()
        time.sleep(0.002)
    return hits, firsts


def run(scale: Scale) -> Iterator[Table]:
    """Quiet, then each load by itself, then all of them."""
    table = Table(
        "latency",
        "What is waited for under load, ms",
        [
            "load",
            "hit p50",
            "p99",
            "max",
            "first byte p50",
            "p99",
            "max",
            "turns > 20 ms",
            "longest",
            "by CPU",
            "longest",
        ],
    )
    if peers.nginx_missing():
        table.note(str(peers.nginx_missing()))
        yield table
        return
    size = scale.of(3 * GB, 100 * MB, 10 * GB)
    count = scale.of(20_000, 50)
    readers = scale.of(100, 5)
    loads = [
        Load("none"),
        Load("fill", fill=True),
        Load("look", look=True),
        Load(f"{readers} readers, all they can", readers=readers),
        Load(f"fill, look, {readers} readers of 1 MB/s", True, True, readers, 0.25),
        Load(f"fill, look, {readers} readers, all they can", True, True, readers),
    ]
    for load in loads if not scale.quick else loads[-1:]:
        with workplace(size) as place, ExitStack() as stack:
            fresh = sparse_blob(place / "blobs", size)
            config = write_blob(place / "blobs", 100)
            upstream = stack.enter_context(peers.nginx_upstream(place, {MODEL: [fresh, config]}))
            store = place / "store"
            names = many_models(store, upstream.address, count, GONE if load.look else 0.0)
            hot = many_models(store, upstream.address, 1)[0] if load.look else names[0]
            stored = write_blob(store / "blobs", 50 * MB)
            flags = ["--manifest-lifetime=1h", "--invalidator-period=3s"] if load.look else []
            peer = stack.enter_context(
                peers.yukari(place, upstream.url, *peers.WATCHED, *flags, store=store)
            )
            blob = f"{peer.url}/v2/{MODEL}/blobs/{stored.digest}"
            hit = "{}/v2/{}/manifests/{}".format(peer.url, *hot.split(":"))
            time.sleep(scale.of(1.5, 1.2))
            assert peer.process is not None
            started = peer.process.log.stat().st_size
            with _readers(blob, load):
                if load.fill:
                    peers.get(f"{peer.url}/v2/{MODEL}/manifests/latest")
                hits, firsts = asked(peer, hit, blob, scale.of(8.0, 1.0))
            turns = peers.long_turns(peer, started)
            table.add(
                load.name,
                *(1000 * quantile(hits, part) for part in (0.5, 0.99, 1.0)),
                *(1000 * quantile(firsts, part) for part in (0.5, 0.99, 1.0)),
                *(turns.count, turns.longest, turns.count_at_work, turns.longest_at_work),
            )
    yield table
